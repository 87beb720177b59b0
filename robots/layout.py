"""Readings by name: what the sensors report, and where each lies in the vector `y`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import mujoco

from .arrays import Array, entry

Source = Literal["qpos", "qvel", "act", "sensor", "parameter", "external"]


@dataclass(frozen=True)
class Reading:
    """One named group of entries of `y`.

    `source` says where a simulator finds it: `qpos`, `qvel` and `act` are entries `index` of MuJoCo's state;
    `sensor` is a MuJoCo sensor of the kind `sensor`, attached to `object` of type `objtype` (position and
    velocity sensors only: those hold for a state alone, whatever control comes next); `parameter` is entries `index`
    of the model's `array[object]`, which no motion changes, such as a target's place; `external` readings are reported
    by the simulator itself.
    """

    name: str
    size: int
    source: Source = "external"
    index: tuple[int, ...] = ()
    sensor: mujoco.mjtSensor | None = None
    objtype: mujoco.mjtObj = mujoco.mjtObj.mjOBJ_UNKNOWN
    object: str = ""
    array: str = ""

    @classmethod
    def qpos(cls, name: str, *index: int) -> "Reading":
        """Generalised positions `index` [m or rad; quaternions as (w, x, y, z)]."""
        return cls(name, len(index), "qpos", index)

    @classmethod
    def qvel(cls, name: str, *index: int) -> "Reading":
        """Generalised velocities `index` [m/s or rad/s]."""
        return cls(name, len(index), "qvel", index)

    @classmethod
    def act(cls, name: str, *index: int) -> "Reading":
        """Actuator activations `index`."""
        return cls(name, len(index), "act", index)

    @classmethod
    def sensed(cls, name: str, size: int, sensor: mujoco.mjtSensor, objtype: mujoco.mjtObj, object: str) -> "Reading":
        """A MuJoCo sensor of `size` numbers on `object`."""
        return cls(name, size, "sensor", (), sensor, objtype, object)

    @classmethod
    def clock(cls, name: str) -> "Reading":
        """The time since the episode's start [s]."""
        return cls.sensed(name, 1, mujoco.mjtSensor.mjSENS_CLOCK, mujoco.mjtObj.mjOBJ_UNKNOWN, "")

    @classmethod
    def parameter(cls, name: str, array: str, object: str, *index: int) -> "Reading":
        """Entries `index` of the model's `array[object]`, such as `geom_pos` of a target: no motion changes them."""
        return cls(name, len(index), "parameter", index, object=object, array=array)


class View:
    """A readings array seen by name; made by calling a `Layout`."""

    __slots__ = ("_layout", "_shared", "_y")

    def __init__(self, layout: "Layout", y: Array) -> None:
        self._layout = layout
        self._y = y
        self._shared: dict[Callable[[View], Array], Array] = {}

    def once(self, f: "Callable[[View], Array]") -> Array:
        """`f(self)`, computed at the first call only: for what a reward and several terms have in common."""
        if f not in self._shared:
            self._shared[f] = f(self)
        return self._shared[f]

    def __getattr__(self, name: str) -> Array:
        """The entries of reading `name`: (..., size), or (...) where it is a single number."""
        where = self._layout[name]
        return entry(self._y, where.start if where.stop - where.start == 1 else where)


class Layout:
    """Maps names to slices of the readings vector `y` (ny,).

    `layout(y).tip` is the reading `tip` of an array (..., ny), of any kind of array.

    Raises:
        ValueError: two readings share a name.
        KeyError: `layout["x"]` for a name that is not there; the message lists the known ones.
    """

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = tuple(readings)
        self._slices: dict[str, slice] = {}
        start = 0
        for reading in self.readings:
            if reading.name in self._slices:
                raise ValueError(f"two readings are called {reading.name!r}")
            self._slices[reading.name] = slice(start, start + reading.size)
            start += reading.size
        self.size = start

    def __call__(self, y: Array) -> View:
        """`y` (..., ny) seen by name."""
        return View(self, y)

    def __getitem__(self, name: str) -> slice:
        try:
            return self._slices[name]
        except KeyError:
            raise KeyError(f"no reading {name!r}; known: {', '.join(self._slices)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._slices)

    def __contains__(self, name: object) -> bool:
        return name in self._slices

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One label per entry of `y`, such as `tip[2]`."""
        return tuple(r.name if r.size == 1 else f"{r.name}[{i}]" for r in self.readings for i in range(r.size))
