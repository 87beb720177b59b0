"""Nonlinear MPC by direct multiple shooting (Bock and Plitt, 1984), on robots in closed form.

States and controls of all steps are unknowns of one sparse nonlinear program,

    min sum_k l(y(x_{k+1}), u_k, t_{k+1}) + phi(y(x_H), u_{H-1}, t_H)
    s.t. x_0 as measured, x_{k+1} = f(x_k, u_k), low <= u_k <= high, c(y(x_{k+1}), u_k, t_{k+1}) <= 0

with the task's own terms and constraints. CasADi (Andersson et al., 2019) differentiates it; its solvers solve it.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..robots.plugins import UnknownName
from ..robots.task import Task
from ..sim.interface import Dynamics, full_state
from .plan import Plan
from .problem import Problem
from .sampling import require_at_least, require_positive
from .tracing import traced

Solver = Literal["ipopt", "fatrop", "sqp"]


@dataclass(frozen=True, kw_only=True)
class NMPC:
    """Solves the plan as a nonlinear program.

    A plan's `stats` have `iterations`, `converged` (0 or 1) and `violation`, by how much constraints are missed; its
    `memory` is the `Solution`, whose `status` is the solver's own word. A plan that does not converge is the solver's
    last iterate; one that is not finite has an infinite cost, and the shifted previous controls.

    Attributes:
        horizon: number of control steps that a plan looks ahead.
        replan: control steps from one plan to the next.
        solver: `ipopt` (interior point, Waechter and Biegler, 2006, the most robust), `fatrop` (interior point along
            stages, Vanroye et al., 2023, faster on long horizons), or `sqp` (sequential quadratic programming from the
            shifted plan; with few `iterations` a real-time iteration, Diehl et al., 2005).
        iterations: at most, of a plan.
        first_iterations: the same of the first plan, which starts from nothing.
        tolerance: at which the solver stops.

    Raises:
        ValueError: a setting outside its range; the message names it.
    """

    horizon: int = 50
    replan: int = 1
    solver: Solver = "ipopt"
    iterations: int = 50
    first_iterations: int = 500
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        require_at_least(self, horizon=1, replan=1, iterations=1, first_iterations=1)
        require_positive(self, "tolerance")
        if self.solver not in ("ipopt", "fatrop", "sqp"):
            raise UnknownName("solver", self.solver, ("ipopt", "fatrop", "sqp"))

    def check(self, dynamics: Dynamics, task: Task) -> None:
        """Refuses what can not be planned on, before a run begins.

        Raises:
            ValueError: the dynamics are not in closed form, each start draws parts of the task's model anew, or its
                terms do not run on symbols.
        """
        if not hasattr(dynamics, "step") or not hasattr(dynamics, "model"):
            raise ValueError("nmpc plans on robots in closed form: use the dynamics casadi or pinocchio")
        if dynamics.model.constant:
            raise ValueError(
                f"nmpc can not plan for {task.name}: each start draws parts of its model anew; ilqr and the sampling "
                f"planners can"
            )
        for evaluate in (task.cost, task.terminal_cost, *([task.violations] if task.constraints else [])):
            traced(task, evaluate)

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """A plan for `problem`, begun from the solution of `warm` shifted in time, if there is one.

        Raises:
            ValueError: the dynamics are not in closed form, or the task's terms do not run on symbols.
        """
        program = _program(problem, self, warm is None)
        begin = _packed(problem)
        before = warm.memory if warm is not None and isinstance(warm.memory, Solution) else None
        guess = _shifted(before, warm, problem, begin)
        found = program.solve(guess, begin, problem.times)
        problem.evaluations += found.iterations
        controls = np.clip(found.u, *problem.limits)
        finite = bool(np.isfinite(found.cost) and np.isfinite(found.u).all() and np.isfinite(found.x).all())
        if not finite:
            controls = guess.u
        y = np.stack([problem.state.y, *program.readings(found.x[1:])]) if finite else None
        return Plan(
            time=problem.state.time,
            dt=problem.dynamics.dt,
            controls=controls,
            cost=found.cost if finite else np.inf,
            prediction=None if y is None else y[None],
            stats={
                "evaluations": found.iterations,
                "iterations": found.iterations,
                "converged": float(found.converged),
                "violation": found.violation,
            },
            memory=found if finite else None,
        )


@dataclass(frozen=True, eq=False)
class Solution:
    """Where a solver stopped.

    Attributes:
        x, u: states (H+1, nx) and controls (H, nu).
        multipliers: of the constraints, in the program's order.
        bounds: multipliers of the unknowns' bounds.
        cost: of the plan.
        violation: the largest constraint violation.
        iterations: that the solver made.
        converged: whether it says so.
        status: its own word.
    """

    x: np.ndarray
    u: np.ndarray
    multipliers: np.ndarray
    bounds: np.ndarray
    cost: float = np.nan
    violation: float = np.nan
    iterations: int = 0
    converged: bool = False
    status: str = ""


class _Program:
    """The program of a task on dynamics, for a horizon."""

    def __init__(self, task: Task, dynamics: Any, planner: NMPC, limits: np.ndarray, first: bool) -> None:
        import casadi as ca

        self.horizon = planner.horizon
        step, symbolic = dynamics.step.function, dynamics.model.symbolic
        nx, nu, horizon = symbolic.nx, symbolic.nu, planner.horizon
        sense = dynamics.model.readings
        x, u, t = ca.SX.sym("x", nx), ca.SX.sym("u", nu), ca.SX.sym("t")
        y = sense(x)
        stage = ca.Function("stage", [x, u, t], [traced(task, task.cost)(y, u, t)])
        terminal = any(term.terminal_weight for term in task.terms)
        last = ca.Function("last", [x, u, t], [traced(task, task.terminal_cost)(y, u, t) if terminal else ca.SX(0)])
        rules = traced(task, task.violations)(y, u, t) if task.constraints else ca.SX(0, 1)
        path = ca.Function("path", [x, u, t], [rules])
        count = rules.numel()
        xs = [ca.MX.sym(f"x{k}", nx) for k in range(horizon + 1)]
        us = [ca.MX.sym(f"u{k}", nu) for k in range(horizon)]
        begin, times = ca.MX.sym("begin", nx), ca.MX.sym("times", horizon)
        # Stage by stage, the order in which fatrop finds the problem's structure: x_0, u_0, x_1, ...; of each stage
        # the step to the next, and then its own constraints.
        unknowns, low, high = [], [], []
        for k in range(horizon + 1):
            unknowns.append(xs[k])
            low.append(np.full(nx, -np.inf))
            high.append(np.full(nx, np.inf))
            if k < horizon:
                unknowns.append(us[k])
                low.append(limits[0])
                high.append(limits[1])
        rows, least, most, equal = [], [], [], []
        cost: Any = 0.0
        for k in range(horizon + 1):
            if k < horizon:
                rows.append(xs[k + 1] - step(xs[k], us[k]))
                least.append(np.zeros(nx))
                most.append(np.zeros(nx))
                equal += [True] * nx
                cost = cost + stage(xs[k + 1], us[k], times[k])
            if k == 0:
                rows.append(xs[0] - begin)
                least.append(np.zeros(nx))
                most.append(np.zeros(nx))
                equal += [True] * nx
            elif count:
                rows.append(path(xs[k], us[k - 1], times[k - 1]))
                least.append(np.full(count, -np.inf))
                most.append(np.zeros(count))
                equal += [False] * count
        cost = cost + last(xs[-1], us[-1], times[-1])
        self._low, self._high = np.concatenate(low), np.concatenate(high)
        self._least, self._most = np.concatenate(least), np.concatenate(most)
        program = {"x": ca.vertcat(*unknowns), "f": cost, "g": ca.vertcat(*rows), "p": ca.vertcat(begin, times)}
        self._solver = ca.nlpsol("nmpc", *_options(planner, first, program, equal))
        self._values = ca.Function("values", [program["x"], program["p"]], [program["f"], program["g"]])
        self._sense = sense.map(horizon)
        self.nx, self.nu = nx, nu

    def solve(self, guess: Solution, begin: np.ndarray, times: np.ndarray) -> Solution:
        """The solution from `guess`, for the state `begin` (nx,) and steps that end at `times` (H,) [s]."""
        unknowns = np.concatenate([np.concatenate((x, u)) for x, u in zip(guess.x, guess.u)] + [guess.x[-1]])
        given: dict[str, Any] = {}
        if len(guess.multipliers):
            given = {"lam_g0": guess.multipliers, "lam_x0": guess.bounds}
        p = np.concatenate((begin, times))
        found = self._solver(
            x0=unknowns,
            p=p,
            lbx=self._low,
            ubx=self._high,
            lbg=self._least,
            ubg=self._most,
            **given,
        )
        values = np.ravel(found["x"].full())
        stages = values[: -self.nx].reshape(self.horizon, self.nx + self.nu)
        # A solver that gave up at once says 0 for both.
        f, g = (np.ravel(value.full()) for value in self._values(found["x"], p))
        stats = self._solver.stats()
        return Solution(
            x=np.concatenate((stages[:, : self.nx], values[None, -self.nx :])),
            u=stages[:, self.nx :].copy(),
            multipliers=np.ravel(found["lam_g"].full()),
            bounds=np.ravel(found["lam_x"].full()),
            cost=float(f[0]),
            violation=float(max(np.max(g - self._most, initial=0.0), np.max(self._least - g, initial=0.0))),
            iterations=int(stats.get("iter_count", 0)),
            converged=bool(stats["success"]),
            status=str(stats["return_status"]),
        )

    def readings(self, x: np.ndarray) -> np.ndarray:
        """Readings (H, ny) of states (H, nx)."""
        return np.asarray(self._sense(x.T).full()).T


def _options(planner: NMPC, first: bool, program: dict[str, Any], equal: list[bool]) -> tuple[str, dict, dict]:
    most = planner.first_iterations if first else planner.iterations
    quiet: dict[str, Any] = {"print_time": False, "error_on_fail": False, "show_eval_warnings": False}
    if planner.solver == "ipopt":
        ipopt = {"print_level": 0, "sb": "yes", "max_iter": most, "tol": planner.tolerance}
        # A warm start that is pushed back into the interior is none.
        warm = {} if first else {"warm_start_init_point": "yes", "mu_init": 1e-3}
        return "ipopt", program, {**quiet, "ipopt": {**ipopt, **warm}}
    if planner.solver == "fatrop":
        fatrop = {"print_level": 0, "max_iter": most, "tol": planner.tolerance}
        return "fatrop", program, {**quiet, "structure_detection": "auto", "equality": equal, "fatrop": fatrop}
    options = {
        **quiet,
        "max_iter": most,
        "tol_pr": planner.tolerance,
        "tol_du": planner.tolerance,
        "print_header": False,
        "print_iteration": False,
        "print_status": False,
        "convexify_strategy": "regularize",
        "qpsol": "osqp",
        "qpsol_options": {"print_time": False, "error_on_fail": False, "osqp": {"verbose": False, "eps_abs": 1e-6}},
    }
    return "sqpmethod", program, options


_known: "weakref.WeakKeyDictionary[Dynamics, dict[Any, tuple[Task, _Program]]]" = weakref.WeakKeyDictionary()


def _program(problem: Problem, planner: NMPC, first: bool) -> _Program:
    """The program for `problem`, built when it is first asked for."""
    dynamics = problem.dynamics
    programs = _known.setdefault(dynamics, {})
    key = (id(problem.task), planner, first)
    if key not in programs:
        planner.check(dynamics, problem.task)
        programs[key] = problem.task, _Program(problem.task, dynamics, planner, problem.limits, first)
    return programs[key][1]


def _packed(problem: Problem) -> np.ndarray:
    full_state(problem.state)
    dynamics: Any = problem.dynamics
    return dynamics.model.unpack(problem.state)


def _shifted(before: Solution | None, warm: Plan | None, problem: Problem, begin: np.ndarray) -> Solution:
    """The last solution as a guess from now on; without one, standing still under no control."""
    horizon, limits = problem.horizon, problem.limits
    none = np.empty(0)
    if before is None or warm is None:
        u = np.clip(np.zeros((horizon, limits.shape[1])), *limits)
        return Solution(np.tile(begin, (horizon + 1, 1)), u, none, none)
    index = warm.steps_from(problem.state.time, horizon)
    x = before.x[np.minimum(np.append(index, index[-1] + 1), len(before.x) - 1)]
    x[0] = begin
    return Solution(x, np.clip(before.u[index], *limits), before.multipliers, before.bounds)
