"""What plans foretold against what happened.

A plan is looked at twice, each time at a time of its own grid: when the next plan has taken its place, so that all that
is wrong is the model's fault; and when its horizon is over, where it also counts that later plans have changed their
mind. The error is the distance from the mean of the members, the spread one standard deviation of theirs:

    e = |y - m|,    m = 1/E sum_i y_i,    s^2 = 1/(E-1) sum_i |y_i - m|^2

If what happens were one more draw from the normal distribution that E members are drawn from, it would lie within

    m +- t_{E-1} s sqrt(1 + 1/E)

in 90 % of all cases, with t the 95 % quantile of Student's distribution (prediction interval of a normal sample; Hahn
and Meeker, Statistical Intervals, 1991). Few members' own quantiles would cover less: all of 5 only 4/6.
"""

import functools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...controllers.plan import Plan
from ...robots.task import Task
from .messages import Past, Steps

BAND = 0.9
"""What share of what happens the members' band should hold."""
WINDOW = 20
"""Plans over which that share is averaged."""
LOOKS = ("next", "horizon")
"""When plans are looked at: when the next one takes over, and when their horizon is over."""

_FEW = 64  # readings, too few to look through
_CONSTANT = 1e-6  # of its size, or of 1: what varies by less does not vary


@dataclass(frozen=True, eq=False)
class _Look:
    """What a plan's members said (E, ny) about the readings `y` (ny,), whose ranges so far are `span` (ny,)."""

    kind: str
    time: float
    members: np.ndarray
    y: np.ndarray
    span: np.ndarray


