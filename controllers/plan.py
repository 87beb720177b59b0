"""A plan, which a controller queries by time, and the planners' protocol."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..sim.interface import State
from ..sim.linearization import Differentiable
from .problem import Problem


@dataclass(frozen=True, eq=False)
class Feedback:
    """What a plan does about states other than those it predicts: u = clip(u_k + K_k (x - x_k), limits).

    Attributes:
        x: the states that the steps are predicted to begin from, and the last one (H+1, nx).
        u: the controls there (H, nu).
        gains: K (H, nu, n).
        model: whose states these are.
        limits: of controls (2, nu).
    """

    x: np.ndarray
    u: np.ndarray
    gains: np.ndarray
    model: Differentiable
    limits: np.ndarray

    def applies(self, state: State | None) -> bool:
        """Whether the model knows where `state` is: by its `x`, or by its readings alone, as learned models do."""
        return state is not None and (state.x is not None or getattr(self.model, "reads_only", False))

    def control(self, step: int, state: State, share: float = 0.0) -> np.ndarray:
        """The control (nu,) at `state`, once a `share` of `step`, from 0 to 1, is over."""
        reference = self.x[step]
        if share > 1e-3:
            reference = self.model.displace(reference, share * self.model.difference(self.x[step + 1], reference))
        away = self.model.difference(self.model.coordinates(state), reference)
        return np.clip(self.u[step] + self.gains[step] @ away, *self.limits)


@dataclass(frozen=True, eq=False)
class Explored:
    """Part of a search tree, for viewers.

    Attributes:
        branches: readings at the beginning and at the end of n edges (n, 2, ny).
        values: mean return of each (n,), the greater the better.
    """

    branches: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """Controls over a horizon, from `time` on.

    Attributes:
        time: when the first control begins [s].
        dt: each control lasts [s].
        controls: (H, nu).
        cost: of `controls`, as predicted.
        prediction: readings (E, H+1, ny) under `controls`, or None.
        candidates: readings (n, H+1, ny) of some of the candidates tried last, for viewers, or None.
        candidate_costs: their costs (n,).
        stats: numbers about the search, by name: `evaluations`, `iterations`, ...
        memory: what the planner carries to its next plan beside the controls.
        feedback: what is done about states other than those predicted, or None: the controls are applied as they are.
        explored: of a tree search: where it went, or None.
    """

    time: float
    dt: float
    controls: np.ndarray
    cost: float = np.nan
    prediction: np.ndarray | None = None
    candidates: np.ndarray | None = None
    candidate_costs: np.ndarray | None = None
    stats: Mapping[str, float] = field(default_factory=dict)
    memory: object = None
    feedback: Feedback | None = None
    explored: Explored | None = None

    @property
    def end(self) -> float:
        """When the last control ends [s]."""
        return self.time + self.dt * len(self.controls)

    def step_at(self, t: float) -> int:
        """Index of the control in force at `t` [s], before clipping to the plan's range."""
        # Clocks sum up dt in floating point: a time just below a step's beginning belongs to that step.
        return math.floor((t - self.time) / self.dt + 1e-6)

    def control(self, t: float, state: State | None = None) -> np.ndarray:
        """The control (nu,) in force at `t` [s]; the first or last one outside the plan's range.

        Where the plan has `feedback`, it corrects for the state at `t`, if that is given, full, and within range.
        """
        step = self.step_at(t)
        inside, feedback = 0 <= step < len(self.controls), self.feedback
        if inside and state is not None and feedback is not None and feedback.applies(state):
            return feedback.control(step, state, (t - self.time) / self.dt - step)
        return self.controls[min(max(step, 0), len(self.controls) - 1)].copy()

    def shifted(self, t: float, horizon: int) -> np.ndarray:
        """The controls (horizon, nu) from `t` [s] on, the last one held beyond the plan's end."""
        return self.controls[self.steps_from(t, horizon)]

    def steps_from(self, t: float, horizon: int) -> np.ndarray:
        """Indices (horizon,) of the controls in force from `t` [s] on, the last one repeated beyond the plan's end."""
        return _held(max(self.step_at(t), 0), horizon, len(self.controls) - 1)


@functools.lru_cache(maxsize=64)
def _held(first: int, count: int, last: int) -> np.ndarray:
    """Indices first, first + 1, ... (count,), none beyond `last`; computed once: plans keep pace."""
    index = np.minimum(np.arange(first, first + count), last)
    index.flags.writeable = False
    return index


class Planner(Protocol):
    """Searches for a plan.

    `horizon` is what the planner's settings ask for, and `replan` after how many control steps a new plan is made.
    """

    horizon: int
    replan: int

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """A plan for `problem`, begun from the plan `warm` shifted in time, if there is one."""
        ...
