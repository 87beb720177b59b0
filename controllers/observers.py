"""Observers' threads: an observer that is slow, blocks or dies never delays a step."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from ..robots.task import Task
from ..sim.interface import Scene, State
from .episode import Episode
from .interface import Observer, Timing
from .plan import Plan

CAPACITY = 128
PATIENCE = 2.0
START = 5.0
"""The longest that a run in real time waits for its observers to start [s]."""

Frame = tuple[State, np.ndarray, Plan | None, Timing]


class Feed:
    """Hands the steps of a run to one observer, in a thread of its own, through a queue that drops the oldest.

    Attributes:
        name: in the episode's `dropped_frames`.
        dropped: steps that the observer did not see.
        failure: what the observer raised, or None.
    """

    def __init__(self, observer: Observer, name: str, capacity: int = CAPACITY) -> None:
        self.name = name
        self.dropped = 0
        self.failure: str | None = None
        self._observer = observer
        self._queue: deque[Frame] = deque()
        self._capacity = capacity
        self._period = float(getattr(observer, "period", 0.0))
        self._ready = threading.Condition()
        self._closing = False
        self._episode: Episode | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    @property
    def draws(self) -> bool:
        """Whether the observer wants the scene."""
        return bool(getattr(self._observer, "draws", True))

    def start(self, scene: Scene | None, task: Task) -> None:
        """Starts the thread, and in it the observer."""
        self._thread = threading.Thread(
            target=self._work, args=(scene, task), name=f"observer {self.name}", daemon=True
        )
        self._thread.start()

    def wait_started(self, deadline: float) -> None:
        """Waits until the observer has started, or until `deadline` (of `time.monotonic`)."""
        if self._thread is not None:
            self._started.wait(max(0.0, deadline - time.monotonic()))

    def offer(self, frame: Frame) -> None:
        """Queues a step; at once, whatever the observer does."""
        with self._ready:
            if self.failure is not None:
                self.dropped += 1
                return
            if len(self._queue) == self._capacity:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(frame)
            # Waking another thread is most of what an observer costs the loop: those that look by themselves sleep on.
            if not self._period or 2 * len(self._queue) >= self._capacity:
                self._ready.notify()

    def close(self, episode: Episode | None) -> None:
        """Says that the run is over: the observer gets the queued steps, then its `end`, if there is an episode."""
        with self._ready:
            self._closing, self._episode = True, episode
            self._ready.notify()
        closing = getattr(self._observer, "closing", None)
        if closing is not None:
            closing()

    def seen(self, steps: int) -> None:
        """Of a run of `steps` steps, counts as dropped what the observer has not shown, where it knows."""
        shown = getattr(self._observer, "shown", None)
        if shown is not None:
            self.dropped = max(steps - shown, 0)

    def join(self, deadline: float) -> str | None:
        """Waits for the observer until `deadline` (of `time.monotonic`) at most; what there is to note about it."""
        if self._thread is not None:
            self._thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
        with self._ready:
            if self.failure is not None:
                return f"observer {self.name} raised {self.failure}; it was disabled"
            if self._thread is not None and self._thread.is_alive():
                self.dropped += len(self._queue)
                self._queue.clear()
                return f"observer {self.name} was still busy when the run ended and was left behind"
        return None

    def _work(self, scene: Scene | None, task: Task) -> None:
        try:
            self._observer.start(scene, task)
            self._started.set()
            idle = getattr(self._observer, "idle", None)
            while True:
                frame = self._next()
                if frame is not None:
                    self._observer.step(*frame)
                    continue
                if idle is not None:
                    idle()
                if not self._wait():
                    break
            if self._episode is not None:
                self._observer.end(self._episode)
        except BaseException as error:  # a thread's SystemExit would vanish as silently as anything else
            with self._ready:
                self.failure = f"{type(error).__name__}: {error}"
                self.dropped += len(self._queue)
                self._queue.clear()
        finally:
            self._started.set()

    def _next(self) -> Frame | None:
        with self._ready:
            return self._queue.popleft() if self._queue else None

    def _wait(self) -> bool:
        """Waits for steps, a period at most; False once there will be no more."""
        with self._ready:
            if not self._queue and not self._closing:
                self._ready.wait(self._period or None)
            return bool(self._queue) or not self._closing


class Audience:
    """All observers of a run."""

    def __init__(self, observers: Sequence[Observer], capacity: int = CAPACITY) -> None:
        self.feeds: list[Feed] = []
        self._patience = [float(getattr(observer, "patience", PATIENCE)) for observer in observers]
        for observer in observers:
            name, taken = type(observer).__name__, [feed.name for feed in self.feeds]
            same = sum(other.split("#")[0] == name for other in taken)
            self.feeds.append(Feed(observer, f"{name}#{same + 1}" if same else name, capacity))

    def wait_started(self) -> None:
        """Waits until all have started, for each at most its patience."""
        begun = time.monotonic()
        for feed, patience in zip(self.feeds, self._patience):
            feed.wait_started(begun + min(patience, START))

    def offer(self, frame: Frame) -> None:
        """Queues a step for everyone."""
        for feed in self.feeds:
            feed.offer(frame)

    def close(self, episode: Episode | None) -> None:
        """Ends the observers, waiting for each at most its patience; completes the episode's counts and notes.

        An interrupt ends the waiting.
        """
        begun = time.monotonic()
        for feed in self.feeds:
            feed.close(episode)
        for feed, patience in zip(self.feeds, self._patience):
            try:
                note = feed.join(begun + patience)
            except KeyboardInterrupt:
                begun = -np.inf
                note = feed.join(begun)
            if episode is not None:
                feed.seen(len(episode))
                episode.dropped_frames[feed.name] = feed.dropped
                if note is not None:
                    episode.notes.append(note)
