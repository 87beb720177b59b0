"""What a learned model is told of readings and controls, and what of the readings it predicts.

It is told angles that may turn on and on as sine and cosine, and predicts the change of the readings over one control
period, which is small and of about the same size whatever the readings are. Readings that no motion changes (a robot's
parameters) and the clock are not learned: they are held, and advanced by the period. What only a simulator reports of
a step, an unknown task's reward for one, is predicted as it is, and not told.
"""

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mujoco
import numpy as np

from ..robots.arrays import Array, namespace
from ..robots.layout import Layout, Reading
from ..robots.plugins import UnknownName
from ..robots.task import Robot

SCORES = ("reward", "terminated")
"""Readings of a step's outcome that only a simulator knows, see `robots/external.py`."""

GIVE = 0.05
"""Share of its range by which a joint may go beyond a limit."""

_BALL = {mujoco.mjtJoint.mjJNT_FREE: 3, mujoco.mjtJoint.mjJNT_BALL: 0}
"""Where in the positions of such a joint its quaternion begins."""


@dataclass(frozen=True)
class Encoding:
    """Entries of the readings `y` (ny,) by what becomes of them.

    Attributes:
        ny, nu: numbers of readings' entries and of controls.
        dt: control period [s].
        angles: entries [rad] that the model is told as sine and cosine, and whose change is the shorter way round.
        told: entries that it is told as they are.
        predicted: entries that it predicts: their change, or their values.
        values: those of them whose values it predicts.
        clocks: entries that are the time [s].
        quaternions: first of four entries each, kept at length 1.
        bounded: entries that are positions of joints with limits.
        low, high: what these are kept within: the limits, and a little of what joints give way.
        untold_angles: entries [rad] that it is not told, and whose change is the shorter way round too.
    """

    ny: int
    nu: int
    dt: float
    angles: tuple[int, ...]
    told: tuple[int, ...]
    predicted: tuple[int, ...]
    values: tuple[int, ...] = ()
    clocks: tuple[int, ...] = ()
    quaternions: tuple[int, ...] = ()
    bounded: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    untold_angles: tuple[int, ...] = ()

    @classmethod
    def of(cls, robot: Robot, *, untold: Iterable[str] = (), parameters: bool = False) -> "Encoding":
        """The encoding for `robot`; angles are those of hinges without limits, as far as its MuJoCo model knows.

        Args:
            robot: whose readings are encoded.
            untold: readings, or single entries such as `root[0]`, that the model is to know nothing of, because the
                motion does not depend on them: how far a robot has walked, for one. Their change is predicted all the
                same.
            parameters: whether it is told the robot's parameters, such as a target's place: policies have to be.

        Raises:
            UnknownName: there is no such reading.
        """
        layout = robot.layout
        turning = _turning(robot)
        clocks = _of_kind(layout, lambda r: r.sensor == mujoco.mjtSensor.mjSENS_CLOCK)
        still = _of_kind(layout, lambda r: r.source == "parameter") | clocks
        scored = _of_kind(layout, lambda r: r.source == "external" and r.name in SCORES)
        hidden = _entries(layout, untold) | (clocks if parameters else still) | scored
        limits = _limits(robot)
        every = range(layout.size)
        return cls(
            ny=layout.size,
            nu=robot.nu,
            dt=robot.dt,
            angles=tuple(k for k in every if k in turning and k not in hidden),
            told=tuple(k for k in every if k not in turning and k not in hidden),
            predicted=tuple(k for k in every if k not in still),
            values=tuple(sorted(scored)),
            clocks=tuple(sorted(clocks)),
            quaternions=_quaternions(robot),
            bounded=tuple(limits),
            low=tuple(low for low, _ in limits.values()),
            high=tuple(high for _, high in limits.values()),
            untold_angles=tuple(sorted(turning & hidden - still)),
        )

    @property
    def inputs(self) -> int:
        """How many numbers the model is told."""
        return 2 * len(self.angles) + len(self.told) + self.nu

    @property
    def outputs(self) -> int:
        """How many it predicts."""
        return len(self.predicted)

    def tell(self, y: Array, u: Array) -> Array:
        """What the model is told (..., inputs) of readings (..., ny) and controls (..., nu)."""
        xp = namespace(y)
        parts = [_take(y, self.told), u]
        if self.angles:
            turning = _take(y, self.angles)
            parts = [xp.sin(turning), xp.cos(turning), *parts]
        return xp.concat(parts, axis=-1)

    def changes(self, y: np.ndarray, y_next: np.ndarray) -> np.ndarray:
        """What it is to predict (..., outputs) where readings (..., ny) became `y_next`."""
        change = self.shorter(y, y_next)
        change[..., list(self.values)] = y_next[..., list(self.values)]
        return change[..., list(self.predicted)]

    def shorter(self, y: np.ndarray, y_next: np.ndarray) -> np.ndarray:
        """How far it is from readings `y` to `y_next` (..., ny), the shorter way round where they are angles."""
        change, turning = np.asarray(y_next - y), [*self.angles, *self.untold_angles]
        change[..., turning] = np.remainder(change[..., turning] + np.pi, 2.0 * np.pi) - np.pi
        return change

    def advance(self, y: Array, change: Array) -> Array:
        """Readings (..., ny) one control period after `y`, on a prediction (..., outputs)."""
        if len(self.predicted) < self.ny:
            change = self._spread(change)
        if self.values or self.clocks:
            kept, passed = self._held if namespace(y) is np else _tensors(self, "_held", y.dtype, y.device)
            y = y * kept + passed
        return self.within(y + change)

    def within(self, y: Array) -> Array:
        """Readings (..., ny) as close as may be: joints within their limits, quaternions of length 1."""
        if self.bounded:
            # No data lie beyond a limit, and what networks make of such a place is a way out that is none.
            xp = namespace(y)
            low, high = self._bounds if xp is np else _tensors(self, "_bounds", y.dtype, y.device)
            y = xp.minimum(xp.maximum(y, low), high)
        for start in self.quaternions:
            turn = y[..., start : start + 4]
            unit = turn / (turn * turn).sum(-1)[..., None] ** 0.5
            y = namespace(y).concat([y[..., :start], unit, y[..., start + 4 :]], axis=-1)
        return y

    @cached_property
    def _held(self) -> tuple[np.ndarray, np.ndarray]:
        """What each entry (ny,) is multiplied by in a step, and what is added, predictions aside."""
        kept, passed = np.ones(self.ny), np.zeros(self.ny)
        kept[list(self.values)] = 0.0
        passed[list(self.clocks)] = self.dt
        return kept, passed

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each entry (ny,); infinite where there is none."""
        low, high = np.full(self.ny, -np.inf), np.full(self.ny, np.inf)
        low[list(self.bounded)], high[list(self.bounded)] = self.low, self.high
        return low, high

    def _spread(self, change: Array) -> Array:
        """Predictions (..., outputs) at the entries (..., ny) that they are of; 0 elsewhere."""
        xp = namespace(change)
        if xp is np:
            spread = np.zeros((*change.shape[:-1], self.ny), change.dtype)
            spread[..., list(self.predicted)] = change
            return spread
        # A zero after all predictions is what the other entries take: no assignment, through which torch.func can not.
        padded = xp.concat([change, xp.zeros_like(change[..., :1])], axis=-1)
        place = {k: i for i, k in enumerate(self.predicted)}
        return _take(padded, tuple(place.get(k, self.outputs) for k in range(self.ny)))


def _take(x: Array, entries: tuple[int, ...]) -> Array:
    """Entries (..., k) of the last axis: a view where they follow one another."""
    first = entries[0] if entries else 0
    if entries == tuple(range(first, first + len(entries))):
        return x[..., first : first + len(entries)]
    if namespace(x) is np:
        return x[..., list(entries)]
    return x.index_select(-1, _index(entries, x.device))


@functools.lru_cache(maxsize=64)
def _index(entries: tuple[int, ...], device: Any) -> Array:
    """The same as a tensor; kept, since a GPU's graphs hold no copies from the host."""
    torch = importlib.import_module("torch")
    return torch.tensor(entries, dtype=torch.int64, device=device)


