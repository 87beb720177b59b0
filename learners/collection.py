"""Experience gathered in several copies of a plant at once, for learners without a model.

A decision u is held for k = `environment.repeat` control steps, and its row is

    (y, u, R, y'),    R = r(y_1, u) + ... + r(y_m, u),    y' = y_m,

m = k unless the task terminates, or the plant fails, before. An episode that ends makes room for the next in the same
copy at once. Episodes are numbered from 1 in the order in which they begin, copies in their order where several begin
together, and each is drawn by a seed that follows from the collector's and its number: what is gathered depends on the
seed and the controls alone.
"""

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import sim
from ..controllers.files import replacing
from ..sim.interface import SimulationError, State
from .interface import Environment, TrainingError
from .replay import Signature

FILE = "collection.npz"
"""What `save` writes."""

_FORMAT = 1
_EPISODE = 2
"""Random stream that follows from the seed; the same as in other learners that gather episodes."""

_ACCOUNTS = ("numbers", "lengths", "returns", "applied", "y")


@dataclass(frozen=True)
class Finished:
    """An episode that ended.

    Attributes:
        copy: in which it took place.
        number: in order of beginning, the first being 1.
        return_: sum of its rewards.
        length: number of control steps.
        success: whether the task was achieved where it ended.
        failed: why the plant failed; empty if it did not.
    """

    copy: int
    number: int
    return_: float
    length: int
    success: bool
    failed: str = ""


@dataclass(frozen=True)
class Steps:
    """One decision in each of the n copies.

    Attributes:
        y: readings (n, ny) that were decided on.
        u: the controls applied (n, nu), their mean over the control steps where `safety` limits their rate.
        y_next: readings (n, ny) that they led to, of the episode's end where it ended.
        reward: (n,) summed over the control steps.
        terminated: (n,) bool, whether the task ended.
        truncated: (n,) bool, whether the episode was cut off: time was up, or the plant failed.
        valid: (n,) bool, False where the plant failed, so that there is no step: the row then leads from `y` to itself
            for no reward, and is not data.
        finished: the episodes that ended, in order of copies.
    """

    y: np.ndarray
    u: np.ndarray
    y_next: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    finished: tuple[Finished, ...]


