"""What controllers and observers promise to the control loop."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..robots.task import Task
from ..sim.interface import Dynamics, Scene, State
from .plan import Plan, Planner


@runtime_checkable
class Controller(Protocol):
    """Decides a control from a state: planners' MPC and learned policies alike."""

    def reset(self, seed: int) -> None:
        """Begins an episode; all randomness of the controller follows from `seed`."""
        ...

    def control(self, state: State) -> np.ndarray:
        """The control (nu,) for the step that begins at `state`."""
        ...


@runtime_checkable
class PlanningController(Controller, Protocol):
    """A controller that decides by plans, which the loop may have made ahead, in a thread of their own.

    Attributes:
        planner: its `replan` says after how many control steps a new plan is due.
        dynamics: whose `advance` predicts the state at which a plan will take effect.
        latest: the plan made last, None before the first.
    """

    planner: Planner
    dynamics: Dynamics
    latest: Plan | None

    def plan(self, state: State) -> Plan:
        """A plan from `state` on, begun from `latest`; becomes `latest`."""
        ...


@dataclass(frozen=True)
class Timing:
    """How a step went, for observers.

    Attributes:
        step: steps taken so far, this one included.
        reward, cost: of this step.
        plan_ms: how long the newest plan took [ms]; NaN before the first.
        plan_age: time since the state that the plan in force was made from [s]; NaN without a plan.
        lateness: how late the step began by the wall clock [s]; 0 under the virtual one.
        deadline_misses, missed_ticks: so far, see `Episode`.
        fault: the safety check that replaced or changed this step's control, or None.
    """

    step: int
    reward: float
    cost: float
    plan_ms: float = np.nan
    plan_age: float = np.nan
    lateness: float = 0.0
    deadline_misses: int = 0
    missed_ticks: int = 0
    fault: str | None = None


class Observer(Protocol):
    """Watches a run from a thread of its own: a viewer, a recorder, a progress bar.

    A slow observer misses steps rather than delaying them: steps wait for it in a bounded queue that drops the oldest.
    What must see every step reads it from the episode, which `end` hands over complete. An observer that raises is
    called no more.

    It may also have: `patience`, for how long [s] the run waits for it at its end, 2 by default; `draws`, False if it
    needs no scene; `period`, how often [s] it looks for steps, at once by default; a method `idle()`, called when it
    has seen all the steps that there are; `shown`, how many steps it has dealt with, where it can make up for those
    that the queue dropped; a method `closing()`, called from the loop's thread at the end of the run, even while the
    observer is busy.
    """

    def start(self, scene: Scene | None, task: Task) -> None:
        """Begins an episode; `scene` is this observer's own."""
        ...

    def step(self, state: State, u: np.ndarray, plan: Plan | None, timing: Timing) -> None:
        """`state` was reached under the control `u` (nu,) while `plan` was in force."""
        ...

    def end(self, episode: Any) -> None:
        """The `Episode` is over."""
        ...
