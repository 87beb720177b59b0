"""What a planner solves: minimise, over candidate controls, the risk of the summed terms along the rollout."""

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from ..robots.task import Task
from ..sim.interface import Dynamics, Rollout, State
from .compiled_cost import CompiledCost, compiled_cost, summed
from .guide import Guide, ValuedReturn, followed
from .risk import Risk, across_members


@dataclass
class Problem:
    """One planning problem, from `state`, over `horizon` control steps.

    Attributes:
        dynamics: predict.
        task: whose terms are summed.
        state: where the plan begins.
        horizon: number of control steps.
        rng: the randomness of stochastic dynamics.
        risk, level: across ensemble members, see `risk.across_members`.
        value: what plans cost in place of the task's terms: minus their return, and minus what is expected beyond.
        policy: whose actions are a first guess.
        evaluations: number of candidates evaluated so far.
        last: the last rollout; belongs to the dynamics, see `Rollout`.
    """

    dynamics: Dynamics
    task: Task
    state: State
    horizon: int
    rng: np.random.Generator
    risk: Risk = "mean"
    level: float = 0.5
    value: ValuedReturn | None = None
    policy: Guide | None = None
    evaluations: int = field(default=0, init=False)
    last: Rollout | None = field(default=None, init=False, repr=False)

    @property
    def limits(self) -> np.ndarray:
        """Control limits (2, nu) to sample within, see `Robot.bounded_limits`."""
        return self.task.robot.bounded_limits

    @cached_property
    def times(self) -> np.ndarray:
        """Time [s] of the readings after each control, (H,)."""
        return self.state.time + _offsets(self.task.robot.dt, self.horizon)

    @cached_property
    def _compiled(self) -> CompiledCost | None:
        return compiled_cost(self.task)

    def rollout(self, controls: np.ndarray) -> Rollout:
        """Predicts under candidates `controls` (N, H, nu)."""
        self.evaluations += len(controls)
        self.last = self.dynamics.rollout(self.state, controls, self.rng)
        return self.last

    def predicted(self, candidates: slice) -> np.ndarray:
        """Readings (E, n, H+1, ny) that the last rollout predicts for `candidates`, a copy.

        Raises:
            ValueError: nothing has been rolled out yet.
        """
        if self.last is None:
            raise ValueError("nothing has been rolled out yet")
        return self.last.of(candidates)

    def proposed(self) -> np.ndarray | None:
        """The controls (H, nu) by which the policy goes on, as the dynamics expect it; None without a policy."""
        if self.policy is None:
            return None
        return followed(self.policy, self.dynamics, self.state, self.horizon, self.limits)

    def cost(self, controls: np.ndarray) -> np.ndarray:
        """Cost (N,) of candidates `controls` (N, H, nu); infinite where the prediction broke down.

        Raises:
            ValueError: the task's terms do not give one number per step.
        """
        rollout = self.rollout(controls)
        costs = self._costs(rollout, controls)
        # The sum tells whether all are finite, in a third of the passes over them that masks take.
        if np.count_nonzero(rollout.valid) < costs.size or not math.isfinite(costs.sum()):
            costs = np.where(rollout.valid & np.isfinite(costs), costs, np.inf)
        return across_members(costs, self.risk, self.level)

    def _costs(self, rollout: Rollout, controls: np.ndarray) -> np.ndarray:
        """Costs (E, N) by the value function, or of the task's terms, evaluated wherever that is fastest."""
        if self.value is not None:
            return self.value(rollout, controls)
        costs = rollout.costs(self.task, controls, self.times)
        if costs is None and self._compiled is not None:
            costs = self._compiled(rollout, controls, self.times)
        return summed(self.task, rollout.y, controls, self.times) if costs is None else costs


@lru_cache(maxsize=64)
def _offsets(dt: float, horizon: int) -> np.ndarray:
    """Times [s] of the readings after each control since the plan's beginning, (H,)."""
    return dt * np.arange(1, horizon + 1)