@functools.lru_cache(maxsize=64)
def _tensors(encoding: Encoding, name: str, dtype: Any, device: Any) -> tuple[Array, Array]:
    """A pair of arrays of an encoding as tensors, kept for the same reason."""
    torch = importlib.import_module("torch")
    one, other = (torch.as_tensor(row, dtype=dtype, device=device) for row in getattr(encoding, name))
    return one, other


def _of_kind(layout: Layout, kind: Callable[[Reading], bool]) -> set[int]:
    return {k for reading in layout.readings if kind(reading) for k in _range(layout, reading)}


def _range(layout: Layout, reading: Reading) -> range:
    where = layout[reading.name]
    return range(where.start, where.stop)


def _entries(layout: Layout, names: Iterable[str]) -> set[int]:
    """Entries by the names of readings, or by their labels."""
    found: set[int] = set()
    for name in names:
        if name in layout:
            found.update(range(layout[name].start, layout[name].stop))
        elif name in layout.labels:
            found.add(layout.labels.index(name))
        else:
            raise UnknownName("reading", name, {*layout, *layout.labels})
    return found


def _turning(robot: Robot) -> set[int]:
    """Entries that are the angles of hinges without limits."""
    if robot.build is None:
        return set()
    model = robot.model
    free = {
        int(model.jnt_qposadr[j])
        for j in range(model.njnt)
        if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_HINGE and not model.jnt_limited[j]
    }
    return {k for k, position in _positions(robot.layout).items() if position in free}


def _limits(robot: Robot) -> dict[int, tuple[float, float]]:
    """Limits of joints, with `GIVE` of their range beyond, by the entry that is the joint's position."""
    if robot.build is None:
        return {}
    model = robot.model
    ranges = {
        int(model.jnt_qposadr[j]): (low - GIVE * (high - low), high + GIVE * (high - low))
        for j in range(model.njnt)
        for low, high in [model.jnt_range[j].tolist()]
        if model.jnt_limited[j] and _kind(model, j) not in _BALL
    }
    return {k: ranges[position] for k, position in _positions(robot.layout).items() if position in ranges}


def _quaternions(robot: Robot) -> tuple[int, ...]:
    """Where quaternions of free and ball joints begin that are read as a whole, and in order."""
    if robot.build is None:
        return ()
    model = robot.model
    begins = {int(model.jnt_qposadr[j]) + _BALL[t] for j in range(model.njnt) if (t := _kind(model, j)) in _BALL}
    places = _positions(robot.layout)
    return tuple(k for k, p in places.items() if p in begins and all(places.get(k + i) == p + i for i in range(1, 4)))


def _kind(model: mujoco.MjModel, joint: int) -> mujoco.mjtJoint:
    return mujoco.mjtJoint(int(model.jnt_type[joint]))


def _positions(layout: Layout) -> dict[int, int]:
    """Which generalised position each entry is that is one."""
    return {
        k: position
        for reading in layout.readings
        if reading.source == "qpos"
        for k, position in zip(_range(layout, reading), reading.index)
    }
