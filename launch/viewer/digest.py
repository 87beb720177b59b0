"""What is drawn of a run, computed from its states, plans and readings."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...controllers.episode import Episode
from ...controllers.interface import Timing
from ...controllers.plan import Plan
from ...robots.task import Task
from ...sim.interface import Scene, State
from . import geometry
from .foresight import Foresight
from .messages import Event, Explored, Lines, Message, Opening, Shape, Shapes, Steps, Trail

OVERLAY_PERIOD = 0.1
"""Least time between two drawings of candidates, or of the trail [s], in the plant's time."""
NOTE_PERIOD = 1.0
"""Least time between two replans that are told as more than a detail [s]."""
TRAIL = 3.0
"""Length of the trail [s]."""
POINTS = 17
"""At most so many points make a candidate's line; a trail has four times as many."""
CANDIDATES = 16
"""At most so many candidates are drawn."""
CHUNK = 256
"""Steps in one message, of those that are drawn after the run."""

_CALM = 0.5  # time without success after which the next one is an event again [s]


@dataclass(frozen=True, eq=False)
class Frame:
    """A step as the loop reports it."""

    state: State
    u: np.ndarray
    timing: Timing


class Digest:
    """Turns a run into messages. Not for several threads at once.

    Args:
        scene: what is drawn; None: only curves.
        task: names readings, controls and terms, and traces a place.
    """

    def __init__(self, scene: Scene | None, task: Task) -> None:
        self.task = task
        self._scene = scene
        self._shapes: dict[str, Shape] = {}
        self._bodies: np.ndarray = np.empty(0, int)
        self._paths: tuple[str, ...] = ()
        self._tendons: dict[str, int] = {}
        self._seen: set[int] = set()
        self._opening: Opening | None = None
        self._foresight: Foresight | None = None
        self._overlaid = self._trailed = self._noted = -math.inf
        self._trail: deque[tuple[float, np.ndarray]] = deque()
        self._succeeded = -math.inf
        self._faults: set[tuple[str, int]] = set()
        self._fault: str | None = None
        # Only limits that there are: the lines of a plot say what they are.
        limits = np.unique(task.robot.control_limits)
        self._limits = limits[np.isfinite(limits)]

    def geometry(self) -> Iterator[Message]:
        """The scene as its model has it before the first state is known."""
        if self._scene is None:
            return
        model = self._scene.model
        self._bodies = geometry.moving(model)
        self._paths = tuple(geometry.body_path(model, int(b)) for b in self._bodies)
        self._shapes = {shape.path: shape for shape in geometry.shapes(model)}
        yield Shapes(tuple(self._shapes.values()))

    def steps(self, frames: Sequence[Frame]) -> Iterator[Message]:
        """The steps `frames`, in order, later than any before them."""
        if not frames:
            return
        states = [frame.state for frame in frames]
        if self._opening is None:
            yield from self._open(states[0], states[0].time - frames[0].timing.step * self.task.robot.dt)
        timings = [frame.timing for frame in frames]
        y, u = np.stack([s.y for s in states]), np.stack([frame.u for frame in frames])
        time = np.array([s.time for s in states])
        x = None if self._scene is None or states[0].x is None else [s.x for s in states]
        period = 1e3 * self.task.robot.dt
        curves = self._curves(time, y, u, np.array([[t.reward, t.cost] for t in timings]))
        curves["planning"] = np.array([[t.plan_ms, period, 1e3 * t.plan_age, 1e3 * t.lateness] for t in timings])
        curves["misses"] = np.array([[t.deadline_misses, t.missed_ticks] for t in timings], float)
        yield self._steps(time, x, curves)
        self._seen.update(t.step for t in timings)
        if self._foresight is not None:
            yield from self._foresight.happened(time, y, np.array([t.fault is not None for t in timings]))
        for frame in frames:
            yield from self._fault_of(frame)
        yield from self._successes(time, y)
        yield from self._travelled(time, y)

    def plan(self, plan: Plan, state: State, timing: Timing) -> Iterator[Message]:
        """A new plan, in force when `state` was reached; not all are drawn."""
        time = state.time
        if self._foresight is None and plan.prediction is not None:
            self._foresight = Foresight(self.task, len(plan.prediction))
            if self._opening is not None:
                self._opening = self._with_foresight(self._opening)
                yield self._opening
        if self._opening is None:
            yield from self._open(state, time - timing.step * self.task.robot.dt)
        if self._foresight is not None:
            self._foresight.follow(plan, time)
        # Half a microsecond: clocks sum up dt in floating point.
        if time < self._overlaid + OVERLAY_PERIOD - 5e-7:
            return
        self._overlaid = time
        # One a second is for everybody to see.
        level = "INFO" if time >= self._noted + NOTE_PERIOD - 5e-7 else "DEBUG"
        if level == "INFO":
            self._noted = time
        yield Event(time, level, f"replan: cost {plan.cost:.4g}, {timing.plan_ms:.1f} ms{_searched(plan, timing)}")
        if plan.explored is not None and self.task.trace is not None and len(plan.explored.values):
            yield Explored(time, self._place(plan.explored.branches), plan.explored.values)
        path = None
        if plan.prediction is not None and self.task.trace is not None:
            path = self._path(plan.prediction)
            none = np.empty((0, 1, 1))
            tried = none if plan.candidates is None else plan.candidates
            costs = np.empty(0) if plan.candidate_costs is None else plan.candidate_costs
            shown = np.flatnonzero(np.isfinite(costs))[:CANDIDATES]
            yield Lines(time, self._path(tried[shown]) if len(shown) else none, costs[shown], path)
        if plan.prediction is not None and self._foresight is not None:
            yield from self._foresight.watch(plan, time, path)

    def rest(self, episode: Episode) -> Iterator[Message]:
        """What is missing of the finished `episode`: steps that were not seen, faults, how it ended."""
        missing = np.array([k for k in range(len(episode.time)) if k not in self._seen], int)
        if self._opening is None:
            first = State(float(episode.time[0]), episode.y[0], None if episode.x is None else episode.x[0])
            yield from self._open(first, first.time)
        for some in np.array_split(missing, range(CHUNK, len(missing), CHUNK)):
            if not len(some):
                continue
            x = None if self._scene is None or episode.x is None else list(episode.x[some])
            yield self._steps(episode.time[some], x, {})
            some = some[some > 0]
            if len(some):
                time, y, u = episode.time[some], episode.y[some], episode.u[some - 1]
                yield self._steps(
                    time, None, self._curves(time, y, u, np.stack([episode.reward, episode.cost], 1)[some - 1])
                )
        yield from self._missed_trails(episode, missing)
        if self._foresight is not None:
            yield from self._foresight.finish()
        for event in episode.events:
            steps = range(round(event.time / episode.dt), round(event.last / episode.dt) + 1)
            if not any((event.kind, k) in self._faults for k in steps):
                yield Event(event.time, "WARN", f"{event.kind}: {event.fallback} ({event.detail})")
        said = f"{episode.status}: return {episode.return_:.1f} in {len(episode)} steps"
        failed = episode.status == "failed"
        yield Event(float(episode.time[-1]), "ERROR" if failed else "INFO", f"{said}; {episode.reason}".rstrip("; "))

    def _open(self, first: State, time: float) -> Iterator[Message]:
        """The layout of a run begun at `time` [s], and what the state `first` decides of the scene: targets' places."""
        eye = None
        if self._scene is not None and first.x is not None:
            model, data = self._scene.model, self._scene.data
            self._scene.restore(first.x)
            self._tendons = geometry.spatial_tendons(model, data)
            eye = geometry.eye(model, data)
            changed = tuple(s for s in geometry.shapes(model) if not _same(s, self._shapes.get(s.path)))
            fixed = {
                geometry.body_path(model, b): (data.xpos[b].copy(), geometry.xyzw(data.xquat[b]))
                for b in sorted(set(range(model.nbody)) - set(self._bodies.tolist()))
            }
            yield Shapes(changed, fixed)
        robot = self.task.robot
        actuators = (*robot.actuators, *(f"limit {value:g}" for value in self._limits))
        curves = {
            "reward": ("reward",),
            "cost": ("cost", *(term.name for term in self.task.terms)),
            "controls": actuators,
            "planning": ("plan [ms]", "control period [ms]", "age of the plan [ms]", "late [ms]"),
            "misses": ("deadline misses", "missed ticks"),
            "readings": robot.layout.labels,
        }
        opening = Opening(self.task.name, curves, {"controls": len(self._limits)}, eye)
        self._opening = self._with_foresight(opening)
        yield self._opening
        yield Event(max(time, 0.0), "INFO", f"start: {self.task.name}, a control every {1e3 * robot.dt:g} ms")

    def _with_foresight(self, opening: Opening) -> Opening:
        """`opening` with the plots in which plans are compared with what happens, once there is such a plan."""
        if (foresight := self._foresight) is None:
            return opening
        curves, bounds = {**opening.curves, **foresight.curves}, {**opening.bounds, **foresight.bounds}
        return replace(opening, curves=curves, bounds=bounds)

    def _curves(self, time: np.ndarray, y: np.ndarray, u: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """The plots' lines (K, n) but for those on timing; `scores` (K, 2) are reward and cost."""
        view = self.task.robot.layout(y)
        terms = []
        for term in self.task.terms:
            value = (term.weight or term.terminal_weight) * term.norm(term.residual(view, u, time))
            terms.append(np.broadcast_to(value, time.shape))
        limits = np.broadcast_to(self._limits, (len(time), len(self._limits)))
        return {
            "reward": scores[:, :1],
            "cost": np.stack([scores[:, 1], *terms], axis=1),
            "controls": np.concatenate([u, limits], axis=1),
            "readings": y,
        }

    def _steps(self, time: np.ndarray, x: Sequence[np.ndarray | None] | None, curves: dict[str, np.ndarray]) -> Steps:
        if self._scene is None or x is None:
            return Steps(time, curves=curves)
        data = self._scene.data
        positions = np.empty((len(x), len(self._bodies), 3), np.float32)
        quaternions = np.empty((len(x), len(self._bodies), 4), np.float32)
        tendons: dict[str, list[np.ndarray]] = {}
        for k, full in enumerate(x):
            self._scene.restore(full)
            positions[k], quaternions[k] = data.xpos[self._bodies], geometry.xyzw(data.xquat[self._bodies])
            for path, tendon in self._tendons.items():
                tendons.setdefault(path, []).append(geometry.tendon_points(data, tendon))
        return Steps(time, self._paths, positions, quaternions, curves, tendons)

    def _fault_of(self, frame: Frame) -> Iterator[Message]:
        """An event where a fault begins."""
        fault, before = frame.timing.fault, self._fault
        self._fault = fault
        if fault is not None:
            # Safety notes the time at which the step began.
            self._faults.add((fault, frame.timing.step - 1))
            if fault != before:
                yield Event(frame.state.time, "WARN", f"fallback: {fault}")

    def _successes(self, time: np.ndarray, y: np.ndarray) -> Iterator[Message]:
        met = np.asarray(self.task.success(y))
        for t in time[met]:
            if t - self._succeeded > _CALM:
                yield Event(float(t), "INFO", "success: the goal is met")
            self._succeeded = float(t)

    def _travelled(self, time: np.ndarray, y: np.ndarray) -> Iterator[Message]:
        if self.task.trace is None:
            return
        self._trail.extend(zip(time.tolist(), self._place(y)))
        while self._trail[0][0] < self._trail[-1][0] - TRAIL:
            self._trail.popleft()
        if time[-1] >= self._trailed + OVERLAY_PERIOD - 5e-7:
            self._trailed = float(time[-1])
            yield Trail(self._trailed, _thinned(np.stack([place for _, place in self._trail]), 4 * POINTS))

    def _missed_trails(self, episode: Episode, missing: np.ndarray) -> Iterator[Message]:
        if self.task.trace is None or not len(episode):
            return
        path, length, last = self._place(episode.y), round(TRAIL / episode.dt), len(episode)
        stride = max(1, round(OVERLAY_PERIOD / episode.dt))
        due = {*missing[(missing > 0) & (missing % stride == 0)].tolist()}
        if self._trailed < episode.time[last]:  # where it ended is always drawn
            due.add(last)
        for k in sorted(due):
            yield Trail(float(episode.time[k]), _thinned(path[max(0, k - length) : k + 1], 4 * POINTS))

    def _place(self, y: np.ndarray) -> np.ndarray:
        """The place (..., 3) that the task traces."""
        assert self.task.trace is not None
        return np.asarray(self.task.trace(self.task.robot.layout(y)), np.float32)

    def _path(self, y: np.ndarray) -> np.ndarray:
        """Paths (n, P, 3) for readings (n, H+1, ny)."""
        return self._place(y[:, _spaced(y.shape[1], POINTS)])


def _searched(plan: Plan, timing: Timing) -> str:
    """How far a tree search came."""
    if "depth" not in plan.stats:
        return ""
    depth, nodes, simulations = (plan.stats[name] for name in ("depth", "nodes", "simulations"))
    rate = f", {1e3 * simulations / timing.plan_ms:,.0f} simulations/s" if timing.plan_ms > 0.0 else ""
    return f"; a tree of depth {depth}, {nodes} nodes{rate}"


def _same(a: Shape, b: Shape | None) -> bool:
    return b is not None and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("position", "quaternion", "size", "colour")
    )


def _spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, both ends among them."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int)


def _thinned(points: np.ndarray, most: int) -> np.ndarray:
    return points[_spaced(len(points), most)]
