"""The control loop: the only place where time passes."""

import contextlib
import math
import time as clocks
import traceback
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..robots.plugins import UnknownName
from ..robots.task import Task
from ..sim.interface import SimulationError, Simulator, State
from .episode import Episode, Status
from .interface import Controller, Observer, PlanningController, Timing
from .observers import Audience
from .pilot import Delayed, Inline, Pilot, PlanLog, Threaded
from .realtime import Immediate, Ticker, Wall, undisturbed
from .safety import Fault, Guard, Safety


def run(
    simulator: Simulator,
    controller: Controller,
    *,
    task: Task,
    duration: float | None = None,
    clock: Literal["virtual", "wall"] | Wall = "virtual",
    observers: Sequence[Observer] = (),
    seed: int = 0,
    safety: Safety | None = None,
    latency: float = 0.0,
    state: State | None = None,
    compensate: bool = True,
) -> Episode:
    """Drives `simulator` by `controller` for `duration`, or until `task` terminates.

    Under the virtual clock a step follows the last at once, and the same seed gives the same bits. Under the wall
    clock the plant is stepped once every `dt` of real time, while a controller that plans does so in a thread of its
    own; periods that the loop is late for are skipped: the plant is not stepped in them, so that the run lasts longer
    and each step is still `dt` of the plant's time.

    The run ends, with everything recorded up to there, when the simulator can not go on, when the controller raises
    (under the wall clock also when its planning hangs; then after `safety.grace` under the fallback), and at Ctrl-C.

    Args:
        simulator: the plant; stays open.
        controller: decides.
        task: scores the run and may terminate it; its robot has the control limits and the period.
        duration: of the plant's time [s], rounded to whole steps; the task's by default.
        clock: `virtual`, `wall`, or a wall clock of one's own.
        observers: watch, each from a thread of its own.
        seed: of the simulator, the controller and the fallback controllers.
        safety: what is checked between controller and plant; `Safety()` by default.
        latency: virtual clock only: time [s] from a state to what is decided on it taking effect, a whole number of
            steps; until the first does, the control is zero. Plannings take that long one after another.
        state: where to begin; drawn by the seed otherwise.
        compensate: whether plans that take effect later are made for the state predicted at that time.

    Returns:
        The episode; look at its `status` and `reason`.

    Raises:
        UnknownName: an unknown clock.
        ValueError: a duration, latency or control period that does not fit; nothing has moved.
    """
    dt = task.robot.dt
    limits = task.robot.control_limits
    steps = _steps(simulator, task, duration)
    delay = _delay(latency, dt)
    wall = _wall(clock)
    if wall is not None and delay:
        raise ValueError("latency is a model for the virtual clock; under the wall clock it is measured")
    safety = safety or Safety()
    guard = Guard(safety, limits, dt)
    audience = Audience(observers)
    log = PlanLog(steps)
    pilot: Pilot
    if wall is not None and isinstance(controller, PlanningController):
        pilot = Threaded(controller, dt, limits, log, safety, compensate, wall.now)
    elif wall is not None:
        pilot = Inline(controller, limits, log, deadline=dt, now=wall.now)
    elif delay and isinstance(controller, PlanningController):
        pilot = Delayed(controller, dt, limits, log, delay, compensate)
    else:
        pilot = Inline(controller, limits, log, delay)
    ticker = Immediate() if wall is None else Ticker(dt, wall)

    begun = clocks.perf_counter()
    first = simulator.reset(seed, state)
    controller.reset(seed)
    guard.reset(seed)
    record = _Record(first, steps, task.robot.nu)
    notes: list[str] = []
    status: Status = "interrupted"
    reason = "interrupted"
    episode: Episode | None = None
    try:
        for feed in audience.feeds:
            feed.start(simulator.scene() if feed.draws else None, task)
        try:
            fault = pilot.begin(first)
            if fault is not None:
                guard.note(first.time, fault)
                status, reason = "failed", _blame(fault, first, notes)
            else:
                if wall is not None:
                    audience.wait_started()
                with contextlib.nullcontext(notes) if wall is None else undisturbed() as quiet:
                    notes = quiet
                    begun = clocks.perf_counter()
                    status, reason = _drive(
                        simulator, task, pilot, guard, record, audience, ticker, log, notes, wall is not None
                    )
        except KeyboardInterrupt:
            pass
        finally:
            took = clocks.perf_counter() - begun
            # A second Ctrl-C while the planner is waited for only ends the waiting.
            with contextlib.suppress(KeyboardInterrupt):
                notes += pilot.end()
        plan_ms, plan_time, plan_cost = log.arrays()
        if lost := int(np.isposinf(plan_cost).sum()):
            plans = f"{lost} of {len(plan_cost)} plans"
            notes.append(f"{plans} have no finite cost: the model diverges, or the task's cost does")
        episode = Episode(
            task=task.name,
            seed=seed,
            clock="virtual" if wall is None else "wall",
            dt=dt,
            **record.arrays(),
            plan_ms=plan_ms,
            plan_time=plan_time,
            plan_cost=plan_cost,
            events=guard.events,
            notes=notes,
            status=status,
            reason=reason,
            success=_success(task, record.y[record.count], notes),
            fallbacks=guard.fallbacks,
            deadline_misses=pilot.deadline_misses,
            missed_ticks=ticker.missed,
            wall_s=took,
        )
    finally:
        audience.close(episode)
    return episode


