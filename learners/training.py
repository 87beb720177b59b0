"""Training: a learner goes on piece by piece, and whatever ends it, what it had learned is in the run's folder.

A run that was interrupted and continued is, to the last bit, the run that was not: a checkpoint holds all that the
numbers to come depend on, and what was logged after it is written anew.
"""

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .interface import Learner, TrainingError
from .logs import Logs, read
from .run_folder import RunFolder, Saved

Status = Literal["done", "failed", "interrupted"]

SHARE = 0.05
"""Share of the time that checkpoints may take, where pieces are short; the last and the best are always made."""


@dataclass(frozen=True)
class Piece:
    """A piece of training that was done.

    Attributes:
        row: as in `metrics.csv`: `piece`, `steps`, `wall_s` and the learner's metrics.
        best: the best `return` so far, or None.
    """

    row: Mapping[str, float]
    best: float | None


class Observer(Protocol):
    """Sees how training goes; `watch` may be called from other threads than the rest.

    What one raises is noted, once, and ends nothing. Only a `BrokenPipeError` does: nobody looks any more.
    """

    def start(self, saved: Saved, steps: int) -> None:
        """Training goes on from `saved` until there are `steps` control steps."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know; if it is about another observer's end, it may come after the own."""
        ...

    def watch(self, doing: str, numbers: Mapping[str, float]) -> None:
        """What is being done within a piece, and numbers about it."""
        ...

    def piece(self, piece: Piece) -> None:
        """A piece is done, and logged."""
        ...

    def end(self) -> None:
        """Training is over, however it ended."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        status: `done`, `failed` or `interrupted`.
        reason: why, unless done.
        saved: how far the run's checkpoint `last` is.
        row: metrics of the last piece in it, as in `metrics.csv`; empty if there is none.
        trace: of an error that was not foreseen.
    """

    status: Status
    reason: str
    saved: Saved
    row: Mapping[str, float] = field(default_factory=dict)
    trace: str = ""


def train(
    learner: Learner,
    folder: RunFolder,
    *,
    steps: int,
    observers: Sequence[Observer] = (),
    share: float = SHARE,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Trains in pieces, from the folder's checkpoint on, until `steps` control steps are done; the last may overshoot.

    Args:
        learner: just started, with the settings and the seed that the folder says.
        folder: of the run; its checkpoints and logs are written as training goes.
        steps: control steps of the plant, those before the checkpoint counted.
        observers: are told how it goes.
        share: of the time, at most which checkpoints take, other than those of new best returns and the last.
        clock: measures time [s].

    Raises:
        ValueError: the folder's checkpoints can not be used, or another process trains in it; nothing has changed.
        TrainingError: the folder can not be written.
    """
    with folder.claimed():
        saved, note = folder.resume(learner)
        folder.ask(steps)
        logs, audience = Logs(folder, saved), _Audience(observers)
        with contextlib.ExitStack() as ending:
            ending.callback(audience.end)
            ending.callback(logs.close)
            audience.start(saved, steps)
            if note:
                audience.note(note)
            status, reason, trace = _pieces(learner, folder, logs, saved, steps, audience, share, clock)
        # What the folder holds, not what was meant: a signal may come while a checkpoint gets its name.
        kept = _kept(folder)
        rows = [row for row in read(folder.metrics) if row["piece"] == kept.pieces]
        return Outcome(status, reason, kept, rows[0] if rows else {}, trace)


def _pieces(
    learner: Learner,
    folder: RunFolder,
    logs: Logs,
    saved: Saved,
    steps: int,
    audience: "_Audience",
    share: float,
    clock: Callable[[], float],
) -> tuple[Status, str, str]:
    """Trains from `saved` on; how that ended, why, and the trace of an error that was not foreseen."""
    begun = clock() - saved.wall_s
    due, now = -math.inf, saved
    try:
        while now.steps < steps:
            progress = learner.advance(audience.watch)
            if progress.steps <= now.steps:
                raise TrainingError(f"a piece of training gained no step beyond {now.steps}")
            took = clock() - begun
            score = progress.metrics.get("return", math.nan) if progress.score is None else progress.score
            improved = math.isfinite(score) and (now.best is None or score > now.best)
            now = Saved(now.pieces + 1, progress.steps, took, float(score) if improved else now.best)
            row = logs.append(now.pieces, now.steps, took, progress.metrics)
            if improved or now.steps >= steps or clock() >= due:
                before = clock()
                folder.save(learner, now, best=improved, episode=progress.episode)
                due = clock() + (clock() - before) / share
            audience.piece(Piece(row, now.best))
    except KeyboardInterrupt:
        return "interrupted", "interrupted", ""
    except TrainingError as error:
        return "failed", str(error), ""
    except BrokenPipeError:  # an observer's: nobody looks any more
        raise
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
    return "done", "", ""


def _kept(folder: RunFolder) -> Saved:
    """How far the checkpoint is from which training would go on."""
    for name in ("last", "previous"):
        with contextlib.suppress(ValueError):
            return folder.saved(name)
    return Saved()


class _Audience:
    """Observers as one, which raises nothing but that nobody looks any more: no observer is worth the training."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._complaints: set[str] = set()

    def start(self, saved: Saved, steps: int) -> None:
        self._tell(lambda observer: observer.start(saved, steps))

    def note(self, text: str) -> None:
        self._tell(lambda observer: observer.note(text))

    def watch(self, doing: str, numbers: Mapping[str, float]) -> None:
        self._tell(lambda observer: observer.watch(doing, numbers))

    def piece(self, piece: Piece) -> None:
        self._tell(lambda observer: observer.piece(piece))

    def end(self) -> None:
        with contextlib.ExitStack() as ending:  # every one is told, whatever comes of another, and Ctrl-C too
            for observer in reversed(self._observers):
                ending.callback(self._try, observer, lambda observer: observer.end())

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            self._try(observer, what)

    def _try(self, observer: Observer, what: Callable[[Observer], None]) -> None:
        try:
            what(observer)
        except BrokenPipeError:
            raise
        except Exception as error:
            self._complain(f"{type(observer).__name__}: {type(error).__name__}: {error}")

    def _complain(self, text: str) -> None:
        """Notes what became of an observer: to all, since whoever can not show a piece may be who prints."""
        if text in self._complaints:
            return
        self._complaints.add(text)
        for observer in self._observers:
            try:
                observer.note(text)
            except BrokenPipeError:
                raise
            except Exception:  # this one can not even say so
                continue
