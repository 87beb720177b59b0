"""Model-predictive control: plan ahead from the state as measured, follow the plan, plan again."""

import numpy as np

from ..robots.task import Task
from ..sim.interface import Dynamics, State
from . import guide
from .compiled_cost import compiled_cost
from .guide import Guide, ValuedReturn
from .plan import Plan, Planner
from .problem import Problem


class MPC:
    """A controller that plans for `task` on `dynamics`, again every `planner.replan` control steps.

    Planning and following may happen in two threads, one each: `plan` publishes a plan whole, by one assignment to
    `latest`. The randomness of the k-th plan since `reset` depends on the seed and on k alone.

    Args:
        planner: searches for plans; its `horizon` and `replan`, and where it has them its `risk` and `level`, are used,
            and its `guides`: folders of what was learned, by whether that is its `value` or its `policy`.
        dynamics: predict.
        task: says what is wanted.
        value: whose value function goes on where plans end, in place of the planner's.
        policy: whose actions are a first guess, in place of the planner's.

    Raises:
        ValueError: the dynamics and the task's robot have different control periods, or the planner can not plan on
            the dynamics or for the task (its method `check(dynamics, task)`, where it has one, says why), or a folder
            that it names holds nothing of the kind.
    """

    def __init__(
        self,
        planner: Planner,
        dynamics: Dynamics,
        task: Task,
        *,
        value: Guide | None = None,
        policy: Guide | None = None,
    ) -> None:
        if abs(dynamics.dt - task.robot.dt) > 1e-9:
            raise ValueError(
                f"the dynamics step by {dynamics.dt:g} s, but {task.name} is controlled every {task.robot.dt:g} s"
            )
        if check := getattr(planner, "check", None):
            check(dynamics, task)
        compiled_cost(task)  # now rather than in the first plan, which a clock may wait for
        folders = getattr(planner, "guides", {})
        found = {folder: guide.load(folder, task) for folder in dict.fromkeys(folders.values())}
        value = value or found.get(folders.get("value", ""))
        self.policy = policy or found.get(folders.get("policy", ""))
        self.value = None if value is None else ValuedReturn(value, task)
        self.planner = planner
        self.dynamics = dynamics
        self.task = task
        self.latest: Plan | None = None
        self._seed = 0
        self._plans = 0

    def reset(self, seed: int) -> None:
        """Begins an episode: forgets the plan, and restarts the randomness from `seed` (at least 0)."""
        self.latest = None
        self._seed = seed
        self._plans = 0

    def problem(self, state: State, rng: np.random.Generator) -> Problem:
        """What is to be solved at `state`."""
        return Problem(
            dynamics=self.dynamics,
            task=self.task,
            state=state,
            horizon=self.planner.horizon,
            rng=rng,
            risk=getattr(self.planner, "risk", "mean"),
            level=getattr(self.planner, "level", 0.5),
            value=self.value,
            policy=self.policy,
        )

    def plan(self, state: State) -> Plan:
        """A plan from `state` on, begun from the last one; it becomes `latest`."""
        rng = np.random.default_rng([self._seed, self._plans])
        self._plans += 1
        self.latest = plan = self.planner.plan(self.problem(state, rng), self.latest, rng)
        return plan

    def due(self, time: float) -> bool:
        """Whether at `time` [s] a new plan is to be made."""
        plan = self.latest
        return plan is None or not 0 <= plan.step_at(time) < self.planner.replan

    def control(self, state: State) -> np.ndarray:
        """The control (nu,) at `state`, which is planned for first where a plan is due."""
        plan = self.latest
        if plan is None or self.due(state.time):
            plan = self.plan(state)
        return plan.control(state.time, state)