def _drive(
    simulator: Simulator,
    task: Task,
    pilot: Pilot,
    guard: Guard,
    record: "_Record",
    audience: Audience,
    ticker: Ticker | Immediate,
    log: PlanLog,
    notes: list[str],
    wall: bool,
) -> tuple[Status, str]:
    """Steps until the time is up or the run can not go on; how it ended, and why."""
    state = record.first
    reason, deadline = "", math.inf
    while record.count < record.steps:
        lateness = ticker.wait()
        decision = pilot.decide(state)
        fault = decision.fault
        if fault is not None and fault.fatal:
            if not reason:
                reason = _blame(fault, state, notes)
                deadline = ticker.now() + (guard.safety.grace if wall else 0.0)
                if ticker.now() >= deadline:
                    guard.note(state.time, fault)
            if ticker.now() >= deadline:
                break
        u, met = guard.apply(state, decision.u, fault)
        try:
            after = simulator.step(u)
        except Exception as error:
            if not isinstance(error, SimulationError):
                notes.append("".join(traceback.format_exception(error)))
            cause = str(error) if isinstance(error, SimulationError) else f"{type(error).__name__}: {error}"
            return "failed", f"the simulator failed at {state.time:.4g} s under control {u}: {cause}"
        try:
            reward = float(task.reward(after.y, u))
            cost = float(task.cost(after.y, u, after.time))
            over = bool(task.terminated(after.y))
        except Exception as error:
            notes.append("".join(traceback.format_exception(error)))
            return (
                "failed",
                f"{task.name} can not score the state at {after.time:.4g} s: {type(error).__name__}: {error}",
            )
        record.add(after, u, reward, cost, decision.age)
        if audience.feeds:
            timing = Timing(
                step=record.count,
                reward=reward,
                cost=cost,
                plan_ms=log.last_ms,
                plan_age=decision.age,
                lateness=lateness,
                deadline_misses=pilot.deadline_misses,
                missed_ticks=ticker.missed,
                fault=met,
            )
            audience.offer((after, u, decision.plan, timing))
        state = after
        if over:
            return ("failed", reason) if reason else ("terminated", "")
    return ("failed", reason) if reason else ("done", "")


class _Record:
    """The steps of a run, in arrays made beforehand."""

    def __init__(self, first: State, steps: int, nu: int) -> None:
        self.first = first
        self.steps = steps
        self.count = 0
        self.y = np.empty((steps + 1, len(first.y)))
        self._time = np.empty(steps + 1)
        self._x = None if first.x is None else np.empty((steps + 1, len(first.x)))
        self._u = np.empty((steps, nu))
        self._reward, self._cost, self._age = np.empty((3, steps))
        self._put(0, first)

    def add(self, state: State, u: np.ndarray, reward: float, cost: float, age: float) -> None:
        """Notes a step; it counts once it is noted whole."""
        at = self.count
        self._u[at], self._reward[at], self._cost[at], self._age[at] = u, reward, cost, age
        self._put(at + 1, state)
        self.count = at + 1

    def _put(self, at: int, state: State) -> None:
        self._time[at], self.y[at] = state.time, state.y
        if self._x is not None:
            self._x[at] = state.x

    def arrays(self) -> dict[str, Any]:
        """Copies of what was recorded, by `Episode`'s names."""
        n = self.count
        return {
            "time": self._time[: n + 1].copy(),
            "y": self.y[: n + 1].copy(),
            "x": None if self._x is None else self._x[: n + 1].copy(),
            "u": self._u[:n].copy(),
            "reward": self._reward[:n].copy(),
            "cost": self._cost[:n].copy(),
            "plan_age": self._age[:n].copy(),
        }


def _success(task: Task, y: np.ndarray, notes: list[str]) -> bool:
    try:
        return bool(task.success(y))
    except Exception as error:
        notes.append("".join(traceback.format_exception(error)))
        return False


def _blame(fault: Fault, state: State, notes: list[str]) -> str:
    if fault.trace:
        notes.append(fault.trace)
    return f"{fault.detail}, at {state.time:.4g} s"


def _steps(simulator: Simulator, task: Task, duration: float | None) -> int:
    dt = task.robot.dt
    if abs(simulator.dt - dt) > 1e-9:
        raise ValueError(f"the simulator steps by {simulator.dt:g} s, but {task.name} is controlled every {dt:g} s")
    duration = task.duration if duration is None else duration
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"duration is {duration} s; it must be above 0 and finite")
    return max(1, round(duration / dt))


def _delay(latency: float, dt: float) -> int:
    delay = round(latency / dt) if math.isfinite(latency) else -1
    if delay < 0 or abs(delay * dt - latency) > 1e-9:
        raise ValueError(f"latency is {latency:g} s; it must be a whole number of steps of {dt:g} s")
    return delay


def _wall(clock: str | Wall) -> Wall | None:
    if isinstance(clock, Wall):
        return clock
    if clock not in ("virtual", "wall"):
        raise UnknownName("clock", str(clock), ("virtual", "wall"))
    return Wall() if clock == "wall" else None
