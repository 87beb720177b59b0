"""The replay store: every step that a robot has been through, one packed array per field.

A row is a transition (y, u, reward, y', terminated, truncated): readings, the control applied to them, what that
scored, the readings it led to. Terminated means that the task ended there, so that nothing comes after; truncated means
that time was up or the run was stopped, and what would have come has a value (Pardo et al., Time limits in
reinforcement learning, 2018). Rows that follow each other without a gap form a segment, and sequences never cross from
one into the next.

Several plants may store their steps in turn, each in a lane of its own: with L lanes, row i goes on with row i - L, if
at all.
"""

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..controllers.episode import Episode
from ..controllers.files import replacing
from ..robots.task import Robot

_FORMAT = 1
_VOID = -1
_NUMBERS = ("y", "u", "y_next", "reward")
_FLAGS = ("terminated", "truncated")


@dataclass(frozen=True)
class Signature:
    """What a robot's data look like, so that another robot's are refused.

    Attributes:
        robot: its name.
        readings: one label for each entry of y.
        controls: the actuators' names.
        dt: control period [s].
    """

    robot: str
    readings: tuple[str, ...]
    controls: tuple[str, ...]
    dt: float

    @classmethod
    def of(cls, robot: Robot) -> "Signature":
        """That of `robot`."""
        return cls(robot.name, robot.layout.labels, robot.actuators, robot.dt)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Signature":
        """The signature that `dataclasses.asdict` took apart, read back from JSON.

        Raises:
            ValueError: a part is missing or of another kind.
        """
        try:
            return cls(
                str(content["robot"]),
                tuple(str(name) for name in content["readings"]),
                tuple(str(name) for name in content["controls"]),
                float(content["dt"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no signature of a robot: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {"robot": self.robot, "readings": [*self.readings], "controls": [*self.controls], "dt": self.dt}

    def refuse_other(self, other: "Signature", what: str) -> None:
        """Raises a ValueError that says in what `other`, the signature of `what`, differs from this one."""
        for name in ("robot", "readings", "controls"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                shown = [value if isinstance(value, str) else ", ".join(value) or "none" for value in (theirs, ours)]
                raise ValueError(f"{what} is of another {_SINGULAR[name]}: {shown[0]}; expected: {shown[1]}")
        if not np.isclose(self.dt, other.dt, rtol=1e-9):
            raise ValueError(f"{what} is of another control period: {other.dt:g} s; expected: {self.dt:g} s")


_SINGULAR = {"robot": "robot", "readings": "robot, with other readings", "controls": "robot, with other controls"}


@dataclass(frozen=True)
class Transitions:
    """Steps: B of them, or B sequences of L, which read (B, L, ...) in place of (B, ...).

    Attributes:
        y: readings (B, ny).
        u: the controls applied to them (B, nu).
        y_next: the readings after one control period (B, ny); in a sequence, those of the next step's `y`.
        reward: (B,).
        terminated: (B,) bool, whether the task ended with the step.
        truncated: (B,) bool, whether the episode was cut off after it.
    """

    y: np.ndarray
    u: np.ndarray
    y_next: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.u)


@dataclass(frozen=True)
class Rejection:
    """A step that was not stored: which of those given, and what is not finite in it, by name."""

    index: int
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"step {self.index}: not finite: {', '.join(self.fields)}"


class Replay:
    """Stores transitions of one robot, and draws from them.

    Rows are numbered from the first ever stored, `first` being the oldest still there. Appending takes constant time on
    average: arrays grow by doubling, up to `capacity`, and then the newest replaces the oldest.

    A step that is left out has no row, if there is one lane. Among several it keeps its place, and its number, without
    ever being drawn, so that those of the others stay in their lanes: the capacity counts it, `len` does not.

    Args:
        robot: whose data these are, or their signature.
        capacity: largest number of rows kept, a multiple of the lanes; None keeps all.
        lanes: number of plants whose steps are stored in turn.

    Attributes:
        rejected: how many steps were refused for each entry that was not finite, by its name.

    Raises:
        ValueError: lanes or a capacity that are not positive, or do not go together.
    """

    def __init__(self, robot: Robot | Signature, capacity: int | None = None, lanes: int = 1) -> None:
        if lanes < 1:
            raise ValueError(f"{lanes} lanes; there must be at least one")
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity {capacity} is not positive")
        if capacity is not None and capacity % lanes:
            raise ValueError(f"capacity {capacity} is no multiple of {lanes} lanes")
        self.signature = robot if isinstance(robot, Signature) else Signature.of(robot)
        self.capacity = capacity
        self.lanes = lanes
        self.rejected: Counter[str] = Counter()
        self._stored = 0  # rows ever; the newest's number is one less
        self._begin = np.zeros(lanes, np.int64)  # numbers of the rows that began the segments which go on
        self._open = np.zeros(lanes, bool)  # whether the next rows may go on with them
        self._rows = self._allocate(0)
        self._begins = np.empty(0, np.int64)  # of each row, that of its segment's first; _VOID where a step is left out
        self._voids = 0  # how many of them are

    def _allocate(self, size: int) -> dict[str, np.ndarray]:
        ny, nu = len(self.signature.readings), len(self.signature.controls)
        widths: dict[str, tuple[int, ...]] = {"y": (ny,), "u": (nu,), "y_next": (ny,)}
        return {
            name: np.empty((size, *widths.get(name, ())), bool if name in _FLAGS else float)
            for name in (*_NUMBERS, *_FLAGS)
        }

    def __len__(self) -> int:
        """Number of rows stored."""
        return self._kept - self._voids

    @property
    def _kept(self) -> int:
        """The same, steps left out among them."""
        return self._stored if self.capacity is None else min(self._stored, self.capacity)

    @property
    def first(self) -> int:
        """Number of the oldest row: how many have been replaced."""
        return self._stored - self._kept

    def append(
        self,
        y: np.ndarray,
        u: np.ndarray,
        reward: float,
        y_next: np.ndarray,
        *,
        terminated: bool = False,
        truncated: bool = False,
    ) -> list[Rejection]:
        """Stores one step; see `extend`."""
        return self.extend(
            np.asarray(y)[None],
            np.asarray(u)[None],
            np.asarray(y_next)[None],
            np.asarray(reward)[None],
            np.asarray(terminated)[None],
            np.asarray(truncated)[None],
        )

    def extend(
        self,
        y: np.ndarray,
        u: np.ndarray,
        y_next: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        valid: np.ndarray | None = None,
    ) -> list[Rejection]:
        """Stores steps, each with what `Transitions` says, in the order in which they happened.

        With several lanes the first step is the first lane's, the next one the second's, and so on in turn.

        A step goes on with the segment of the one before if that neither terminated nor was truncated, and its readings
        are those which the one before led to, to the last bit. Steps that hold a number that is not finite are left
        out, and their neighbours belong to different segments.

        Args:
            y: readings (n, ny).
            u: controls (n, nu).
            y_next: readings (n, ny) that they led to.
            reward: (n,).
            terminated: (n,) bool.
            truncated: (n,) bool.
            valid: (n,) bool, False for steps to be left out as well; none by default.

        Returns:
            What was left out for not being finite.

        Raises:
            ValueError: shapes that do not fit the robot or each other, or a number of steps that is no multiple of the
                lanes; nothing is stored then.
        """
        given = dict(zip((*_NUMBERS, *_FLAGS), (y, u, y_next, reward, terminated, truncated)))
        rows = {name: np.asarray(value, bool if name in _FLAGS else float) for name, value in given.items()}
        count = len(rows["y"]) if rows["y"].ndim else 0
        for name, stored in self._rows.items():
            if rows[name].shape != (count, *stored.shape[1:]):
                expected = ", ".join(str(n) for n in stored.shape[1:])
                raise ValueError(f"{name} has shape {rows[name].shape}, not ({count}, {expected})")
        wanted = np.ones(count, bool) if valid is None else np.asarray(valid, bool)
        if wanted.shape != (count,):
            raise ValueError(f"valid has shape {wanted.shape}, not ({count},)")
        if count % self.lanes:
            raise ValueError(f"{count} steps are no multiple of {self.lanes} lanes")
        if not count:
            return []
        finite = {name: np.isfinite(rows[name]).reshape(count, -1) for name in _NUMBERS}
        if all(entries.all() for entries in finite.values()):
            self._put(rows, wanted)
            return []
        good = np.logical_and.reduce([entries.all(axis=1) for entries in finite.values()])
        rejections = [self._rejection(int(k), finite) for k in np.flatnonzero(wanted & ~good)]
        for rejection in rejections:
            self.rejected.update(rejection.fields)
        self._put(rows, wanted & good)
        return rejections

    def end(self) -> None:
        """Says that the next rows stored have nothing to do with the last: runs were broken off."""
        self._open[:] = False

    def add_episode(self, episode: Episode, repeat: int = 1) -> list[Rejection]:
        """Stores a run: its last step terminated if the run did, and is truncated otherwise; see `extend`.

        Args:
            episode: of the robot.
            repeat: control steps of the run for each step stored, of which that is the mean control and the summed
                reward; steps at the end that make no whole one are left out, and it is truncated there.

        Raises:
            ValueError: there are several lanes, or readings or controls are another robot's.
        """
        if self.lanes > 1:
            raise ValueError(f"an episode is the steps of one plant; this store takes those of {self.lanes} in turn")
        steps = len(episode) // repeat
        last = np.arange(steps) == steps - 1
        terminated = last & (episode.status == "terminated") & (steps * repeat == len(episode))
        y = episode.y[: steps * repeat + 1 : repeat]
        u = episode.u[: steps * repeat].reshape(steps, repeat, episode.u.shape[1]).mean(axis=1)
        reward = episode.reward[: steps * repeat].reshape(steps, repeat).sum(axis=1)
        self.end()
        return self.extend(y[:-1], u, y[1:], reward, terminated, last & ~terminated)

    def rows(self, numbers: np.ndarray) -> Transitions:
        """Copies of the rows of these numbers, of any shape: (B,) for transitions, (B, L) for sequences.

        Raises:
            IndexError: a row that is not stored, or no longer, or a step that was left out.
        """
        numbers = np.asarray(numbers)
        if numbers.size and (numbers.min() < self.first or numbers.max() >= self._stored):
            raise IndexError(f"rows {self.first} to {self._stored - 1} are stored, not all of those asked for")
        slots = self._slots(numbers)
        if self._voids and (self._begins[slots] == _VOID).any():
            raise IndexError("steps that were left out are not stored, and were asked for")
        return self._take(slots)

    def _take(self, slots: np.ndarray) -> Transitions:
        """Copies of the rows that lie there."""
        return Transitions(**{name: stored.take(slots, axis=0) for name, stored in self._rows.items()})

    def _numbers(self) -> np.ndarray:
        """Those of all rows, the oldest first."""
        numbers = np.arange(self.first, self._stored)
        return numbers[self._begins[self._slots(numbers)] != _VOID] if self._voids else numbers

    def all(self) -> Transitions:
        """Copies of all rows, the oldest first."""
        return self.rows(self._numbers())

    def segments(self) -> Iterator[Transitions]:
        """Each segment's rows, in order: whole episodes, unless steps were left out or replaced.

        Those of a lane are in order, and come after those of the lanes before it.
        """
        numbers = self._numbers()
        numbers = numbers[np.argsort(numbers % self.lanes, kind="stable")]
        cuts = np.flatnonzero(np.diff(self._begins[self._slots(numbers)])) + 1
        for part in np.split(numbers, cuts):
            if len(part):
                yield self.rows(part)

    def sample(self, size: int, rng: np.random.Generator) -> Transitions:
        """`size` rows, drawn independently, each as likely as any other.

        Raises:
            ValueError: nothing is stored.
        """
        return self._take(self._slots(self._draw(size, 1, rng)))

    def sample_sequences(self, size: int, length: int, rng: np.random.Generator) -> Transitions:
        """`size` sequences of `length` rows within a segment, drawn independently, each as likely as any other.

        Returns:
            Arrays (size, length, ...).

        Raises:
            ValueError: nothing is stored, no segment is that long, or the length is not positive.
        """
        if length < 1:
            raise ValueError(f"sequences of {length} rows")
        ends = self._draw(size, length, rng)
        return self._take(self._slots(ends[:, None] + self.lanes * np.arange(1 - length, 1)))

    def sample_returns(
        self, shape: int | tuple[int, ...], steps: int, discount: float, rng: np.random.Generator
    ) -> tuple[Transitions, np.ndarray]:
        """Rows drawn independently, each as likely as any other, and what came of them in up to `steps` steps.

        A row counts m of them: it and those that go on with it in its segment. The rewards are

            R = r_0 + discount r_1 + ... + discount^(m-1) r_(m-1),

        and y_next, terminated and truncated are those of the last, so that the row's value is R, and unless it
        terminated discount^m times that of `y_next` (Sutton and Barto, Reinforcement learning, 2018, section 7.1).

        Args:
            shape: of what is drawn, B or (K, B) for instance.
            steps: to look ahead; fewer are counted where the segment ends.
            discount: of each step, 0 to 1.
            rng: by which rows are drawn.

        Returns:
            Arrays (*shape, ...), and discount^m (*shape).

        Raises:
            ValueError: nothing is stored, or `steps` or `discount` are out of their range.
        """
        if steps < 1:
            raise ValueError(f"returns of {steps} steps")
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"discount is {discount}; it must be from 0 to 1")
        numbers = self._draw(shape, 1, rng)
        slots = self._slots(numbers)
        if steps == 1:
            return self._take(slots), np.full(numbers.shape, float(discount))
        segment = self._begins[slots]
        goes_on = np.ones(numbers.shape, bool)
        reward, last, count = self._rows["reward"][slots], slots, np.ones(numbers.shape)
        for k in range(1, steps):
            ahead = numbers + k * self.lanes
            goes_on &= ahead < self._stored
            there = self._slots(np.where(goes_on, ahead, numbers))
            goes_on &= self._begins[there] == segment
            reward += np.where(goes_on, discount**k * self._rows["reward"][there], 0.0)
            last = np.where(goes_on, there, last)
            count += goes_on
        found = {name: self._rows[name].take(slots, axis=0) for name in ("y", "u")}
        ends = {name: self._rows[name].take(last, axis=0) for name in ("y_next", *_FLAGS)}
        return Transitions(**found, **ends, reward=reward), float(discount) ** count

    def _draw(self, shape: int | tuple[int, ...], length: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers (shape) of rows, drawn independently, with at least `length` rows of their segment up to them.

        Raises:
            ValueError: there are none.
        """
        if not len(self):
            raise ValueError("the replay store is empty")
        drawn = rng.integers(self.first, self._stored, shape)
        if length == 1 and not self._voids:
            return drawn
        ends = drawn.reshape(-1)
        short = np.flatnonzero(self._before(ends) < length - 1)
        for _ in range(4):  # drawing again costs less than looking through the whole store, unless few rows will do
            ends[short] = rng.integers(self.first, self._stored, len(short))
            short = short[self._before(ends[short]) < length - 1]
        if short.size:
            before = self._before(np.arange(self.first, self._stored))
            possible = self.first + np.flatnonzero(before >= length - 1)
            if not possible.size:
                raise ValueError(f"no sequence of {length} rows is stored; the longest has {before.max() + 1}")
            ends[short] = rng.choice(possible, len(short))
        return drawn

    def save(self, path: str | os.PathLike) -> None:
        """Writes the store to `path`, as NumPy's .npz with the rest as JSON inside; whole or not at all.

        Raises:
            OSError: it could not be written; an earlier file at `path` is left as it was.
        """
        meta = {
            "format": _FORMAT,
            "signature": self.signature.to_json(),
            "capacity": self.capacity,
            "lanes": self.lanes,
            "stored": self._stored,
            "begin": self._begin.tolist(),
            "open": self._open.tolist(),
            "rejected": dict(self.rejected),
        }
        numbers = np.arange(self.first, self._stored)
        rows = {name: stored[self._slots(numbers)] for name, stored in self._rows.items()}
        begins = self._begins[self._slots(numbers)]
        # A stream, because savez would append a suffix to a path of another.
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), begins=begins, **rows)

    @classmethod
    def load(cls, path: str | os.PathLike, robot: Robot | Signature | None = None) -> "Replay":
        """The store saved at `path`, which draws and goes on as the one saved would have.

        Args:
            path: of the file.
            robot: whose data are expected, or their signature; None takes any robot's.

        Raises:
            OSError: it can not be read.
            ValueError: it holds no replay store, was cut short, is of another format, or of another robot.
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as content:
                    meta = json.loads(str(content["meta"]))
                    arrays = {name: content[name] for name in ("begins", *_NUMBERS, *_FLAGS)}
            except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path} holds no replay store, or not the whole of one: {error}") from error
        if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
            raise ValueError(f"{path} holds a replay store of another format than {_FORMAT}")
        signature = Signature.from_json(meta["signature"])
        if robot is not None:
            expected = robot if isinstance(robot, Signature) else Signature.of(robot)
            expected.refuse_other(signature, str(path))
        store = cls(signature, meta["capacity"], meta.get("lanes", 1))  # stores of one lane once did not say so
        store._stored = int(meta["stored"])
        store._begin[:], store._open[:] = meta["begin"], meta["open"]
        store.rejected.update(meta["rejected"])
        store._restore(arrays, str(path))
        return store

    def _restore(self, arrays: dict[str, np.ndarray], path: str) -> None:
        """Takes the rows (and their segments' beginnings) that are to be stored, the oldest first."""
        count = self._kept
        self._grow(count)
        slots = self._slots(np.arange(self.first, self._stored))
        for name, target in (("begins", self._begins), *self._rows.items()):
            if arrays[name].shape != (count, *target.shape[1:]) or arrays[name].dtype != target.dtype:
                raise ValueError(f"{path} holds {name} of shape {arrays[name].shape}, not {(count, *target.shape[1:])}")
            target[slots] = arrays[name]
        self._voids = int(np.count_nonzero(arrays["begins"] == _VOID))

    def _rejection(self, k: int, finite: dict[str, np.ndarray]) -> Rejection:
        readings = self.signature.readings
        labels = {"y": readings, "u": self.signature.controls, "y_next": [f"next {name}" for name in readings]}
        named = [
            label
            for field, entries in finite.items()
            for label, fine in zip(labels.get(field, [field]), entries[k])
            if not fine
        ]
        return Rejection(k, tuple(named))

    def _put(self, rows: dict[str, np.ndarray], good: np.ndarray) -> None:
        """Stores those rows that are `good`; among several lanes, places of the others."""
        lanes, y = self.lanes, rows["y"]
        going_on = good & ~(rows["terminated"] | rows["truncated"])
        joined = np.zeros(len(good), bool)
        joined[lanes:] = going_on[:-lanes] & (y[lanes:] == rows["y_next"][:-lanes]).all(axis=1)
        if self._open.any():
            last = self._rows["y_next"][self._slots(np.arange(self._stored - lanes, self._stored))]
            joined[:lanes] = self._open & (y[:lanes] == last).all(axis=1)
        kept = np.flatnonzero(good) if lanes == 1 else np.arange(len(good))
        numbers = self._stored + np.arange(len(kept))
        # The beginning of a segment is its lane's newest row, up to there, that does not go on with the one before.
        begins = np.where(joined[kept], 0, numbers).reshape(-1, lanes)
        begins = np.maximum.accumulate(np.concatenate((self._begin[None], begins)))[1:]
        if len(kept):
            self._grow(self._kept + len(kept))
            fits = slice(-self.capacity, None) if self.capacity is not None else slice(None)
            slots = self._slots(numbers[fits])
            for name, stored in self._rows.items():
                stored[slots] = rows[name][kept[fits]]
            entered = begins.reshape(-1)[fits]
            oldest, newer = self.first, self._stored
            self._stored += len(kept)
            if lanes > 1:
                entered = np.where(good[fits], entered, _VOID)
                replaced = self._begins[self._slots(np.arange(oldest, min(self.first, newer)))]
                self._voids += int(np.count_nonzero(entered == _VOID)) - int(np.count_nonzero(replaced == _VOID))
            self._begins[slots] = entered
            self._begin = begins[-1].copy()
        self._open = going_on[-lanes:].copy()

    def _grow(self, size: int) -> None:
        """Makes room for `size` rows, or as many as the capacity allows."""
        room = len(self._begins)
        if self.capacity is not None:
            size = min(size, self.capacity)
        if size <= room:
            return
        larger = max(size, 2 * room, 256)
        if self.capacity is not None:
            larger = min(larger, self.capacity)
        rows, begins = self._allocate(larger), np.empty(larger, np.int64)
        for name, stored in self._rows.items():  # there is room left only until the first row is replaced: in order
            rows[name][:room] = stored
        begins[:room] = self._begins
        self._rows, self._begins = rows, begins

    def _slots(self, numbers: np.ndarray) -> np.ndarray:
        """Where rows of these numbers lie."""
        return numbers if self.capacity is None else numbers % self.capacity

    def _before(self, numbers: np.ndarray) -> np.ndarray:
        """How many rows of the same segment are stored before each of these; -1 for steps that were left out."""
        begins = self._begins[self._slots(numbers)]
        oldest = self.first + (numbers - self.first) % self.lanes  # of its lane
        before = (numbers - np.maximum(begins, oldest)) // self.lanes
        return np.where(begins == _VOID, -1, before)
