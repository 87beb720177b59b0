"""The wall clock: ticks that keep phase, and a process that disturbs them as little as it may."""

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SPIN = 3e-4  # [s] before a tick, from which on the clock is polled: sleep wakes up late by about as much
_SWITCH_INTERVAL = 5e-4  # [s] after which a planner in pure Python must let the loop have the interpreter


@dataclass(frozen=True)
class Wall:
    """A wall clock: `now` counts seconds and never jumps, `sleep` waits for at least so long [s].

    The default reads the system's monotonic clock, which setting the time of day does not touch.
    """

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


class Ticker:
    """Ticks every `period` [s] of `clock`.

    What is late by whole periods skips them and keeps phase: ticks fall only on whole periods since the first, and
    missed ones are never made up for in a burst (as in ros2_control's controller manager).

    Attributes:
        missed: ticks skipped.
    """

    def __init__(self, period: float, clock: Wall) -> None:
        self.missed = 0
        self.now = clock.now
        self._clock = clock
        self._period = period
        self._start: float | None = None
        self._tick = 0

    def wait(self) -> float:
        """Returns at the next tick, how late [s]; the first tick is at once."""
        if self._start is None:
            self._start = self.now()
            return 0.0
        self._tick += 1
        late = (self.now() - self._start) / self._period - self._tick
        if late > 0:
            skipped = math.ceil(late)
            self._tick += skipped
            self.missed += skipped
        due = self._start + self._tick * self._period
        while (remaining := due - self.now()) > 0:
            self._clock.sleep(remaining - _SPIN if remaining > _SPIN else 0.0)
        return -remaining


class Immediate:
    """The virtual clock's ticks: each follows at once."""

    missed = 0
    now = staticmethod(time.perf_counter)

    def wait(self) -> float:
        """Returns at once, on time."""
        return 0.0


@contextmanager
def undisturbed() -> Iterator[list[str]]:
    """Keeps the calling thread on time: no garbage collection, quick thread switches, real-time priority if granted.

    Yields what there is to note; restores everything at its end.
    """
    notes: list[str] = []
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    thaw = gc.get_freeze_count() == 0
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    restore = _prioritise(notes)
    try:
        yield notes
    finally:
        restore()
        sys.setswitchinterval(interval)
        if thaw:
            gc.unfreeze()
        if collecting:
            gc.enable()


def _prioritise(notes: list[str]) -> Callable[[], None]:
    """Asks for real-time priority for this thread alone; how to give it back."""
    if not hasattr(os, "sched_setscheduler"):
        notes.append("real-time priority: this system has none")
        return lambda: None
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError as error:
        notes.append(f"real-time priority: not granted ({error.strerror}); the loop ran at normal priority")
        return lambda: None
    notes.append("real-time priority: granted")
    return lambda: os.sched_setscheduler(0, policy, parameters)
