"""What dynamics with derivatives promise, and the linear model along a trajectory that they give.

States x (nx,) may hold unit quaternions, so that small changes of them live in a tangent space of n <= nx dimensions:
`difference` takes two states to a tangent vector, and Jacobians are with respect to tangent vectors.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from .interface import Dynamics, State


@dataclass(frozen=True, eq=False)
class Linearization:
    """A first-order model along H steps: dx_{k+1} = A_k dx_k + B_k du_k, dy_k = C_k dx_k.

    Attributes:
        A: (H, n, n).
        B: (H, n, nu).
        C: (H+1, ny, n), of the readings of each state, the first and the last included.
    """

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N trajectories of H steps.

    Attributes:
        x: (N, H+1, nx).
        y: readings (N, H+1, ny).
        u: the controls that led there (N, H, nu).
        valid: (N,) False where the model diverged; its numbers mean nothing.
    """

    x: np.ndarray
    y: np.ndarray
    u: np.ndarray
    valid: np.ndarray


@runtime_checkable
class Differentiable(Dynamics, Protocol):
    """Dynamics with derivatives: what LQR, iLQR and the like search.

    They may also have `reads_only`, True where a state's readings are all that they need, as of learned models: plans
    then feed back on states without an `x` too.

    Attributes:
        tangent: n, dimensions of a small change of state.
    """

    tangent: int

    def coordinates(self, state: State) -> np.ndarray:
        """What trajectories hold of a full state, (nx,): what moves, in this model's own order.

        Raises:
            ValueError: `state` has no `x`, or one of another robot.
        """
        ...

    def place(self, state: State, x: np.ndarray) -> State:
        """The full state that is as `state`, but at the coordinates `x` (nx,)."""
        ...

    def displace(self, x: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """The states (..., nx) to which tangent vectors `dx` (..., n) lead from `x` (..., nx)."""
        ...

    def linearize(self, x: np.ndarray, u: np.ndarray) -> Linearization:
        """The linear model along states `x` (H+1, nx) and controls `u` (H, nu); gaps between steps are allowed."""
        ...

    def difference(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The tangent vectors (..., n) that lead from `other` (..., nx) to `x` (..., nx)."""
        ...

    def policy_rollout(
        self,
        state: State,
        x: np.ndarray,
        u: np.ndarray,
        feedforward: np.ndarray,
        feedback: np.ndarray,
        steps: np.ndarray,
        limits: np.ndarray,
    ) -> Trajectories:
        """Rolls out N policies about a reference, one for each step size a.

            u_k = clip(u_k + a feedforward_k + feedback_k (x_k - reference_k), limits)

        Args:
            state: where all begin, a full state.
            x: the reference (H+1, nx); differences to it are tangent vectors.
            u: its controls (H, nu).
            feedforward: (H, nu).
            feedback: (H, nu, n).
            steps: the step sizes a (N,).
            limits: of controls (2, nu).
        """
        ...
