"""What a learner knows that planners can use: what the future is worth beyond a plan, and what a policy would do.

A planner that looks H steps ahead and asks a value function V for what comes then,

    min over U of  - sum_{k<H} w g^k r(y_{k+1}, u_k) - g^H V(y_H)

decides as one that looks ahead for ever, if V is right; where V is not, its error counts g^H of what it would without
planning (Lowrey et al., Plan online, learn offline, 2019; Bertsekas, Lessons from AlphaZero for optimal, model
predictive, and adaptive control, 2022). A policy's actions are among the candidates, so that a plan of a planner that
samples is never worse, on the same model, than the policy.

Units are the value's: rewards are its task's, one for each of its control steps `dt`, summed over the steps of a
decision, and `discount` is of a decision. A plan's step of another length has w = (its length) / dt of them, all as the
last one, and g = discount^(its length / period).
"""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ..robots import plugins
from ..robots.arrays import Array
from ..robots.layout import View
from ..robots.task import Task, Term
from ..sim.interface import Dynamics, Rollout, SimulationError, State
from .compiled_cost import compiled_cost, summed

DEFAULT = "trained"
"""The plugin that is asked where none is named."""


@runtime_checkable
class Guide(Protocol):
    """A policy and its value function, of readings alone."""

    @property
    def discount(self) -> float:
        """Of what comes a decision later, from 0 to 1."""
        ...

    @property
    def period(self) -> float:
        """Of decisions [s]."""
        ...

    @property
    def dt(self) -> float:
        """Control period [s], for each of which there is a reward."""
        ...

    def value(self, y: np.ndarray) -> np.ndarray:
        """Expected discounted sum (...) of rewards, summed per decision, from readings `y` (..., ny) on."""
        ...

    def action(self, y: np.ndarray) -> np.ndarray:
        """What the policy does on average, (..., nu) within limits, on readings `y` (..., ny)."""
        ...


def may_be_learned(name: str) -> bool:
    """Whether `load` may know that name: it is a path, or another plugin's."""
    return ":" in name or os.sep in name or Path(name).exists()


def load(name: str, task: Task) -> Guide:
    """What was learned for planning `task`, by the folder of its run.

    Args:
        name: a folder, for the plugin `trained` of the group `trimtab.guides`; or PLUGIN:ARGUMENT for another.
        task: as plans see it.

    Raises:
        PluginError: the plugin fails to import.
        ValueError: there is nothing of the kind there, or it is another robot's.
        OSError: a file can not be read.
    """
    kind, colon, argument = name.partition(":")
    if not (colon and kind in plugins.names("guides")):
        kind, argument = DEFAULT, name
    return plugins.find("guides", kind)(argument, task)


class ValuedReturn:
    """What plans cost by a value function: minus their rewards, and minus what is to be expected beyond.

    Where an episode ends within the horizon nothing comes after. A model's reward for exploring (see `Rollout.costs`)
    counts for tasks that end by time alone.

    Args:
        guide: whose value function.
        task: as plans see it.

    Attributes:
        guide: see there.
        discount: of a step of `task`, g.
        rewards: that a step of `task` counts for, w.
    """

    def __init__(self, guide: Guide, task: Task) -> None:
        self.guide = guide
        self.discount = g = float(guide.discount) ** (task.robot.dt / guide.period)
        self.rewards = w = task.robot.dt / guide.dt
        self._task = task

        def lost(y: View, u: Array, k: Array) -> Array:
            return -(w * g**k * task.score(y, u))[..., None]

        # As a task's terms rewards are compiled, and evaluated where an ensemble is, like any cost.
        self._scored = replace(task, terms=(Term("reward", lost),), constraints=())
        compiled_cost(self._scored)

    def __call__(self, rollout: Rollout, controls: np.ndarray) -> np.ndarray:
        """Costs (E, N) of the `controls` (N, H, nu) that led to `rollout`; what invalid ones cost means nothing."""
        horizon = controls.shape[1]
        steps = _numbers(horizon)
        with np.errstate(all="ignore"):
            beyond = self.discount**horizon * self.guide.value(rollout.y[:, :, -1])
            if self._task.end is None:
                return self._gone(rollout, controls, steps) - beyond
            reached = rollout.y[:, :, 1:]
            ended = np.asarray(self._task.terminated(reached), bool)
            over = np.logical_or.accumulate(ended, axis=2)
            reward = np.broadcast_to(self._task.reward(reached, controls[None]), ended.shape)  # it may be a constant
            gained = self.rewards * reward * self.discount**steps
            gained[:, :, 1:][over[:, :, :-1]] = 0.0
            return -gained.sum(axis=2) - np.where(over[:, :, -1], 0.0, beyond)

    def _gone(self, rollout: Rollout, controls: np.ndarray, steps: np.ndarray) -> np.ndarray:
        costs = rollout.costs(self._scored, controls, steps)
        if costs is None and (compiled := compiled_cost(self._scored)) is not None:
            costs = compiled(rollout, controls, steps)
        return summed(self._scored, rollout.y, controls, steps) if costs is None else costs


def followed(guide: Guide, dynamics: Dynamics, state: State, horizon: int, limits: np.ndarray) -> np.ndarray | None:
    """The controls (horizon, nu) by which a policy goes on from `state`, as the dynamics expect it.

    Where they break down the last control is held; None where the policy gives no numbers.

    Args:
        guide: whose policy; what it decides lasts a whole number of steps, at least one.
        dynamics: predict.
        state: where it begins.
        horizon: number of steps.
        limits: of controls (2, nu).
    """
    held = max(1, round(guide.period / dynamics.dt))
    controls = np.empty((horizon, limits.shape[1]))
    for k in range(0, horizon, held):
        controls[k:] = np.clip(guide.action(state.y), *limits)
        if k + held < horizon:
            try:
                state = dynamics.advance(state, controls[k : k + held])
            except SimulationError:
                break
    return controls if np.isfinite(controls).all() else None


@lru_cache(maxsize=64)
def _numbers(horizon: int) -> np.ndarray:
    """0, 1, ... (horizon,)."""
    return np.arange(float(horizon))
