"""What stands between a controller and the plant: checks, and what acts instead when one fires.

| check | fires when | by default |
|---|---|---|
| `limits` | a control exceeds the robot's limits | `clip` |
| `rate` | a control changes faster than `rate` allows | `clip` |
| `nan` | a control is not finite | `fallback` |
| `stale` | wall clock: the plan is older than `stale`, or at its end | `fallback` |
| `error` | the controller raised | `fallback`, and the run fails |
| `hang` | wall clock: a planning takes longer than `hang` | `fallback`, and the run fails |

Fallbacks are `hold` (the last control that no check replaced), `zero` (as near to zero as the limits allow), or a
controller. Whatever acts, what reaches the plant is finite, within the limits and within the rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..robots.plugins import UnknownName
from ..sim.interface import State
from .episode import Event
from .interface import Controller

KINDS = ("limits", "rate", "nan", "stale", "error", "hang")
FALLBACKS = ("hold", "zero")
MAX_EVENTS = 1000

_CLIPPED = ("limits", "rate")
_TOLERANCE = 1e-6  # of a control's range: rounding in a planner is no fault

Fallback = str | Controller


@dataclass(frozen=True)
class Safety:
    """Which faults are met, and how.

    Attributes:
        rate: largest change of a control per second, as a fraction of its range, one for all or (nu,); None: any.
        stale: oldest plan that is still followed under the wall clock [s]; None: until the plan's end.
        hang: longest planning under the wall clock [s].
        warmup: longest first planning [s], before the wall clock starts: it may compile or load something.
        grace: for how long [s] the fallback acts before a wall run whose controller raised or hangs is ended.
        fallback: `hold`, `zero` or a controller, which must share no dynamics with the one it stands in for.
        fallbacks: by check, where it is another one; `limits` and `rate` also take `clip`, their default.

    Raises:
        UnknownName: a check or a fallback that does not exist.
        ValueError: a number out of its range.
    """

    rate: float | np.ndarray | None = None
    stale: float | None = None
    hang: float = 2.0
    warmup: float = 60.0
    grace: float = 1.0
    fallback: Fallback = "hold"
    fallbacks: Mapping[str, Fallback] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rate", "stale", "hang", "warmup"):
            value = getattr(self, name)
            if value is not None and not np.all(np.asarray(value) > 0):
                raise ValueError(f"safety: {name} is {value}; it must be above 0")
        if not self.grace >= 0:
            raise ValueError(f"safety: grace is {self.grace}; it must be 0 or more")
        _check(self.fallback, FALLBACKS)
        for kind, fallback in self.fallbacks.items():
            if kind not in KINDS:
                raise UnknownName("safety check", kind, KINDS)
            _check(fallback, (*FALLBACKS, "clip") if kind in _CLIPPED else FALLBACKS)

    def slew(self, limits: np.ndarray, dt: float) -> np.ndarray | None:
        """Largest change of each control (nu,) within limits (2, nu) from one step of `dt` [s] to the next; None: any.

        Raises:
            ValueError: `rate` is neither one number nor one per control.
        """
        if self.rate is None:
            return None
        nu, rate = limits.shape[1], np.asarray(self.rate, dtype=float)
        if rate.shape not in ((), (nu,)):
            raise ValueError(f"safety: rate has shape {rate.shape}; this robot takes one number or ({nu},)")
        return rate * (limits[1] - limits[0]) * dt

    def of(self, kind: str) -> Fallback:
        """The fallback of the check `kind`."""
        return self.fallbacks.get(kind, "clip" if kind in _CLIPPED else self.fallback)


def _check(fallback: object, known: tuple[str, ...]) -> None:
    if isinstance(fallback, str):
        if fallback not in known:
            raise UnknownName("fallback", fallback, known)
    elif not isinstance(fallback, Controller):
        raise ValueError(f"a fallback is one of {', '.join(known)}, or a controller, not {fallback!r}")


@dataclass(frozen=True)
class Fault:
    """Why a controller's decision can not be followed; a `fatal` one ends the run.

    `trace` is the traceback of what was raised.
    """

    kind: str
    detail: str
    fatal: bool = False
    trace: str = ""


class Guard:
    """Safety at work in one run.

    Args:
        safety: the settings.
        limits: of the controls, (2, nu).
        dt: control period [s].

    Attributes:
        events: faults met, at most about `MAX_EVENTS`: from then on they count towards the last ones of their kind.
        fallbacks: steps on which a fallback acted in the controller's place.

    Raises:
        ValueError: `rate` is neither one number nor one per control.
    """

    def __init__(self, safety: Safety, limits: np.ndarray, dt: float) -> None:
        self.safety = safety
        self.events: list[Event] = []
        self.fallbacks = 0
        self._low, self._high = limits
        nu = limits.shape[1]
        span = self._high - self._low
        self._slew = safety.slew(limits, dt)
        # Actuators without limits have no range; their tolerance is then relative to 1.
        self._slack = _TOLERANCE * np.where(np.isfinite(span), span, 1.0)
        self._zero = np.clip(np.zeros(nu), self._low, self._high)
        self._good = self._applied = self._zero
        self._dt = dt
        self._latest: dict[tuple[str, str], Event] = {}

    def reset(self, seed: int) -> None:
        """Begins an episode for the fallback controllers."""
        given = (self.safety.fallback, *self.safety.fallbacks.values())
        for controller in {id(f): f for f in given if not isinstance(f, str)}.values():
            controller.reset(seed)

    def apply(self, state: State, u: np.ndarray | None, fault: Fault | None = None) -> tuple[np.ndarray, str | None]:
        """The control that may reach the plant for the decision `u` (nu,), or for `fault`, and the check that fired."""
        if fault is None:
            assert u is not None
            fault = self._examine(u)
        if fault is None:
            assert u is not None
            chosen, replaced = u, False
        else:
            chosen, replaced = self._meet(state, fault, u)
        chosen = np.clip(chosen, self._low, self._high)
        if self._slew is not None:
            rate = self._examine_rate(chosen, self._slew)
            if rate is not None:
                chosen, other = self._meet(state, rate, chosen)
                fault, replaced = fault or rate, replaced or other
            change = np.clip(chosen, self._low, self._high) - self._applied
            chosen = self._applied + np.clip(change, -self._slew, self._slew)
        if replaced:
            self.fallbacks += 1
        else:
            self._good = chosen
        self._applied = chosen
        return chosen.copy(), fault.kind if fault else None

    def _examine(self, u: np.ndarray) -> Fault | None:
        if not np.isfinite(u).all():
            return Fault("nan", f"control {u} is not finite")
        over = np.maximum(u - self._high, self._low - u) - self._slack
        worst = int(over.argmax())
        if over[worst] <= 0:
            return None
        low, high = self._low[worst], self._high[worst]
        return Fault("limits", f"control {worst} is {u[worst]:.4g}, outside [{low:.4g}, {high:.4g}]")

    def _examine_rate(self, u: np.ndarray, slew: np.ndarray) -> Fault | None:
        change = np.abs(u - self._applied)
        over = change - slew - self._slack
        worst = int(over.argmax())
        if over[worst] <= 0:
            return None
        return Fault("rate", f"control {worst} changes by {change[worst]:.4g} in one step, over {slew[worst]:.4g}")

    def _meet(self, state: State, fault: Fault, u: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """The control that answers `fault`, and whether it replaces the controller's."""
        fallback = self.safety.of(fault.kind)
        self._record(state.time, fault, fallback if isinstance(fallback, str) else type(fallback).__name__)
        if fallback == "clip":
            assert u is not None
            return u, False
        if fallback == "hold":
            return self._good, True
        if fallback == "zero" or isinstance(fallback, str):
            return self._zero, True
        try:
            u = np.asarray(fallback.control(state), dtype=float)
            if u.shape != self._zero.shape or not np.isfinite(u).all():
                raise ValueError(f"it returned {u}")
        except Exception as error:
            detail = f"fallback {type(fallback).__name__} failed: {type(error).__name__}: {error}"
            self._record(state.time, Fault("error", detail), "zero")
            u = self._zero
        return u, True

    def note(self, time: float, fault: Fault) -> None:
        """Records a fault that ends the run at `time` [s], before any fallback acts."""
        self._record(time, fault, "none")

    def _record(self, time: float, fault: Fault, fallback: str) -> None:
        latest = self._latest.get((fault.kind, fallback))
        if latest is not None and (time - latest.last < 1.5 * self._dt or len(self.events) >= MAX_EVENTS):
            latest.count += not math.isclose(time, latest.last, abs_tol=0.5 * self._dt)
            latest.last = time
            return
        event = Event(time, fault.kind, fallback, fault.detail, 1, time)
        self.events.append(event)
        self._latest[fault.kind, fallback] = event
