"""Labels by many machines, with Ray (https://docs.ray.io): an actor per worker, which holds its teachers.

All machines must see the data set, the folder of labels and the teachers' weights under the same paths, and have this
version of occlift installed. Labels are the same bytes as without Ray, as far as teachers are: networks may differ in
their last digits between kinds of GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any, Final
from urllib.parse import urlsplit

from occlift.errors import ConfigError, OccliftError
from occlift.labels.crew import Lost, Ready, Reply, work
from occlift.labels.engine import Engine, LabelJob, LabelTask
from occlift.labels.scene import Outcome
from occlift.runtime.extras import needs_extra

_LOCAL: Final = "local"
_OBJECT_STORE_BYTES: Final = 100_000_000
"""Of a cluster of our own. Messages are small; by default Ray takes a third of the memory."""

_ANSWER_S: Final = 4.0
"""How long a cluster may take to accept a connection."""

_NO_SETTINGS: Final = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""A frame of HTTP/2: its length (three bytes), its kind (4: settings), flags and stream."""

_log = logging.getLogger(__name__)


def ray_engine(address: str | None = None, *, workers: int, gpus_per_worker: float = 0.0, retries: int = 3) -> Engine:
    """Workers on the machines of a Ray cluster.

    Args:
        address: of a cluster that runs, such as `auto` or `ray://host:10001`; None: what the environment variable
            RAY_ADDRESS says, or else, as with `local`, a cluster of this machine is started for as long as the labels
            take. A connection that the caller has opened is used, and left open.
        workers: actors, each with teachers of its own and a core.
        gpus_per_worker: 0.5 puts two workers on a GPU. With 0 Ray hides all GPUs from them.
        retries: how many workers in a row may die over one label before its scene is left out.

    Raises:
        ConfigError: Ray is not installed, or a setting is out of range; when labels are asked for: there is no cluster
            at the address, or this machine has not as many GPUs.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected 1 or more")
    if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker % 1):
        raise ConfigError(f"gpus_per_worker is {gpus_per_worker}; expected a part of one GPU, or a whole number")
    ray = _ray()
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL

    def run(job: LabelJob, scenes: Sequence[Sequence[LabelTask]]) -> Generator[Outcome, None, None]:
        if not scenes:
            return
        # The other machines stand somewhere else.
        job = replace(
            job.packed(),
            out=job.out.resolve(),
            keep_maps=job.keep_maps.resolve() if job.keep_maps else None,
        )
        with _connection(ray, address, workers, gpus_per_worker):
            actors = _Actors(ray, job, gpus_per_worker)
            yield from work(actors, job, scenes, workers=workers, retries=retries)

    return run


class _LabelActor:
    """The life of a worker, in a process of its own on some machine.

    Attributes:
        folder: where the run stands; paths in the options of teachers may be relative to it.
    """

    def __init__(self, job: LabelJob, folder: Path) -> None:
        self._job, self._folder = job, folder
        self._open = contextlib.ExitStack()

    def begin(self) -> Reply:
        """Loads the teachers."""
        if self._folder.is_dir():
            os.chdir(self._folder)
        try:
            self._make = self._open.enter_context(self._job.worker())
        except OccliftError as error:
            return _said_here(error)
        return Ready()

    def make(self, task: LabelTask) -> Reply:
        """Makes a label."""
        try:
            return self._make(task)
        except OccliftError as error:
            return _said_here(error)


def _said_here(error: OccliftError) -> OccliftError:
    """The same, with the machine on which it is so."""
    return OccliftError(f"on {socket.gethostname()}: {error}")


class _Actors:
    """A `Crew` of Ray actors."""

    def __init__(self, ray: Any, job: LabelJob, gpus_per_worker: float) -> None:
        self._ray, self._job = ray, job
        # Ray would start an actor again by itself, but one that has lost its scene must be told so.
        options = {"num_cpus": 1, "num_gpus": gpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
        self._actor_class = ray.remote(**options)(_LabelActor)
        self._members: dict[int, Any] = {}
        self._waits_for: dict[Any, int] = {}

    def start(self, slot: int) -> None:
        self._members[slot] = self._actor_class.remote(self._job, Path.cwd())
        self._waits_for[self._members[slot].begin.remote()] = slot

    def ask(self, slot: int, task: LabelTask) -> None:
        self._waits_for[self._members[slot].make.remote(task)] = slot

    def replies(self) -> Iterator[tuple[int, Reply]]:
        for done in self._ray.wait(list(self._waits_for))[0]:
            slot = self._waits_for.pop(done)
            try:
                yield slot, self._ray.get(done)
            except self._ray.exceptions.RayError as error:
                # An error that nobody foresaw, in an actor that still lives, counts as its death.
                self._ray.kill(self._members.pop(slot))
                if isinstance(error, self._ray.exceptions.RayTaskError):
                    _log.warning("%s", error)
                # Ray explains at length; what has happened stands in the last line.
                yield slot, Lost(shorten(str(error).strip().rpartition("\n")[2], 250))

    def close(self) -> None:
        for actor in self._members.values():
            self._ray.kill(actor)
        self._members.clear()


def _ray() -> Any:
    with needs_extra("ray", "the engine ray"):
        import ray
    return ray


@contextlib.contextmanager
def _connection(ray: Any, address: str, workers: int, gpus_per_worker: float) -> Iterator[None]:
    """A connection to the cluster; closed at the end if it was opened here."""
    if ray.is_initialized():
        yield
        return
    _check_answers(ray, address)
    # Nobody is told about what runs here, unless the user wants it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == _LOCAL:
        options |= {
            "num_cpus": max(workers, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"there is no Ray cluster at {address}: {error}") from error
    try:
        _check_room(ray.cluster_resources(), address, workers, gpus_per_worker)
        yield
    finally:
        ray.shutdown()


def _check_answers(ray: Any, address: str) -> None:
    """Refuses a cluster that is gone: Ray itself tries for minutes, and logs every time."""
    where = address
    if address == "auto":
        # Where the last cluster of this machine was. Ray's own search explains itself if there was none.
        with contextlib.suppress(AttributeError, OSError):
            where = ray._private.utils.read_ray_address() or address
    parts = urlsplit(where if "://" in where else f"ray://{where}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{address} is no address of a Ray cluster ({error}); expected HOST:PORT") from error
    if host is None or port is None:
        return
    try:
        fault = _fault_of(host, port)
    except OSError as error:
        fault = f"does not answer ({error})"
    if fault is not None:
        raise ConfigError(
            f"there is no Ray cluster at {address}: {host}:{port} {fault}; start one there (`ray start --head`), or "
            "say another --address (also: the environment variable RAY_ADDRESS), such as local"
        )


def _fault_of(host: str, port: int) -> str | None:
    """Why what listens there is no cluster, None if it may be one: Ray speaks HTTP/2, whose servers begin with their
    settings (RFC 9113, 3.4), so that a web server or a database is told apart at once."""
    with socket.create_connection((host, port), timeout=_ANSWER_S) as connection:
        if os.environ.get("RAY_USE_TLS") == "1":
            return None
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _NO_SETTINGS)
        header = connection.recv(9, socket.MSG_WAITALL)
    return None if header[3:4] == _NO_SETTINGS[3:4] else "is something else, which does not speak Ray's protocol"


def _check_room(there: dict[str, float], address: str, workers: int, gpus_per_worker: float) -> None:
    """A cluster may grow, this machine does not."""
    gpus, wanted = there.get("GPU", 0.0), workers * gpus_per_worker
    if address == _LOCAL and wanted > gpus:
        raise ConfigError(
            f"{workers} workers with {gpus_per_worker:g} GPUs each need {wanted:g}, but this machine has {gpus:g}"
        )
    if wanted > gpus or workers > there.get("CPU", 0.0):
        _log.warning(
            "the cluster has %g GPUs and %g cores; workers for which none are free wait",
            gpus,
            there.get("CPU", 0.0),
        )
