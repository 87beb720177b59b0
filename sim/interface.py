"""What simulators and dynamics promise: a simulator is the plant that is driven, dynamics are what planners search."""

import os
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..robots.task import Task
from .codegen import rows


class SimulationError(RuntimeError):
    """The plant can not go on: it diverged, or refused what it was given. A state after it is not data."""


@dataclass(frozen=True)
class State:
    """Where a plant is.

    Attributes:
        time: since the episode's start [s].
        y: readings (ny,).
        x: all that the simulator needs to continue exactly (nx,), opaque outside `sim`; None where there is none.
    """

    time: float
    y: np.ndarray
    x: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """Geometry for viewers: a compiled MuJoCo model, whose bodies' poses follow from a state's `x` by `pose`."""

    model: Any
    data: Any
    restore: Any = field(repr=False)  # (x) -> None: puts `data` at that state, poses computed


@runtime_checkable
class Simulator(Protocol):
    """A plant: four methods and a control period.

    `step` raises `SimulationError` when the plant diverges, in that very step, and `ValueError` for a control of the
    wrong shape or with a NaN; every state returned has arrays of its own.
    """

    dt: float

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or continues exactly from `state` (one with an `x`)."""
        ...

    def step(self, u: np.ndarray) -> State:
        """Advances by exactly `dt` under control `u` (nu,)."""
        ...

    def scene(self) -> Scene | None:
        """Geometry for viewers; None where there is nothing to draw."""
        ...

    def close(self) -> None:
        """Frees what the simulator holds."""
        ...


class Rollout:
    """Predicted trajectories. They belong to the dynamics and hold until its next rollout: copy what you keep.

    Dynamics that find the readings in pieces of memory give a subclass that assembles `y` only when asked for it.

    Attributes:
        y: readings (E, N, H+1, ny), the first of them at the state that the rollout began from.
        valid: (E, N) False where the prediction broke down (the model diverged); its numbers mean nothing.
    """

    def __init__(self, y: np.ndarray, valid: np.ndarray) -> None:
        self.y = y
        self.valid = valid

    def of(self, candidates: slice) -> np.ndarray:
        """Readings (E, n, H+1, ny) of some of the candidates, a copy."""
        return self.y[:, candidates].copy(order="K")

    def costs(self, task: Task, controls: np.ndarray, times: np.ndarray) -> np.ndarray | None:
        """Costs (E, N), summed over the horizon, of the `controls` (N, H, nu) that led here, steps ending at `times`.

        Dynamics that evaluate a task's terms where they predict (on a GPU) give these; None: whoever asks does.
        """
        return None

    def columns(self, controls: np.ndarray) -> np.ndarray:
        """Where each member's readings after each step lie in memory, and the controls, for `codegen.Kernel.bind`.

        Args:
            controls: those of the rollout (N, H, nu).

        Returns:
            (E, ny + nu, 3), candidates being the points. The same array as for another rollout means that the numbers
            lie at the same places.
        """
        # Kept, for what is returned points to them.
        self._numbers = np.require(self.y, float, "A"), np.require(controls, float, "A")
        y, u = self._numbers
        after = rows(u, 2, 0, 1)
        return np.stack([np.concatenate((rows(member, 2, 0, 1), after)) for member in y[:, :, 1:]])


class Dynamics(Protocol):
    """What planners search; analytic or learned."""

    dt: float

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu)."""
        ...

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The predicted state after `controls` (k, nu)."""
        ...

    def close(self) -> None:
        """Frees what the dynamics hold, such as threads."""
        ...


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_control(u: np.ndarray, nu: int) -> np.ndarray:
    """`u` as a float64 array (nu,).

    Raises:
        ValueError: another shape, or an entry that is not a finite number.
    """
    control = np.asarray(u, dtype=float)
    if control.shape != (nu,):
        raise ValueError(f"control has shape {control.shape}; this robot takes ({nu},)")
    if not np.isfinite(control).all():
        raise ValueError(f"control {control} is not finite")
    return control


def check_candidates(controls: np.ndarray, nu: int) -> np.ndarray:
    """Candidates as a float64 array (N, H, nu).

    Raises:
        ValueError: another shape, or none at all.
    """
    candidates = np.asarray(controls, dtype=float)
    if candidates.ndim != 3 or candidates.shape[2] != nu or not candidates.size:
        raise ValueError(f"candidates have shape {candidates.shape}, not (N, H, {nu})")
    return candidates


def full_state(state: State) -> np.ndarray:
    """The `x` (nx,) of `state`.

    Raises:
        ValueError: it has none.
    """
    if state.x is None:
        raise ValueError("this state has readings only; continuing from it needs a state with x")
    return state.x
