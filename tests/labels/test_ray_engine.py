"""Labels by Ray actors: the same bytes as in this process, whoever dies."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from label_runs import QUICK, contents, labels_in, one_worker_killed

from occlift.datasets.nuscenes.dataset import NuScenes
from occlift.errors import ConfigError, OccliftError
from occlift.labels.generate import generate_labels
from occlift.labels.ray_engine import ray_engine

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'occlift[ray]'")


@pytest.fixture(scope="module")
def whole(small_town: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Labels that were made in this process."""
    out = tmp_path_factory.mktemp("whole")
    generate_labels(NuScenes.open(small_town), out, QUICK)
    return contents(out)


@pytest.fixture(scope="module")
def cluster(whole: dict[str, bytes]) -> Iterator[None]:
    """A cluster that the caller has started, for engines that should leave it running."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    yield
    ray.shutdown()


def test_a_cluster_of_two_workers_makes_the_same_bytes(
    small_town: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Relative paths hold where the run stands, not where its workers do.
    monkeypatch.chdir(small_town.parent)
    data, out = NuScenes.open(Path(small_town.name)), Path(tmp_path.name) / "labels"
    run = generate_labels(data, out, QUICK, engine=ray_engine(workers=2))
    assert (run.done, run.failed) == (8, {})
    assert not ray.is_initialized()
    assert contents(tmp_path / "labels") == whole


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_dies_is_replaced_and_its_scene_tried_again(
    small_town: Path, tmp_path: Path, whole: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with one_worker_killed(tmp_path) as killed:
        run = generate_labels(NuScenes.open(small_town), tmp_path, QUICK, engine=ray_engine(workers=2))
    assert len(killed) == 1
    assert run.done == 8
    assert contents(tmp_path) == whole
    (message,) = [message for message in caplog.messages if message.startswith("a worker was lost")]
    assert message.startswith("a worker was lost at town-0005-000")
    assert ray.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_a_scene_that_kills_its_actors_is_named_and_the_others_are_made(
    small_town: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A folder stands where a note should be written: an error that nobody foresaw, in an actor that still lives."""
    data = NuScenes.open(small_town)
    scene, other = data.scenes()
    generate_labels(data, tmp_path, QUICK, scenes=[])  # or the folder would hold something else
    in_the_way = tmp_path / scene / data.key_frame_tokens(scene)[1] / "incomplete.json"
    (in_the_way / "full").mkdir(parents=True)
    with pytest.raises(OccliftError, match=rf"workers that made {scene} died 2 times in a row"):
        generate_labels(data, tmp_path, QUICK, engine=ray_engine(workers=1, retries=1))
    assert {path.parent.name for path in labels_in(tmp_path)} >= set(data.key_frame_tokens(other))
    (in_the_way / "full").rmdir()
    in_the_way.rmdir()
    assert not generate_labels(data, tmp_path, QUICK, engine=ray_engine(workers=1)).failed
    assert contents(tmp_path) == whole


@pytest.mark.usefixtures("cluster")
def test_what_the_user_must_mend_is_said_with_the_machine(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set that this machine has opened, and the others cannot see."""
    data = NuScenes.open(small_town)
    monkeypatch.setattr(data, "root", tmp_path / "elsewhere")
    with pytest.raises(OccliftError, match=r"on [\w.-]+: .*elsewhere/v1.0-town: no such folder"):
        generate_labels(data, tmp_path / "labels", QUICK, engine=ray_engine(workers=1))


@pytest.mark.usefixtures("cluster")
def test_options_of_teachers_may_be_relative_paths(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = NuScenes.open(small_town)
    generate_labels(data, tmp_path / "here", QUICK, scenes=data.scenes()[:1], keep_maps=tmp_path / "maps")
    # The cluster was started elsewhere.
    monkeypatch.chdir(tmp_path)
    config = replace(QUICK, depth="files:maps/depth")
    generate_labels(data, tmp_path / "there", config, scenes=data.scenes()[:1], engine=ray_engine(workers=1))
    assert len(labels_in(tmp_path / "there")) == 4
    for path in labels_in(tmp_path / "there"):
        assert path.read_bytes() == (tmp_path / "here" / path.relative_to(tmp_path / "there")).read_bytes()


def test_what_cannot_work_is_said_before_anything_starts(
    small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in ({"workers": 0}, {"workers": 1, "gpus_per_worker": 1.5}, {"workers": 1, "gpus_per_worker": -1.0}):
        with pytest.raises(ConfigError, match=r"workers is 0|gpus_per_worker is"):
            ray_engine(**settings)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs ray, which cannot be imported .*: pip install 'occlift\[ray\]'"):
        ray_engine(workers=1)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_is_gone_is_said_at_once(
    address: str, small_town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, Ray logged its attempts for minutes."""
    ray.shutdown()
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        address = address.format(port=gone.getsockname()[1])
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = time.monotonic()
    with pytest.raises(ConfigError, match=rf"there is no Ray cluster at {address}: .* does not answer .* RAY_ADDRESS"):
        generate_labels(NuScenes.open(small_town), tmp_path, QUICK, engine=ray_engine(workers=1))
    assert time.monotonic() - before < 20


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["another protocol", "hangs up"])
def test_a_port_of_something_else_is_said_at_once(answer: bytes, small_town: Path, tmp_path: Path) -> None:
    ray.shutdown()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve)
        server.start()
        address = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"no Ray cluster at {address}: .* does not speak Ray's protocol"):
            generate_labels(NuScenes.open(small_town), tmp_path, QUICK, engine=ray_engine(address, workers=1))
        server.join()


def test_gpus_and_clusters_that_are_not_there(small_town: Path, tmp_path: Path) -> None:
    # The last test of this module: the cluster of the others goes.
    ray.shutdown()
    with pytest.raises(ConfigError, match=r"2 workers with 999 GPUs each need 1998, but this machine has \d"):
        generate_labels(
            NuScenes.open(small_town), tmp_path, QUICK, engine=ray_engine("local", workers=2, gpus_per_worker=999)
        )
    with pytest.raises(ConfigError, match="there is no Ray cluster at auto"):
        generate_labels(NuScenes.open(small_town), tmp_path, QUICK, engine=ray_engine("auto", workers=1))
    assert not ray.is_initialized()
