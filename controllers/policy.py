"""A controller that follows a policy: no plan, one evaluation of a function for each decision."""

from collections.abc import Callable

import numpy as np

from ..robots.task import Task
from ..sim.interface import State


class PolicyController:
    """Applies u = policy(y), decided anew every `period` and held in between.

    Decisions are counted by the state's time, from the first state after `reset` on, so that a late or repeated call
    changes none of them.

    Args:
        policy: readings (ny,) -> control (nu,), within limits.
        task: of the loop that this controller is to drive.
        period: from one decision to the next [s]; the task's control period by default.

    Raises:
        ValueError: a period that is no whole number of the task's control steps.
    """

    def __init__(self, policy: Callable[[np.ndarray], np.ndarray], task: Task, period: float | None = None) -> None:
        self.policy = policy
        self.period = task.robot.dt if period is None else task.with_period(period).robot.dt
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begins an episode; nothing is random here."""
        self._begun: float | None = None
        self._decision = -1
        self._u = np.zeros(0)

    def control(self, state: State) -> np.ndarray:
        """The control (nu,) in force at `state`."""
        if self._begun is None:
            self._begun = state.time
        # Clocks sum up dt in floating point: a time just below a decision belongs to it.
        decision = int((state.time - self._begun) / self.period + 1e-6)
        if decision != self._decision:
            self._u = np.array(self.policy(state.y), dtype=float)
            self._decision = decision
        return self._u.copy()
