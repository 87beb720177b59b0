"""The linear-quadratic regulator: Riccati recursions, their limit, and a planner that regulates to an equilibrium.

    minimise E sum_{k<H} (x . Q_k x / 2 + q_k . x + u . R_k u / 2 + r_k . u + u . N_k x) + x_H . Q_H x_H / 2 + q_H . x_H
    x_{k+1} = A_k x + B_k u + c_k + w_k,    w_k ~ N(0, Sigma_k)

has the cost-to-go x . P x / 2 + p . x + s and the policy u = K x + k, from the end on

    K = -(R + B' P B)^-1 (N + B' P A),       k = -(R + B' P B)^-1 (r + B' (p + P c))
    P <- Q + A' P A + (N + B' P A)' K,       p <- q + A' (p + P c) + (N + B' P A)' k
    s <- s + c . P c / 2 + p . c + (r + B' (p + P c)) . k / 2 + tr(P Sigma) / 2

Noise changes what it costs, not what is done about it (certainty equivalence). Over an infinite horizon P solves the
discrete algebraic Riccati equation, found here by doubling, each step of which doubles the horizon.

Sources: Levine, CS285, lecture 10; Bertsekas, Dynamic Programming and Optimal Control I, chapter 3; Anderson,
Second-order convergent algorithms for the steady-state Riccati equation, 1978 (doubling); Tedrake et al., LQR-trees,
2010 (regions of attraction).
"""

from dataclasses import dataclass

import numpy as np

from ..robots.task import Task
from ..sim.interface import Dynamics
from .expansion import objective
from .ilqr import require_differentiable
from .plan import Feedback, Plan
from .problem import Problem
from .sampling import require_at_least

SEARCH = 200
"""Newton steps in which an equilibrium is found, or there is none."""

REACH = 0.3
"""The longest of those steps, in any coordinate; half of it after each step back."""


@dataclass(frozen=True, eq=False)
class Regulator:
    """A policy u = K x + k and its cost-to-go x . P x / 2 + p . x + s, for each step.

    Attributes:
        K: (H, nu, n).
        k: (H, nu).
        P: (H+1, n, n).
        p: (H+1, n).
        s: (H+1,), what noise adds included.
    """

    K: np.ndarray
    k: np.ndarray
    P: np.ndarray
    p: np.ndarray
    s: np.ndarray


def finite(
    A: np.ndarray,
    B: np.ndarray,
    Q: np.ndarray,
    R: np.ndarray,
    *,
    N: np.ndarray | None = None,
    c: np.ndarray | None = None,
    q: np.ndarray | None = None,
    r: np.ndarray | None = None,
    noise: np.ndarray | None = None,
) -> Regulator:
    """The optimal regulator over a finite horizon; see the module for the problem.

    Args:
        A: (H, n, n).
        B: (H, n, nu).
        Q: (H+1, n, n), symmetric, the last of the final state.
        R: (H, nu, nu), symmetric.
        N: (H, nu, n); zero if not given.
        c: (H, n); zero if not given.
        q: (H+1, n); zero if not given.
        r: (H, nu); zero if not given.
        noise: Sigma (H, n, n); zero if not given.

    Raises:
        ValueError: shapes that do not fit, or a step at which the cost is not convex in the control.
    """
    horizon, n, nu = np.shape(B)
    shapes: dict[str, tuple[int, ...]] = {
        "A": (horizon, n, n),
        "Q": (horizon + 1, n, n),
        "R": (horizon, nu, nu),
        "N": (horizon, nu, n),
    }
    shapes |= {"c": (horizon, n), "q": (horizon + 1, n), "r": (horizon, nu), "noise": (horizon, n, n)}
    given = {"A": A, "Q": Q, "R": R, "N": N, "c": c, "q": q, "r": r, "noise": noise}
    full: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        value = given[name]
        full[name] = np.zeros(shape) if value is None else np.asarray(value, float)
        if full[name].shape != shape:
            raise ValueError(f"{name} has shape {full[name].shape}, not {shape} as B {np.shape(B)} asks for")
    K, k = np.empty((horizon, nu, n)), np.empty((horizon, nu))
    P, p, s = np.empty((horizon + 1, n, n)), np.empty((horizon + 1, n)), np.zeros(horizon + 1)
    P[-1], p[-1] = full["Q"][-1], full["q"][-1]
    for t in range(horizon - 1, -1, -1):
        a, b, shift, after = full["A"][t], B[t], full["c"][t], P[t + 1]
        slope = p[t + 1] + after @ shift
        uu, ux, uo = full["R"][t] + b.T @ after @ b, full["N"][t] + b.T @ after @ a, full["r"][t] + b.T @ slope
        try:
            np.linalg.cholesky(uu)
        except np.linalg.LinAlgError:
            raise ValueError(
                f"the cost is not convex in the control of step {t}: R + B' P B is no positive one"
            ) from None
        gain = -np.linalg.solve(uu, np.concatenate((ux, uo[:, None]), 1))
        K[t], k[t] = gain[:, :-1], gain[:, -1]
        whole = full["Q"][t] + a.T @ after @ a + ux.T @ K[t]
        P[t], p[t] = 0.5 * (whole + whole.T), full["q"][t] + a.T @ slope + ux.T @ k[t]
        s[t] = s[t + 1] + 0.5 * shift @ after @ shift + p[t + 1] @ shift + 0.5 * uo @ k[t]
        s[t] += 0.5 * np.trace(after @ full["noise"][t])
    return Regulator(K, k, P, p, s)


