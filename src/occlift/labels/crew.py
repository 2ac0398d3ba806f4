"""Many workers, some of which die: who makes which label, and what is tried again.

This module knows neither processes nor machines. A `Crew` starts workers and carries messages; `work` decides. A worker
is known by its slot, a number; after a worker has died another may be started in its slot.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from occlift.errors import OccliftError
from occlift.labels.engine import LabelJob, LabelTask
from occlift.labels.scene import Outcome

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A worker has its teachers and waits for its first label."""


@dataclass(frozen=True)
class Lost:
    """A worker has died, or failed in a way that nobody foresaw; it is gone.

    Attributes:
        why: goes on after "a worker was lost: ".
    """

    why: str


Reply = Ready | Outcome | Lost | OccliftError
"""What a worker says. An error is one that the user must mend: trying again does not help."""


class Crew(Protocol):
    """Workers in processes of their own."""

    def start(self, slot: int) -> None:
        """Starts a worker; it says `Ready` first, unless something is wrong."""

    def ask(self, slot: int, task: LabelTask) -> None:
        """Asks a worker that waits for a label. One that has died says so in `replies`."""

    def replies(self) -> Iterable[tuple[int, Reply]]:
        """Waits until a worker has something to say: (its slot, what it says)."""

    def close(self) -> None:
        """Ends all workers, and returns when none writes any more."""


def work(
    crew: Crew, job: LabelJob, scenes: Sequence[Sequence[LabelTask]], *, workers: int, retries: int
) -> Generator[Outcome, None, None]:
    """Has all labels made, and says what became of each.

    A scene is one worker's. Where a worker dies its scene is tried again, by itself or by others, as long as it does
    not die more than `retries` times in a row without finishing a label; such a scene is left out. Workers that die
    before they are ready are started again as many times, then fewer go on.

    Raises:
        OccliftError: a worker said what the user must mend; or none could be started; or, when everything else has
            been made, a scene was left out.
    """
    schedule = _Schedule(scenes, retries)
    starts: Counter[int] = Counter()
    waiting: set[int] = set()
    running = set(range(min(workers, len(scenes))))
    why = ""
    try:
        for slot in running:
            crew.start(slot)
        while schedule.unfinished:
            if not running:
                raise OccliftError(
                    f"{job.out}: no worker could be started: {why}; what is finished is kept. Run the same command "
                    "again, with fewer workers if memory ran out"
                )
            for slot, reply in crew.replies():
                if isinstance(reply, OccliftError):
                    raise reply
                if isinstance(reply, Lost):
                    why = reply.why
                    task = schedule.lost(slot)
                    _log.warning("a worker was lost%s: %s", f" at {task.scene} {task.token}" if task else "", why)
                    if task:
                        job.sweep(task)
                    else:
                        starts[slot] += 1
                    _send(crew, schedule, waiting)
                    if starts[slot] > retries or not schedule.queue:
                        running.discard(slot)
                    else:
                        crew.start(slot)
                    continue
                starts[slot] = 0
                waiting.add(slot)
                if isinstance(reply, Outcome):
                    schedule.made(slot)
                # Workers first: the caller may take its time.
                _send(crew, schedule, waiting)
                if isinstance(reply, Outcome):
                    yield reply
            _send(crew, schedule, waiting)
    finally:
        crew.close()
    if schedule.left_out:
        raise OccliftError(
            f"{job.out}: the workers that made {', '.join(schedule.left_out)} died {retries + 1} times in a row "
            f"({why}); what is finished is kept. Run the same command again, with fewer workers if memory ran out"
        )


def _send(crew: Crew, schedule: _Schedule, waiting: set[int]) -> None:
    for slot in sorted(waiting):
        if task := schedule.next(slot):
            waiting.discard(slot)
            crew.ask(slot, task)


class _Schedule:
    """Who makes what.

    Attributes:
        queue: scenes that nobody works on: their labels that are still to be made.
        left_out: scenes that nobody tries any more.
    """

    def __init__(self, scenes: Sequence[Sequence[LabelTask]], retries: int) -> None:
        self.queue = deque(deque(tasks) for tasks in scenes if tasks)
        self.left_out: list[str] = []
        self._retries = retries
        self._of_slot: dict[int, deque[LabelTask]] = {}
        self._deaths: Counter[str] = Counter()

    @property
    def unfinished(self) -> bool:
        return bool(self.queue or self._of_slot)

    def next(self, slot: int) -> LabelTask | None:
        """The label that a waiting worker makes next, first of its own scene; None: there is nothing to do."""
        if slot not in self._of_slot and self.queue:
            self._of_slot[slot] = self.queue.popleft()
        return self._of_slot[slot][0] if slot in self._of_slot else None

    def made(self, slot: int) -> None:
        """A worker has finished its label."""
        tasks = self._of_slot[slot]
        self._deaths[tasks.popleft().scene] = 0
        if not tasks:
            del self._of_slot[slot]

    def lost(self, slot: int) -> LabelTask | None:
        """A worker is gone; returns what it was at. Its scene waits for another, or is left out."""
        tasks = self._of_slot.pop(slot, None)
        if tasks is None:
            return None
        scene = tasks[0].scene
        self._deaths[scene] += 1
        if self._deaths[scene] > self._retries:
            self.left_out.append(scene)
        else:
            self.queue.appendleft(tasks)
        return tasks[0]
