"""Threads of our own for the learners' work on a CPU.

Those of OpenMP, which torch has by itself, wait spinning and starve whatever else runs on the cores: another thread, a
viewer, a second process. Here work is cut into jobs beforehand, in a way that does not depend on how many threads there
are, and neither does what is computed. Ours look out for what comes next too, since on virtual machines to be woken
takes as long as some of the jobs; but for about a millisecond, and giving way to whatever else wants the core.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numba import types

from ..sim.interface import available_cores
from ..sim.jit import compiled

Job = TypeVar("Job")
Result = TypeVar("Result")

_LOOKS = 2000
"""How often a thread looks whether there is something to do, before it sleeps."""

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job], worth: bool = True) -> list[Result]:
    """What `work` makes of each of the jobs, on as many cores as there are.

    They are done one after another if it is not `worth` what threads cost, where torch has several threads itself, and
    while the threads are at another call's jobs. The calling thread works too, so that of two jobs one needs no other.
    Jobs must not depend on each other, and torch's modes (no gradients, inference) are each thread's own: `work` sets
    them.

    Raises:
        Exception: what `work` raised for the first of the jobs for which it did, when all have ended.
        KeyboardInterrupt: and what else is no `Exception`, when the jobs begun have ended; no others are begun then.
    """
    now, held = _Round(work, jobs), False
    helpers = min(len(jobs), available_cores()) - 1 if worth and torch.get_num_threads() == 1 else 0
    try:
        held = helpers > 0 and _busy.acquire(blocking=False)
        if held:
            _helpers.extend(_Helper() for _ in range(helpers - len(_helpers)))
            for helper in _helpers[:helpers]:
                helper.call(now)
        now.help()
        now.wait()
    except BaseException:  # an interrupt: what jobs raise, the round has
        now.drop()
        now.wait()
        raise
    finally:
        if held:
            _busy.release()
    return now.results()


class _Round:
    """The jobs of one call."""

    def __init__(self, work: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
        self._work, self._left, self._count = work, deque(enumerate(jobs)), len(jobs)
        self._found: dict[int, Any] = {}
        self._raised: dict[int, BaseException] = {}
        self._over, self._ended = _Signal(), deque[int]()

    def help(self) -> None:
        """Does jobs until none is left that nobody has begun with."""
        while self._left:
            try:
                k, job = self._left.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                self._found[k] = self._work(job)
            except BaseException as error:
                self._raised[k] = error
                if not isinstance(error, Exception):
                    self.drop()
            self._ended.append(k)
            self._look()

    def drop(self) -> None:
        """Lets no more jobs begin."""
        while self._left:
            try:
                self._left.pop()
            except IndexError:
                break
            self._count -= 1
        self._look()

    def _look(self) -> None:
        if len(self._ended) >= self._count:
            self._over.give()

    def wait(self) -> None:
        """Waits until all jobs that were begun have ended."""
        if self._count:
            self._over.wait()

    def results(self) -> list[Any]:
        """Results in order."""
        del self._work  # threads keep the round for a moment
        if self._raised:
            raise self._first_raised()
        return [self._found.pop(k) for k in range(self._count)]

    def _first_raised(self) -> BaseException:
        """An interrupt, or what the first job raised; nothing keeps it here, whose frames keep the job."""
        raised, self._raised = self._raised, {}
        return raised[min(raised, key=lambda k: (isinstance(raised[k], Exception), k))]


class _Helper:
    """A thread that helps with one round after another."""

    def __init__(self) -> None:
        self._called = _Signal()
        self._round: _Round | None = None
        threading.Thread(target=self._run, name="learners", daemon=True).start()

    def call(self, now: _Round) -> None:
        self._round = now
        self._called.give()

    def _run(self) -> None:
        while True:
            self._called.wait()
            self._called.take()
            # A call from here on signals again; one that is missed goes on without this thread.
            if (now := self._round) is not None:
                now.help()
                if self._round is now:
                    self._round = None
                del now


class _Signal:
    """What one thread gives and another waits for, looking out for it before it sleeps."""

    def __init__(self) -> None:
        self._given, self._event = np.zeros(1, np.int64), threading.Event()

    def give(self) -> None:
        self._given[0] = 1
        self._event.set()

    def take(self) -> None:
        self._event.clear()
        self._given[0] = 0

    def wait(self) -> None:
        if not _seen(self._given, _LOOKS):
            self._event.wait()


@compiled(types.boolean(types.int64[::1], types.int64))
def _seen(given: np.ndarray, looks: int) -> bool:
    """Whether it is `given` within so many looks, between which the thread gives way."""
    for _ in range(looks):
        if given[0]:
            return True
        _sched_yield()
    return False


_helpers: list[_Helper] = []
_busy = threading.Lock()


def _after_fork() -> None:
    """A process that was forked has none of the threads."""
    global _busy
    _helpers.clear()
    _busy = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
