"""Who decides at each step of a run: the controller in line, or plans made in advance and queried by time.

A plan made from the state at t is in force from t + latency on. To be right by then it is made for the state
predicted at that time, under the controls that will have been applied until then (after Diehl, Bock and Schloeder, A
real-time iteration scheme for nonlinear optimization in optimal feedback control, 2005, on feedback delay).
"""

import math
import queue
import threading
import time as clocks
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..sim.interface import SimulationError, State
from .interface import Controller, PlanningController
from .plan import Plan
from .safety import Fault, Safety


@dataclass(frozen=True)
class Decision:
    """What is to be done at a step.

    Attributes:
        u: the control (nu,), None with a fault.
        plan: in force.
        age: time since the state that `plan` was made from [s].
        fault: why there is no control.
    """

    u: np.ndarray | None
    plan: Plan | None = None
    age: float = np.nan
    fault: Fault | None = None


class PlanLog:
    """Time, cost and duration of each plan of a run of `steps`, in arrays made beforehand."""

    def __init__(self, steps: int) -> None:
        self._rows = np.empty((steps + 2, 3))
        self.count = 0

    def add(self, plan: Plan, ms: float) -> None:
        """Notes `plan`, which took `ms` [ms]."""
        if self.count < len(self._rows):
            self._rows[self.count] = ms, plan.time, plan.cost
            self.count += 1

    @property
    def last_ms(self) -> float:
        """How long the newest plan took [ms]; NaN before the first."""
        return float(self._rows[self.count - 1, 0]) if self.count else np.nan

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Duration [ms], beginning [s] and cost of each plan, (P,) each."""
        ms, time, cost = self._rows[: self.count].T.copy()
        return ms, time, cost


class Pilot(Protocol):
    """Decides at each step.

    Attributes:
        deadline_misses: so far.
    """

    deadline_misses: int

    def begin(self, state: State) -> Fault | None:
        """Gets ready for an episode from `state`, before the clock starts."""
        ...

    def decide(self, state: State) -> Decision:
        """What is to be done at `state`; called once a step."""
        ...

    def end(self) -> list[str]:
        """Ends what runs beside the loop; what there is to note about it."""
        ...


def _raised(error: BaseException, what: str) -> Fault:
    text = "".join(traceback.format_exception(error))
    return Fault("error", f"{what} raised {type(error).__name__}: {error}", fatal=True, trace=text)


def _checked(u: object, nu: int) -> np.ndarray:
    control = np.asarray(u, dtype=float)
    if control.shape != (nu,):
        raise ValueError(f"the control has shape {control.shape}; this robot takes ({nu},)")
    return control


class Inline:
    """Asks the controller at every step, and waits; its control takes effect `delay` steps later.

    Args:
        controller: decides; where it has a `latest` plan, that is reported and timed.
        limits: of the controls (2, nu).
        log: of plans.
        delay: steps from a state to the control decided on it taking effect; until then the control is zero.
        deadline: a control that takes longer is a deadline miss [s].
        now: the clock [s].
    """

    def __init__(
        self,
        controller: Controller,
        limits: np.ndarray,
        log: PlanLog,
        delay: int = 0,
        deadline: float = math.inf,
        now: Callable[[], float] = clocks.perf_counter,
    ) -> None:
        self.deadline_misses = 0
        self._controller = controller
        self._log = log
        self._deadline = deadline
        self._now = now
        self._nu = limits.shape[1]
        rest = np.clip(np.zeros(self._nu), *limits)
        self._pending: deque[np.ndarray] = deque([rest] * delay)
        self._plan: Plan | None = None
        self._made = np.nan
        self._fault: Fault | None = None

    def begin(self, state: State) -> None:
        """Nothing to get ready."""
        self._plan = getattr(self._controller, "latest", None)

    def decide(self, state: State) -> Decision:
        """The controller's control."""
        if self._fault is None:
            try:
                begun = self._now()
                self._pending.append(_checked(self._controller.control(state), self._nu))
                took = self._now() - begun
            except Exception as error:
                self._fault = _raised(error, "the controller")
        if self._fault is not None:
            return Decision(None, self._plan, state.time - self._made, self._fault)
        self.deadline_misses += took > self._deadline
        plan = getattr(self._controller, "latest", None)
        if plan is not self._plan and plan is not None:
            self._plan, self._made = plan, state.time
            self._log.add(plan, 1e3 * took)
        return Decision(self._pending.popleft(), self._plan, state.time - self._made)

    def end(self) -> list[str]:
        """Nothing to end."""
        return []


@dataclass(frozen=True, eq=False)  # plans hold arrays, which do not compare to one truth value
class _Entry:
    """A plan, the time of the state that it was made from, and the time from which it is in force [s]."""

    plan: Plan
    made: float
    effective: float