def infinite(
    A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray, N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gains K (nu, n) and cost-to-go P (n, n) over an infinite horizon, of a model that does not change.

    Args:
        A: (n, n).
        B: (n, nu).
        Q: (n, n), symmetric.
        R: (nu, nu), symmetric and positive definite.
        N: (nu, n); zero if not given.

    Raises:
        ValueError: no control can stabilise the model (the message has the mode), or the cost leaves a mode that does
            not decay out of account, or R is not positive definite.
    """
    A, B, Q, R = (np.asarray(a, float) for a in (A, B, Q, R))
    N = np.zeros((B.shape[1], len(A))) if N is None else np.asarray(N, float)
    require_stabilisable(A, B)
    try:
        np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        raise ValueError("R is not positive definite: some control costs nothing") from None
    free = np.linalg.solve(R, N)
    a, g, h = A - B @ free, B @ np.linalg.solve(R, B.T), Q - N.T @ free
    one = np.eye(len(A))
    for _ in range(60):
        middle = np.linalg.inv(one + g @ h)
        more = a.T @ h @ middle @ a
        a, g, h = a @ middle @ a, g + a @ middle @ g @ a.T, h + 0.5 * (more + more.T)
        if not np.isfinite(h).all() or np.abs(more).max() <= 1e-15 * max(np.abs(h).max(), 1e-300):
            break
    K = -np.linalg.solve(R + B.T @ h @ B, N + B.T @ h @ A) if np.isfinite(h).all() else np.full_like(N, np.nan)
    slowest = np.abs(np.linalg.eigvals(A + B @ K)).max() if np.isfinite(K).all() else np.inf
    if not slowest < 1.0:
        raise ValueError(
            "no optimal control stabilises the model: the cost does not see a mode that does not decay by itself"
        )
    return K, h


def require_stabilisable(A: np.ndarray, B: np.ndarray) -> None:
    """Checks that controls can make every mode of x' = A x + B u decay (Popov, Belevitch and Hautus' test).

    Raises:
        ValueError: one they can not; the message has its eigenvalue.
    """
    scale = max(float(np.linalg.norm(A, 2)), float(np.linalg.norm(B, 2)), 1e-300)
    for value in np.linalg.eigvals(A):
        if abs(value) < 1.0 - 1e-9:
            continue
        reach = np.linalg.svd(np.hstack((A - value * np.eye(len(A)), B)), compute_uv=False)[len(A) - 1]
        if reach <= 1e-10 * scale:
            raise ValueError(
                f"(A, B) is not stabilisable: no control moves the mode of eigenvalue {value:.6g}, "
                f"which does not decay (|{value:.6g}| = {abs(value):.6g})"
            )


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """Where a robot rests at the least cost nearby, and the regulator that holds it there.

    Attributes:
        x: (nx,).
        u: (nu,).
        K: gains (nu, n).
        P: cost-to-go dx . P dx / 2 (n, n).
    """

    x: np.ndarray
    u: np.ndarray
    K: np.ndarray
    P: np.ndarray


def equilibrium(problem: Problem, effort: float = 0.0) -> Equilibrium:
    """The equilibrium of least cost near the problem's state, and its regulator.

    Newton steps on the cost l(x, u) under f(x, u) = x; the regulator minimises the cost's model about it for ever.

    Args:
        problem: whose cost, state and limits.
        effort: added to the cost of a step for each control: half of this at a limit, quadratic in between.

    Raises:
        ValueError: none is found, it lies outside the control limits, or it can not be stabilised.
    """
    task, model = problem.task, require_differentiable("lqr", problem.dynamics)
    goal, n, nu = objective(task), model.tangent, task.robot.nu
    x, u = model.coordinates(problem.state).copy(), np.clip(np.zeros(nu), *problem.limits)
    times = problem.times[:1]
    still = np.zeros((1, nu)), np.zeros((1, nu, n)), np.zeros(1)
    weight = np.diag(effort / (0.5 * (problem.limits[1] - problem.limits[0])) ** 2)
    last, reach = np.zeros(n + nu), REACH
    for _ in range(SEARCH):
        found = model.policy_rollout(model.place(problem.state, x), np.stack((x, x)), u[None], *still, np.stack((u, u)))
        linear = model.linearize(np.stack((x, x)), u[None])
        y = np.stack((found.y[0, 0], found.y[0, 0]))
        cost = goal.expansion(y, u[None], times, linear.C)
        drift = model.difference(found.x[0, 1], x)
        slopes = np.hstack((linear.A[0] - np.eye(n), linear.B[0]))
        hessian = cost.hessian[0] + 1e-9 * np.eye(n + nu)
        hessian[n:, n:] += weight
        gradient = cost.gradient[0] + np.concatenate((np.zeros(n), weight @ u))
        system = np.block([[hessian, slopes.T], [slopes, np.zeros((n, n))]])
        if not (np.isfinite(system).all() and np.isfinite(drift).all() and np.isfinite(gradient).all()):
            raise ValueError(f"lqr finds no equilibrium of {task.name}: a derivative is not finite")
        move = np.linalg.lstsq(system, -np.concatenate((gradient, drift)), rcond=1e-13)[0][: n + nu]
        length = float(np.abs(move).max())
        # Where the cost's model is flat, steps are long, and would go to and fro for ever.
        reach = reach / 2.0 if move @ last < 0.0 else min(1.2 * reach, REACH)
        move *= min(1.0, reach / max(length, 1e-300))
        last = move
        x, u = model.displace(x, move[:n]), u + move[n:]
        if length < 1e-7 and np.abs(drift).max() < 1e-7:
            break
    else:
        raise ValueError(f"lqr finds no equilibrium of {task.name} near the state; ilqr needs none")
    low, high = problem.limits
    if (u < low - 1e-6).any() or (u > high + 1e-6).any():
        raise ValueError(f"resting at the equilibrium of {task.name} takes controls {u}, outside the limits")
    # The cost is of the state reached, z = (x', u), x' = A dx + B du: seen from the state before, it is
    A, B, W = linear.A[0], linear.B[0], hessian
    xx, ux, uu = W[:n, :n], W[n:, :n], W[n:, n:]
    cross = ux @ B
    R = uu + B.T @ xx @ B + cross + cross.T
    try:
        K, P = infinite(A, B, A.T @ xx @ A, R, B.T @ xx @ A + ux @ A)
    except ValueError as error:
        raise ValueError(f"lqr can not hold {task.name} at its equilibrium: {error}") from error
    return Equilibrium(x, u, K, P)


def region_of_attraction(
    problem: Problem, at: Equilibrium, rng: np.random.Generator, level: float, samples: int = 400
) -> float:
    """The largest rho, up to `level`, such that V = dx . P dx / 2 falls at every sampled state where V is below it.

    The regulator then leads every state in {V < rho} to the equilibrium, as far as samples can tell; control limits
    and the dynamics' nonlinearity count.
    """
    model = require_differentiable("lqr", problem.dynamics)
    n = model.tangent
    values, vectors = np.linalg.eigh(at.P)
    root = vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    least = level
    for _ in range(samples):
        direction = rng.standard_normal(n)
        direction /= np.linalg.norm(direction)
        dx = root @ direction * np.sqrt(2.0 * level * rng.uniform())
        value = 0.5 * dx @ at.P @ dx
        if value >= least:
            continue
        begin = model.place(problem.state, model.displace(at.x, dx))
        found = model.policy_rollout(
            begin, np.stack((at.x, at.x)), at.u[None], np.zeros((1, len(at.u))), at.K[None], np.zeros(1), problem.limits
        )
        after = model.difference(found.x[0, 1], at.x)
        if not (found.valid[0] and 0.5 * after @ at.P @ after < value):
            least = value
    return least


@dataclass(frozen=True, kw_only=True)
class LQR:
    """Regulates to the equilibrium of least cost near the first state, with constant gains.

    It does what is asked near that equilibrium; it does not swing up what hangs, which `ilqr` does.

    Attributes:
        horizon: number of control steps that a plan looks ahead; the gains are those of an infinite horizon.
        replan: control steps from one plan to the next.
        effort: added to the cost of a step for each control: half of this at a limit, quadratic in between. Tasks whose
            cost does not see the control would ask for all of it.

    Raises:
        ValueError: a setting outside its range; the message names it.
    """

    horizon: int = 50
    replan: int = 10
    effort: float = 0.01

    def __post_init__(self) -> None:
        require_at_least(self, horizon=1, replan=1, effort=0)

    def check(self, dynamics: Dynamics, task: Task) -> None:
        """Gets ready for plans of `task` on `dynamics`.

        Raises:
            ValueError: dynamics without derivatives, or a term whose derivatives can not be had.
        """
        require_differentiable("lqr", dynamics)
        objective(task)

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """What the regulator is predicted to do; its `memory` is the `Equilibrium`, found for the first plan.

        Raises:
            ValueError: there is no equilibrium nearby, or none that can be held.
        """
        model = require_differentiable("lqr", problem.dynamics)
        known = warm is not None and isinstance(warm.memory, Equilibrium)
        at = warm.memory if known else equilibrium(problem, self.effort)  # type: ignore[union-attr]
        assert isinstance(at, Equilibrium)
        horizon = problem.horizon
        x, u = np.tile(at.x, (horizon + 1, 1)), np.tile(at.u, (horizon, 1))
        gains = np.tile(at.K, (horizon, 1, 1))
        found = model.policy_rollout(problem.state, x, u, np.zeros_like(u), gains, np.zeros(1), problem.limits)
        problem.evaluations += 1
        cost = float(objective(problem.task).costs(found.y, found.u, problem.times)[0]) if found.valid[0] else np.inf
        away = model.difference(model.coordinates(problem.state), at.x)
        return Plan(
            time=problem.state.time,
            dt=problem.task.robot.dt,
            controls=found.u[0].copy(),
            cost=cost,
            prediction=found.y[:1].copy(),
            stats={"evaluations": problem.evaluations, "distance": float(np.linalg.norm(away))},
            memory=at,
            feedback=Feedback(x, u, gains, model, problem.limits),
        )
