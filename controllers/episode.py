"""What a run leaves behind: every step, every plan's time and cost, every fault."""

import errno
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .files import replacing

Status = Literal["done", "terminated", "failed", "interrupted"]

_ARRAYS = ("time", "y", "x", "u", "reward", "cost", "plan_age", "plan_ms", "plan_time", "plan_cost")
_FORMAT = 1


@dataclass
class Event:
    """A fault that safety met, on `count` steps from `time` to `last` [s].

    Attributes:
        kind: the check that fired, see `Safety`.
        fallback: what acted instead: `hold`, `zero`, `clip`, or a controller's class.
        detail: of the first occurrence.
    """

    time: float
    kind: str
    fallback: str
    detail: str
    count: int
    last: float


@dataclass
class Episode:
    """One run of T steps.

    Attributes:
        task: its name.
        seed, clock, dt: as the run was asked for; dt is the control period [s].
        time: (T+1,) [s].
        y: readings (T+1, ny).
        x: full states (T+1, nx), or None where the simulator has none.
        u: the controls applied (T, nu), after safety.
        reward, cost: (T,) of each step, for the control applied and the readings it led to.
        plan_age: (T,) time since the state that the plan in force was made from [s]; NaN without a plan.
        plan_ms, plan_time, plan_cost: (P,) of each plan: how long it took [ms], when it begins [s], its cost.
        events: faults in order; faults of one kind on consecutive steps are one event.
        notes: what else a reader should know: observers that died, privileges not granted, tracebacks.
        status: `done` (the time was up), `terminated` (by the task), `failed` or `interrupted`.
        reason: why it failed.
        success: whether the last state meets the task's goal.
        fallbacks: steps on which a fallback acted in the controller's place; clipped controls are events only.
        deadline_misses: wall clock only: plans that took longer than the planner's `replan` periods, or, of a
            controller that does not plan, controls that took longer than one.
        missed_ticks: wall clock only: periods in which the plant was not stepped because the loop was late.
        dropped_frames: steps that an observer was too slow to see, by observer.
        wall_s: how long the run took [s].
    """

    task: str
    seed: int
    clock: str
    dt: float
    time: np.ndarray
    y: np.ndarray
    x: np.ndarray | None
    u: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    plan_age: np.ndarray
    plan_ms: np.ndarray
    plan_time: np.ndarray
    plan_cost: np.ndarray
    events: list[Event] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    status: Status = "done"
    reason: str = ""
    success: bool = False
    fallbacks: int = 0
    deadline_misses: int = 0
    missed_ticks: int = 0
    dropped_frames: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.u)

    @property
    def return_(self) -> float:
        """The sum of rewards."""
        return float(self.reward.sum())

    def summary(self) -> dict[str, Any]:
        """The run in numbers: JSON types only; `plan_ms` has None where nothing was planned."""
        p50, p99 = (float(q) for q in np.percentile(self.plan_ms, [50, 99])) if len(self.plan_ms) else (None, None)
        return {
            "steps": len(self),
            "return": self.return_,
            "cost": float(self.cost.sum()),
            "success": self.success,
            "plan_ms": {"p50": p50, "p99": p99},
            "deadline_misses": self.deadline_misses,
            "dropped_frames": sum(self.dropped_frames.values()),
            "fallbacks": self.fallbacks,
            "wall_s": self.wall_s,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the episode to `path`, as NumPy's .npz with the rest as JSON inside; whole or not at all.

        Raises:
            OSError: it could not be written (no space, no permission); an earlier file at `path` is left as it was.
        """
        path = Path(path)
        arrays = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        rest = {name: value for name, value in asdict(self).items() if name not in _ARRAYS}
        try:
            # A stream, because savez would append a suffix to a path of another.
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, meta=np.array(json.dumps({"format": _FORMAT, **rest})), **arrays)
        except OSError as error:
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Episode":
        """The episode saved at `path`.

        Raises:
            OSError: it can not be read.
            ValueError: it holds no episode, or one of another format.
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as content:
                    meta: dict[str, Any] = json.loads(str(content["meta"]))
                    arrays: dict[str, Any] = {name: content.get(name) for name in _ARRAYS}
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path} holds no episode: {error}") from error
        if meta.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} holds an episode of another format than {_FORMAT}")
        events = [Event(**event) for event in meta.pop("events")]
        return cls(**meta, **arrays, events=events)