class Schedule:
    """Plans made, in order; one thread adds, and another may ask: the entries are replaced whole."""

    def __init__(self, dt: float, limits: np.ndarray) -> None:
        self._dt = dt
        self._limits = limits
        self._rest = np.clip(np.zeros(limits.shape[1]), *limits)
        self._entries: tuple[_Entry, ...] = ()

    def at(self, t: float) -> _Entry | None:
        """What is in force at `t` [s]: the plan made last of those that have taken effect."""
        return _in_force(self._entries, t + 1e-6 * self._dt)

    def add(self, entry: _Entry, t: float) -> None:
        """Adds a plan, and forgets those that are no longer in force at `t` [s]."""
        entries = (*self._entries, entry)
        current = _in_force(entries, t + 1e-6 * self._dt)
        self._entries = entries if current is None else entries[entries.index(current) :]

    def controls(self, t: float, steps: int, stride: int = 1) -> np.ndarray:
        """The controls (steps, nu) that will be applied from `t` [s] on, within the limits.

        Each is for `stride` steps of the loop: the one that is held, or where `t` lies between the points of a plan's
        grid, the mean of those that are.
        """
        controls = np.empty((steps * stride, len(self._rest)))
        for k in range(len(controls)):
            time = t + k * self._dt
            entry = self.at(time)
            controls[k] = self._rest if entry is None else np.clip(entry.plan.control(time), *self._limits)
        if stride == 1:
            return controls
        grouped = controls.reshape(steps, stride, len(self._rest))
        return grouped[:, 0] + (grouped - grouped[:, :1]).mean(axis=1)  # to the bit, where all are the same

    def decide(self, state: State, nu: int) -> Decision:
        """The control at `state` of the plan in force; zero, as near as the limits allow, before the first."""
        entry = self.at(state.time)
        if entry is None:
            return Decision(self._rest)
        return Decision(_checked(entry.plan.control(state.time, state), nu), entry.plan, state.time - entry.made)

    def predict(self, controller: PlanningController, state: State, steps: int) -> State:
        """The state `steps` after `state` under the plans made; `state` itself where the prediction diverges.

        `steps` is a whole number of the steps that the controller's dynamics take.
        """
        if steps == 0:
            return state
        stride = _stride(controller, self._dt)
        try:
            return controller.dynamics.advance(state, self.controls(state.time, steps // stride, stride))
        except SimulationError:
            return state


def _in_force(entries: tuple[_Entry, ...], t: float) -> _Entry | None:
    return next((entry for entry in reversed(entries) if entry.effective <= t), None)


def _stride(controller: PlanningController, dt: float) -> int:
    """How many of the loop's steps one of the controller's dynamics takes."""
    return max(1, round(controller.dynamics.dt / dt))


def _whole(lead: int, stride: int) -> int:
    """`lead` steps, rounded up to where the dynamics can predict."""
    return -(-lead // stride) * stride


class Delayed:
    """The virtual clock's model of latency: every planning takes exactly `lead` steps, one planning at a time.

    Args:
        controller: plans.
        dt: control period [s].
        limits: of the controls (2, nu).
        log: of plans.
        lead: steps from a state to the plan made from it taking effect; rounded up to whole steps of the controller's
            dynamics, where these are longer.
        compensate: whether to plan from the state predicted at that time, or from the old one.
    """

    def __init__(
        self,
        controller: PlanningController,
        dt: float,
        limits: np.ndarray,
        log: PlanLog,
        lead: int,
        compensate: bool = True,
    ) -> None:
        self.deadline_misses = 0
        self._controller = controller
        self._dt = dt
        self._nu = limits.shape[1]
        self._log = log
        stride = _stride(controller, dt)
        self._lead = _whole(lead, stride)
        self._replan = controller.planner.replan * stride
        self._compensate = compensate
        self._schedule = Schedule(dt, limits)
        self._step = self._due = 0

    def begin(self, state: State) -> None:
        """Nothing to get ready."""

    def decide(self, state: State) -> Decision:
        """The control of the plan in force; a new planning begins where one is due."""
        try:
            if self._step >= self._due:
                self._plan(state)
            self._step += 1
            return self._schedule.decide(state, self._nu)
        except Exception as error:
            return Decision(None, fault=_raised(error, "the controller"))

    def _plan(self, state: State) -> None:
        begun = clocks.perf_counter()
        origin = self._schedule.predict(self._controller, state, self._lead) if self._compensate else state
        plan = self._controller.plan(origin)
        self._log.add(plan, 1e3 * (clocks.perf_counter() - begun))
        self._schedule.add(_Entry(plan, state.time, state.time + self._lead * self._dt), state.time)
        self._due = self._step + max(self._lead, self._replan)

    def end(self) -> list[str]:
        """Nothing to end."""
        return []


class Threaded:
    """The wall clock's planning: in a thread of its own, always from the newest state, published whole.

    A planning begins as soon as the last one is over and `replan` steps have passed since that one's state. It starts
    from the state predicted at the step at which, by the median of recent plannings, it will be over. A planning
    that takes longer than `replan` periods is a deadline miss. Two plannings precede the clock's start; the first
    may compile or load things and is not counted.

    Args:
        controller: plans; while the run lasts only this thread may use it.
        dt: control period [s].
        limits: of the controls (2, nu).
        log: of plans.
        safety: its `stale`, `hang` and `warmup`.
        compensate: whether to plan from the predicted state, or from the measured one.
        now: the clock [s].
    """

    def __init__(
        self,
        controller: PlanningController,
        dt: float,
        limits: np.ndarray,
        log: PlanLog,
        safety: Safety,
        compensate: bool = True,
        now: Callable[[], float] = clocks.perf_counter,
    ) -> None:
        self.deadline_misses = 0
        self._controller = controller
        self._dt = dt
        self._nu = limits.shape[1]
        self._log = log
        self._safety = safety
        self._compensate = compensate
        self._now = now
        self._schedule = Schedule(dt, limits)
        self._inbox: queue.SimpleQueue[tuple[int, State, float] | None] = queue.SimpleQueue()
        self._recent: deque[float] = deque(maxlen=9)
        self._warm = threading.Event()
        self._busy_since: float | None = None
        self._newest = -math.inf
        self._fault: Fault | None = None
        self._hung: Fault | None = None
        self._told: Fault | None = None
        self._step = 0
        self._thread = threading.Thread(target=self._work, name="planner", daemon=True)

    def begin(self, state: State) -> Fault | None:
        """Makes the first plan, and waits for it."""
        self._newest = state.time
        self._thread.start()
        self._inbox.put((0, state, self._now()))
        if not self._warm.wait(min(self._safety.warmup, threading.TIMEOUT_MAX)):
            self._hung = Fault("hang", f"the first plan took longer than {self._safety.warmup:g} s", fatal=True)
        self._told = self._hung or self._fault
        return self._told

    def decide(self, state: State) -> Decision:
        """The control of the plan in force."""
        now = self._now()
        if self._step:
            self._inbox.put((self._step, state, now))
            self._newest = state.time  # only now: the planner may begin from no state older than what it forgets up to
        self._step += 1
        entry = self._schedule.at(state.time)
        plan, age = (entry.plan, state.time - entry.made) if entry else (None, np.nan)
        fault = self._hung or self._fault or self._overdue(now) or self._stale(state, plan, age)
        if fault is not None:
            self._told = fault
            return Decision(None, plan, age, fault)
        try:
            return self._schedule.decide(state, self._nu)
        except Exception as error:
            self._fault = _raised(error, "the plan")
            return Decision(None, plan, age, self._fault)

    def _overdue(self, now: float) -> Fault | None:
        begun = self._busy_since
        if begun is not None and now - begun > self._safety.hang:
            self._hung = Fault("hang", f"a planning takes longer than {self._safety.hang:g} s", fatal=True)
        return self._hung

    def _stale(self, state: State, plan: Plan | None, age: float) -> Fault | None:
        if plan is None:
            return None
        if state.time >= plan.end - 1e-6 * self._dt:
            return Fault("stale", f"the plan ended at {plan.end:.4g} s")
        if self._safety.stale is not None and age > self._safety.stale + 1e-6 * self._dt:
            return Fault("stale", f"the plan is {age:.4g} s old")
        return None

    def end(self) -> list[str]:
        """Ends the thread, waiting as long as a planning may take; a hung one is left behind."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(0.0 if self._hung else min(self._safety.hang, threading.TIMEOUT_MAX))
        if self._thread.is_alive():
            return ["the planner was still planning when the run ended and was left behind"]
        if self._fault is not None and self._fault is not self._told:
            return [f"during the last step {self._fault.detail}", self._fault.trace]
        return []

    def _work(self) -> None:
        try:
            item = self._inbox.get()
            assert item is not None
            _, state, _ = item
            for _ in range(2):
                begun = self._now()
                plan = self._controller.plan(state)
            self._finish(_Entry(plan, state.time, state.time), begun)
            self._warm.set()
            stride = _stride(self._controller, self._dt)
            due = replan = self._controller.planner.replan * stride
            while (item := self._next(due)) is not None:
                step, state, seen = item
                self._busy_since = begun = self._now()
                lead = _whole(self._lead(begun - seen), stride) if self._compensate else 0
                plan = self._controller.plan(self._schedule.predict(self._controller, state, lead))
                self.deadline_misses += self._now() - begun > replan * self._dt
                # Late plans are queried by time like all others; early ones wait for the state they were made for.
                self._finish(_Entry(plan, state.time, state.time + lead * self._dt), begun)
                self._busy_since = None
                due = step + replan
        except BaseException as error:  # whatever ends this thread must reach the loop
            self._fault = _raised(error, "the planner")
            self._busy_since = None
            self._warm.set()

    def _finish(self, entry: _Entry, begun: float) -> None:
        took = self._now() - begun
        self._recent.append(took)
        self._schedule.add(entry, self._newest)
        self._log.add(entry.plan, 1e3 * took)

    def _lead(self, old: float) -> int:
        """Whole steps until a planning that begins now, from a state `old` [s], will be over."""
        return max(0, math.ceil((old + float(np.median(self._recent))) / self._dt - 1e-9))

    def _next(self, due: int) -> tuple[int, State, float] | None:
        """The newest state of step `due` or later, waiting for it; None at the run's end."""
        while True:
            item = self._inbox.get()
            while item is not None and not self._inbox.empty():
                item = self._inbox.get()
            if item is None or item[0] >= due:
                return item