class Foresight:
    """Compares plans' predictions with a run. Not for several threads at once.

    Args:
        task: names readings, and traces a place.
        members: E of the plans; one alone has no spread.
    """

    def __init__(self, task: Task, members: int) -> None:
        self._task = task
        self._dt = task.robot.dt
        self._slack = 1e-3 * self._dt  # clocks sum up dt in floating point
        self._ensemble = members > 1
        self._coming: deque[tuple[float, Plan]] = deque()
        self._current: Plan | None = None
        self._watched: deque[tuple[float, Plan, np.ndarray | None]] = deque()
        self._happened: dict[int, np.ndarray] = {}
        self._kept = _FEW
        self._last = -math.inf
        self._low = np.full(task.robot.layout.size, np.inf)
        self._high = -self._low
        self._inside: dict[str, deque[float]] = {look: deque(maxlen=WINDOW) for look in LOOKS}

    @property
    def curves(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the lines of each plot."""
        compared = ("error", "members' spread") if self._ensemble else ("error",)
        placed = self._task.trace is not None
        names: dict[str, tuple[str, ...]] = {}
        for look in LOOKS:
            if placed:
                names[f"{look}/place"] = compared
            names[f"{look}/readings"] = compared
            if self._ensemble:
                names[f"{look}/band"] = ("inside", f"{BAND:.0%}")
        if self._ensemble and placed:
            names["spread"] = ("halfway", "at the horizon's end")
        return names

    @property
    def bounds(self) -> Mapping[str, int]:
        """How many of a plot's last lines are limits."""
        return {f"{look}/band": 1 for look in LOOKS} if self._ensemble else {}

    def follow(self, plan: Plan, time: float) -> None:
        """`plan` is in force: the step that reached `time` [s] was the first under it."""
        self._coming.append((time, plan))
        if plan.prediction is not None and not np.isfinite(self._low[0]):
            self._low = self._high = plan.prediction[0, 0]  # the beginning, which no step has reached

    def watch(self, plan: Plan, time: float, path: np.ndarray | None) -> Iterator[Steps]:
        """Looks at `plan`, in force at `time` [s], until its horizon is over; `path` (E, P, 3) is its place's [m]."""
        self._watched.append((time, plan, path))
        if path is not None and self._ensemble:
            ahead = path[:, [path.shape[1] // 2, -1]].astype(float).swapaxes(0, 1)
            yield Steps(np.array([time]), curves={"spread": np.linalg.norm(_deviation(ahead), axis=1)[None]})

    def happened(self, time: np.ndarray, y: np.ndarray, faults: np.ndarray) -> Iterator[Steps | Past]:
        """Steps that reached readings `y` (K, ny) at `time` (K,) [s]; `faults` (K,): those in which safety acted."""
        looks: list[_Look] = []
        # The readings' ranges before the first of these steps, and after each.
        low = np.minimum.accumulate(np.concatenate([self._low[None], y]))
        span = np.maximum.accumulate(np.concatenate([self._high[None], y])) - low
        self._low, self._high = low[-1], low[-1] + span[-1]
        for k, (t, fault) in enumerate(zip(time.tolist(), faults.tolist())):
            while self._coming and self._coming[0][0] <= t + self._slack:
                looks += self._look("next", self._current, span[k])
                self._current = self._coming.popleft()[1]
            if fault:
                # Other controls than the plans': they foretold something else.
                self._current = None
                self._watched = deque(watched for watched in self._watched if watched[0] > t + self._slack)
            self._last = t
            self._happened[round(t / self._dt)] = y[k]
            while self._watched and self._watched[0][1].end <= t + self._slack:
                _, plan, path = self._watched.popleft()
                looks += self._look("horizon", plan, span[k + 1])
                if path is not None:
                    yield from self._past(t, plan, path)
        self._forget()
        yield from self._found(looks)

    def finish(self) -> Iterator[Steps]:
        """The run is over: so is the last plan."""
        yield from self._found(self._look("next", self._current, self._high - self._low))

    def _seen(self, times: np.ndarray) -> list[np.ndarray]:
        """The readings (ny,) at those of `times` [s] that are steps, and were seen."""
        steps = np.rint(times / self._dt)
        on = np.abs(steps * self._dt - times) < self._slack
        return [self._happened[k] for k in steps[on].astype(int).tolist() if k in self._happened]

    def _look(self, kind: str, plan: Plan | None, span: np.ndarray) -> list[_Look]:
        """Looks at `plan` at the last time of its grid that is over and was seen, if there is one."""
        if plan is None or plan.prediction is None:
            return []
        for at in range(min(plan.step_at(self._last), len(plan.controls)), 0, -1):
            if seen := self._seen(np.array([plan.time + at * plan.dt])):
                return [_Look(kind, self._last, plan.prediction[:, at], seen[0], span)]
        return []

    def _found(self, looks: list[_Look]) -> Iterator[Steps]:
        """The plots' lines."""
        if any(not math.isfinite(float(look.members.sum())) for look in looks):
            sound = [replace(k, members=k.members[np.isfinite(k.members).all(axis=1)]) for k in looks]
            looks = [look for look in sound if len(look.members)]
        # Looks with as many members are computed at once.
        for count in sorted({len(look.members) for look in looks}):
            some = [look for look in looks if len(look.members) == count]
            time, curves = np.array([look.time for look in some]), self._compared(some)
            for kind in LOOKS:
                of = [look.kind == kind for look in some]
                if any(of):
                    lines = {f"{kind}/{plot}": values[of] for plot, values in curves.items()}
                    if "band" in curves:
                        lines[f"{kind}/band"] = self._averaged(kind, lines[f"{kind}/band"])
                    yield Steps(time[of], curves=lines)

    def _compared(self, looks: list[_Look]) -> dict[str, np.ndarray]:
        """Values (K, n) of the plots' lines for K looks with E members each."""
        members, y = np.stack([look.members for look in looks]), np.stack([look.y for look in looks])
        away, std = y - members.mean(axis=1), _deviation(members)
        size = _CONSTANT * np.maximum(1.0, np.abs(y))
        span = np.stack([look.span for look in looks])
        curves = {"readings": [_share(away, span, size)]}
        if self._ensemble:
            curves["readings"].append(_share(std, span, size))
            told = (np.abs(away) > size) | (std > size)
            within = told & (np.abs(away) <= _width(members.shape[1]) * std)
            with np.errstate(invalid="ignore"):  # nothing told, nothing missed
                curves["band"] = [100.0 * within.sum(axis=1) / told.sum(axis=1), np.full(len(y), 100.0 * BAND)]
        if self._task.trace is not None:
            view = self._task.robot.layout(np.concatenate([members, y[:, None]], axis=1))
            traced = np.asarray(self._task.trace(view), float)
            missed = traced[:, -1] - traced[:, :-1].mean(axis=1)
            curves["place"] = [np.sqrt((missed**2).sum(axis=1))]
            if self._ensemble:
                curves["place"].append(np.sqrt((_deviation(traced[:, :-1]) ** 2).sum(axis=1)))
        return {plot: np.stack(lines, axis=1) for plot, lines in curves.items()}

    def _averaged(self, kind: str, band: np.ndarray) -> np.ndarray:
        """`band` (K, 2), the first line averaged over recent plans."""
        recent = self._inside[kind]
        for row in band:
            if math.isfinite(row[0]):
                recent.append(float(row[0]))
            row[0] = sum(recent) / len(recent) if recent else np.nan
        return band

    def _past(self, time: float, plan: Plan, path: np.ndarray) -> Iterator[Past]:
        """The plan and, beside it, what happened."""
        assert self._task.trace is not None
        seen = self._seen(plan.time + plan.dt * np.arange(len(plan.controls) + 1))
        if len(seen) > 1:
            places = np.asarray(self._task.trace(self._task.robot.layout(np.stack(seen))), np.float32)
            yield Past(time, path, places)

    def _forget(self) -> None:
        """Drops readings that no plan is compared with any more, once these are half of all."""
        if len(self._happened) < 2 * self._kept:
            return
        plans = [plan for _, plan, _ in self._watched] + [plan for _, plan in self._coming]
        if self._current is not None:
            plans.append(self._current)
        oldest = min((plan.time for plan in plans), default=self._last)
        self._happened = {step: y for step, y in self._happened.items() if (step + 0.5) * self._dt > oldest}
        self._kept = max(_FEW, len(self._happened))


def _share(values: np.ndarray, span: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Root mean squares (K,) of `values` (K, ny) in percent of `span`, of readings that vary; NaN where none does."""
    varied = span > size
    shares = np.where(varied, values, 0.0) / np.where(varied, span, 1.0)
    with np.errstate(invalid="ignore"):
        return 100.0 * np.sqrt((shares**2).sum(axis=1) / varied.sum(axis=1))


def _deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviations (K, n) among E values (K, E, n); NaN for one alone."""
    count = values.shape[1]
    if count < 2:
        return np.full((len(values), values.shape[2]), np.nan)
    away = values - values.mean(axis=1, keepdims=True)
    return np.asarray(np.sqrt(np.einsum("ken,ken->kn", away, away) / (count - 1)))


@functools.lru_cache(maxsize=32)
def _width(members: int) -> float:
    """Half the band's width, in standard deviations of so many `members`; NaN for one alone."""
    if members < 2:
        return math.nan
    from scipy.special import stdtrit

    return float(stdtrit(members - 1, 0.5 + 0.5 * BAND)) * math.sqrt(1.0 + 1.0 / members)
