"""Fixtures shared by the suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

# Before anything of occlift is imported.
jaxtyping.install_import_hook("occlift", "shape_checks.check_arrays")

REPOSITORY = Path(__file__).resolve().parents[1]

# The same examples in every run, few enough for a few seconds in all; the first example of a kernel compiles it.
settings.register_profile("laws", derandomize=True, max_examples=25, deadline=None, database=None)
settings.load_profile("laws")


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indices of read-only data sets go to a cache folder; tests must not touch the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """For tests of what a user, who has no such checks, is told about arrays of a wrong shape or type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def small_town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of two scenes with four key frames each, images of 48×88 and their maps; not to be changed."""
    from occlift.town.config import TownConfig
    from occlift.town.write import write_town

    root = tmp_path_factory.mktemp("town")
    write_town(root, TownConfig(scenes=2, frames=4, seed=5, image_height=48, image_width=88, maps=True))
    return root


@pytest.fixture(scope="session")
def town_with_sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two key frames of `small_town`'s scenes, as a town of its own with camera sweeps; not to be changed."""
    from occlift.town.config import TownConfig
    from occlift.town.write import write_town

    root = tmp_path_factory.mktemp("sweeps")
    write_town(root, TownConfig(scenes=2, frames=2, seed=5, image_height=48, image_width=88, maps=True, sweeps=True))
    return root


@pytest.fixture(scope="session")
def real_frame() -> Path:
    """The root of the data set with one real nuScenes key frame; it may not be redistributed, so it may be missing."""
    root = Path(os.environ.get("OCCLIFT_REAL_FRAME", REPOSITORY.parent / "shared/real/nuscenes-one-frame"))
    if not (root / "v1.0-mini/sample.json").exists():
        pytest.skip(f"no real nuScenes key frame at {root}; set OCCLIFT_REAL_FRAME to a folder that holds v1.0-mini/")
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real recordings of several data sets; they may not be redistributed, so it may be missing."""
    root = Path(os.environ.get("OCCLIFT_REAL_DATA", REPOSITORY.parent / "shared/real"))
    if not (root / "kitti-sequence").exists():
        pytest.skip(f"no real data at {root}; set OCCLIFT_REAL_DATA to a folder that holds kitti-sequence/ and others")
    return root


@pytest.fixture(scope="session")
def small_disk() -> list[str]:
    """The beginning of a command line that runs the rest of it with a disk of 600 kB at /mnt."""
    if shutil.which("unshare"):
        for rights in ("-m", "-rm"):
            mount = "mount -t tmpfs -o size=600k tmpfs /mnt"
            if subprocess.run(["unshare", rights, "sh", "-c", mount], capture_output=True, check=False).returncode == 0:
                return ["unshare", rights, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    pytest.skip("this machine lets nobody mount a small disk (`unshare -rm`)")