class Collector:
    """Gathers experience in `copies` plants of `environment`.

    Controls are kept within the limits, and within the rate that `environment.safety` allows from one control step to
    the next (at first, from zero), as the loop does. An episode lasts `environment.duration`, rounded to whole
    decisions.

    Args:
        environment: where.
        copies: n plants, 1 to 256.
        seed: of the episodes.
        threads: that step the plants; by default one a core. Results do not depend on it.

    Attributes:
        y: readings now (n, ny), float64; each step leaves a fresh array.
        steps: control steps of the plants so far, those of all copies counted.
        episodes: that have ended so far.
        repeat: control steps for each decision.
        longest: decisions of an episode, at most.

    Raises:
        ValueError: a number of copies out of range; a plant that can not simulate the task; a safety by which anything
            but clipping answers controls beyond limits or rate, or whose rate is not one number or one per control.
        TrainingError: an episode can not begin.
    """

    def __init__(self, environment: Environment, copies: int, seed: int, threads: int | None = None) -> None:
        self.environment, self.seed = environment, seed
        task, safety = environment.task, environment.safety
        for kind in ("limits", "rate"):
            if safety.of(kind) != "clip":
                raise ValueError(f"controls beyond their {kind} are clipped while experience is gathered, not replaced")
        robot = task.robot
        self.steps = self.episodes = 0
        self.repeat = environment.repeat
        self.longest = max(1, round(environment.duration / (self.repeat * robot.dt)))
        self._low, self._high = robot.control_limits
        self._slew = safety.slew(robot.control_limits, robot.dt)
        self._copies = sim.copies(environment.simulator, task, copies, threads)
        if abs(self._copies.dt - robot.dt) > 1e-9:
            raise ValueError(f"plants step by {self._copies.dt:g} s; {task.name} is controlled every {robot.dt:g} s")
        self._numbers = np.zeros(copies, np.int64)  # of the episodes under way
        self._lengths = np.zeros(copies, np.int64)  # of these so far, in control steps
        self._returns = np.zeros(copies)
        self._applied = np.zeros((copies, robot.nu))  # the last control
        self._begun = 0
        self._trouble = ""
        self.y = np.empty((copies, robot.layout.size))
        try:
            for i in range(copies):
                self._begin(i, self.y)
        except BaseException:
            self.close()
            raise

    def under_way(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (n,) of the episodes that go on in the copies, and how many decisions (n,) each has had."""
        return self._numbers.copy(), self._lengths // self.repeat

    def step(self, u: np.ndarray) -> Steps:
        """One decision in each copy: applies `u` (n, nu) for `repeat` control steps.

        Raises:
            TrainingError: a control, a reading or a reward is not finite, or a plant failed in its episode's first
                control step. Collecting can not go on then, but by `restore`.
            ValueError: `u` has another shape.
        """
        if self._trouble:
            raise TrainingError(self._trouble)
        given = np.asarray(u, dtype=float)
        if given.shape != self._applied.shape:
            raise ValueError(f"controls have shape {given.shape}; these copies take {self._applied.shape}")
        if not np.isfinite(given).all():
            i = int(np.flatnonzero(~np.isfinite(given).all(axis=1))[0])
            self._stop(f"{self._where(i, 1)}: the control {given[i]} is not finite")
        y, applied, faults = self._advance(given)
        rewards, ended, made = self._score(y, applied, faults)
        if (made == self.repeat).all():
            ends, last = y[:, -1].copy(), applied[:, -1].copy()
        else:
            rewards = np.where(np.arange(self.repeat) < made[:, None], rewards, 0.0)
            at = np.arange(len(y)), np.maximum(made - 1, 0)
            ends, last = y[at], applied[at]
            ends[made == 0] = self.y[made == 0]
        failed = np.zeros(len(y), bool)
        failed[list(faults)] = True
        failed &= ~ended  # what happens after the task's end is none of the episode's
        reward = _sum(rewards)
        mean = applied[:, 0].copy() if self._slew is None else _mean(applied, made)
        self._lengths += made
        self._returns += reward
        self.steps += int(made.sum())
        self._applied = last
        over = ended | failed | (self._lengths >= self.longest * self.repeat)
        finishing = [int(i) for i in np.flatnonzero(over)]
        before, self.y, y_next = self.y, ends.copy(), ends
        finished = tuple(self._finish(i, ends[i], faults if failed[i] else {}) for i in finishing)
        for i in finishing:
            self._begin(i, self.y)
        if faults:
            y_next = np.where(failed[:, None], before, ends)
            reward = np.where(failed, 0.0, reward)
        return Steps(before, mean, y_next, reward, ended, over & ~ended, ~failed, finished)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that what is gathered next depends on: numbers for JSON, and arrays by name.

        Raises:
            ValueError: the plants can be neither saved nor brought back to where they are.
            TrainingError: collecting can not go on.
        """
        if self._trouble:
            raise TrainingError(self._trouble)
        states = self._copies.states()
        meta: dict[str, Any] = {
            "format": _FORMAT,
            **self._identity(),
            "steps": self.steps,
            "episodes": self.episodes,
            "begun": self._begun,
            "times": [state.time for state in states],
        }
        arrays = {name: value.copy() for name, value in self._accounts().items()}
        return meta, arrays | {f"x{i}": np.asarray(state.x) for i, state in enumerate(states)}

    def save(self, folder: Path) -> None:
        """Writes `state()` to a file in `folder`, whole or not at all.

        Raises:
            OSError: it could not be written.
            ValueError, TrainingError: as `state`.
        """
        meta, arrays = self.state()
        content: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **arrays}
        with replacing(folder / FILE) as temporary, temporary.open("wb") as file:
            np.savez(file, **content)

    def restore(self, folder: Path) -> None:
        """Takes over what was saved in `folder`: collecting goes on as it would have there, to the last bit.

        Raises:
            OSError: the file can not be read.
            ValueError: it was cut short, is none of a collector's, or of another one; nothing has changed then.
        """
        path = folder / FILE
        expected = self._accounts()
        with path.open("rb") as file:
            try:
                with np.load(file, allow_pickle=False) as content:
                    meta = json.loads(str(content["meta"]))
                    arrays = {name: content[name] for name in expected}
                    x = [content[f"x{i}"] for i in range(len(self.y))] if self._same(meta, path) else []
                    steps, episodes, begun = (int(meta[name]) for name in ("steps", "episodes", "begun"))
                    states = [State(float(t), *parts) for t, *parts in zip(meta["times"], arrays["y"], x, strict=True)]
            except _Other:
                raise
            except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path} holds no collector's state, or not the whole of one: {error}") from error
        for name, value in expected.items():
            if arrays[name].shape != value.shape or arrays[name].dtype != value.dtype:
                raise ValueError(f"{path} holds {name} of shape {arrays[name].shape}, not {value.shape}")
        self._move(states, path)
        self.steps, self.episodes, self._begun, self._trouble = steps, episodes, begun, ""
        self._numbers, self._lengths, self._returns, self._applied, self.y = (arrays[name] for name in _ACCOUNTS)

    def close(self) -> None:
        """Frees the plants."""
        self._copies.close()

    def _advance(self, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Readings (n, repeat, ny), controls applied (n, repeat, nu), and which plants failed."""
        clipped = np.minimum(np.maximum(given, self._low), self._high)
        if self._slew is None:
            y, faults = self._copies.step(clipped, self.repeat)
            return y, np.repeat(clipped[:, None], self.repeat, axis=1), faults
        ys, applied, now = [], [], self._applied
        for _ in range(self.repeat):
            now = now + np.clip(clipped - now, -self._slew, self._slew)
            y, faults = self._copies.step(now)
            ys.append(y)
            applied.append(now)
        return np.concatenate(ys, axis=1), np.stack(applied, axis=1), faults

    def _score(self, y: np.ndarray, u: np.ndarray, faults: dict[int, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rewards (n, repeat), whether tasks ended (n,), and after how many control steps (n,) they, or plants, did."""
        task, n = self.environment.task, len(y)
        good = np.full(n, self.repeat)
        if faults:
            for i in faults:
                broken = np.isnan(y[i]).all(axis=1)
                good[i] = int(broken.argmax()) if broken.any() else self.repeat
            stand_in = np.arange(self.repeat) >= good[:, None]
            y = np.where(stand_in[..., None], self.y[:, None], y)  # which tasks need not know what to do with
        rewards = _each(np.asarray(task.reward(y, u), float), y)
        ends = _each(np.asarray(task.terminated(y), bool), y)
        if faults:
            ends = ends & ~stand_in
        ended = np.any(ends, axis=1)
        made = np.where(ended, ends.argmax(axis=1) + 1, good)
        if not (np.isfinite(rewards).all() and np.isfinite(y).all()):
            self._blame(y, rewards, made)
        return rewards, ended, made

    def _blame(self, y: np.ndarray, rewards: np.ndarray, made: np.ndarray) -> None:
        """Raises a TrainingError that names what is not finite, if the episodes saw it."""
        labels = self.environment.task.robot.layout.labels
        for i, m in enumerate(made):
            for k in range(m):
                names = [name for name, value in zip(labels, y[i, k], strict=True) if not math.isfinite(value)]
                names += [] if math.isfinite(rewards[i, k]) else ["reward"]
                if names:
                    self._stop(f"{self._where(i, k + 1)}: not finite: {', '.join(names)}")

    def _finish(self, i: int, y: np.ndarray, faults: dict[int, str]) -> Finished:
        """Accounts for the episode that ended in copy `i` at readings `y` (ny,)."""
        fault, length = faults.get(i, ""), int(self._lengths[i])
        if not length:
            self._stop(f"{self._where(i, 1)}: the plant failed before there was anything to learn from: {fault}")
        self.episodes += 1
        success = bool(self.environment.task.success(y))
        return Finished(i, int(self._numbers[i]), float(self._returns[i]), length, success, fault)

    def _begin(self, i: int, y: np.ndarray) -> None:
        """Begins the next episode in copy `i`, whose readings go to `y[i]`."""
        number = self._begun + 1
        seed = int(np.random.SeedSequence([self.seed, _EPISODE, number - 1]).generate_state(1)[0])
        try:
            y[i] = self._copies.reset(i, seed)
        except SimulationError as error:
            self._stop(f"episode {number} (copy {i}) can not begin: {error}")
        self._begun, self._numbers[i] = number, number
        self._lengths[i] = self._returns[i] = 0
        self._applied[i] = np.clip(0.0, self._low, self._high)

    def _where(self, i: int, ahead: int) -> str:
        return f"control step {self._lengths[i] + ahead} of episode {self._numbers[i]} (copy {i})"

    def _stop(self, why: str) -> None:
        """Raises a TrainingError, now and in every step to come: plants have moved on, and the rows are lost."""
        self._trouble = why
        raise TrainingError(why)

    def _identity(self) -> dict[str, Any]:
        """What distinguishes collectors, in words that JSON keeps."""
        environment = self.environment
        rate = environment.safety.rate
        return {
            "task": environment.task.name,
            "simulator": environment.simulator,
            "robot": Signature.of(environment.task.robot).to_json(),
            "repeat": self.repeat,
            "longest": self.longest * self.repeat,
            "rate": None if rate is None else np.asarray(rate, float).tolist(),
            "copies": len(self.y),
            "seed": self.seed,
        }

    def _same(self, meta: dict[str, Any], path: Path) -> bool:
        """True; raises a ValueError that says in what the collector that `meta` tells of differs from this one."""
        if meta["format"] != _FORMAT:
            raise _Other(f"{path} holds a collector's state of another format than {_FORMAT}")
        for name, ours in self._identity().items():
            if meta[name] != ours:
                shown = (meta[name]["robot"], ours["robot"]) if name == "robot" else (meta[name], ours)
                raise _Other(f"{path} is of another {name}: {shown[0]}; expected: {shown[1]}")
        return True

    def _accounts(self) -> dict[str, np.ndarray]:
        """The arrays that `save` writes, the plants' states aside."""
        return dict(zip(_ACCOUNTS, (self._numbers, self._lengths, self._returns, self._applied, self.y), strict=True))

    def _move(self, states: list[State], path: Path) -> None:
        """Puts the plants at `states`, or leaves them where they are and raises a ValueError."""
        before = None if self._trouble else self._copies.states()
        try:
            self._copies.restore(states)
        except (ValueError, SimulationError) as error:
            if before is not None:
                self._copies.restore(before)
            raise ValueError(f"{path} holds states that these plants can not be at: {error}") from error


class _Other(ValueError):
    """The file is whole, but another collector's."""


def _each(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`values`, of which there may be one for all, for each of the readings `y` (n, k, ny): (n, k)."""
    return values if values.shape == y.shape[:2] else np.broadcast_to(values, y.shape[:2])


def _sum(rows: np.ndarray) -> np.ndarray:
    """(n, k) -> (n,), in order: the same whatever k is padded to with zeros."""
    total = rows[:, 0].copy()
    for k in range(1, rows.shape[1]):
        total += rows[:, k]
    return total


def _mean(applied: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Mean (n, nu) of the first `made` (n,) of controls (n, k, nu), of the first one at least."""
    count = np.maximum(made, 1)[:, None]
    counted = np.arange(applied.shape[1]) < count
    return np.where(counted[..., None], applied, 0.0).sum(axis=1) / count
