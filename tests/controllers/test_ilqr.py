"""iLQR on problems whose optimum is known otherwise, and on robots."""

import dataclasses

import casadi as ca
import numpy as np
import pytest
from scipy.optimize import lsq_linear
from trimtab import robots, sim
from trimtab.controllers import MPC, lqr
from trimtab.controllers.expansion import objective, penalised
from trimtab.controllers.ilqr import ILQR, Status
from trimtab.controllers.problem import Problem
from trimtab.controllers.riccati import Recursion
from trimtab.robots.arrays import entry
from trimtab.robots.layout import Reading
from trimtab.robots.shaping import column
from trimtab.robots.task import Constraint, Robot, Start, Task, Term, quadratic
from trimtab.sim.interface import Rollout, State
from trimtab.sim.linearization import Linearization, Trajectories

HORIZON, DT = 12, 0.1


class Linear:
    """x' = A x + B u + c, all of it read."""

    dt = DT

    def __init__(self, A, B, c=0.0):
        self.A, self.B, self.c = A, B, c
        self.tangent = len(A)

    def _step(self, x, u):
        return x @ self.A.T + u @ self.B.T + self.c

    def rollout(self, state, controls, rng):
        y = [np.repeat(state.x[None], len(controls), 0)]
        for u in controls.swapaxes(0, 1):
            y.append(self._step(y[-1], u))
        return Rollout(np.stack(y, 1)[None], np.ones((1, len(controls)), bool))

    def advance(self, state, controls):
        x = state.x
        for u in controls:
            x = self._step(x, u)
        return State(state.time + DT * len(controls), x, x)

    def coordinates(self, state):
        return state.x

    def place(self, state, x):
        return State(state.time, x, x)

    def difference(self, x, other):
        return x - other

    def displace(self, x, dx):
        return x + dx

    def linearize(self, x, u):
        rest = len(u), 1, 1
        return Linearization(np.tile(self.A, rest), np.tile(self.B, rest), np.tile(np.eye(len(self.A)), (len(x), 1, 1)))

    def policy_rollout(self, state, x, u, feedforward, feedback, steps, limits):
        states, controls = [np.repeat(state.x[None], len(steps), 0)], []
        for k in range(len(u)):
            away = states[-1] - x[k]
            controls.append(np.clip(u[k] + steps[:, None] * feedforward[k] + away @ feedback[k].T, *limits))
            states.append(self._step(states[-1], controls[-1]))
        whole = np.stack(states, 1)
        return Trajectories(whole, whole, np.stack(controls, 1), np.ones(len(steps), bool))

    def close(self):
        pass


def task(n, nu, terms, limit=np.inf, constraints=()):
    limits = np.array([[-limit] * nu, [limit] * nu])
    robot = Robot("line", None, (Reading("y", n),), DT, limits=limits)
    start = Start(np.zeros(1), np.zeros(1))
    return Task("line-go", robot, lambda y, u: 0.0 * u[..., 0], terms, lambda s: start, 1.0, constraints=constraints)


def positive(rng, n):
    root = rng.standard_normal((n, n))
    return root @ root.T + 0.1 * np.eye(n)


class LQ:
    """A linear-quadratic problem, and its cost as a function of all controls at once."""

    def __init__(self, seed=0, n=4, nu=2, limit=1e6, constraints=()):
        rng = np.random.default_rng(seed)
        self.n, self.nu, self.x = n, nu, rng.standard_normal(n)
        self.model = Linear(rng.standard_normal((n, n)) / np.sqrt(n), rng.standard_normal((n, nu)), 0.1)
        self.root = np.linalg.cholesky(positive(rng, n + nu))  # with a cross term
        self.aim, self.last = rng.standard_normal(n + nu), np.linalg.cholesky(positive(rng, n))

        def whole(view, u, t):
            z = np.concatenate([view.y, u], -1)
            return (z - self.aim) @ self.root

        terms = (
            Term("whole", whole, norm=quadratic),
            Term("end", lambda view, u, t: view.y @ self.last, norm=quadratic, weight=0.0, terminal_weight=2.0),
        )
        self.task = task(n, nu, terms, limit, constraints)

    def problem(self, time=0.0):
        return Problem(self.model, self.task, State(time, self.x, self.x), HORIZON, np.random.default_rng(0))

    def residuals(self):
        """J (m, H nu) and r (m,): the cost is |J U + r|^2 / 2; and what U does to states, (H, n, H nu) and (H, n)."""
        size = HORIZON * self.nu
        slope, x, rows, offsets, slopes, states = np.zeros((self.n, size)), self.x, [], [], [], []
        for k in range(HORIZON):
            mine = np.eye(size)[k * self.nu : (k + 1) * self.nu]
            slope = self.model.A @ slope + self.model.B @ mine
            x = self.model.A @ x + 0.1
            slopes.append(slope)
            states.append(x)
            rows.append(self.root.T @ np.vstack((slope, mine)))
            offsets.append(self.root.T @ (np.concatenate((x, np.zeros(self.nu))) - self.aim))
        rows.append(np.sqrt(2.0) * self.last.T @ slope)
        offsets.append(np.sqrt(2.0) * self.last.T @ x)
        return np.concatenate(rows), np.concatenate(offsets), np.array(slopes), np.array(states)


def exact(**settings):
    return ILQR(horizon=HORIZON, knots=4, first_samples=0, tolerance=1e-14, **settings)


def solved(lq, planner=None, **settings):
    return (planner or exact(**settings)).plan(lq.problem(), None, np.random.default_rng(0))


def test_a_linear_quadratic_problem_takes_one_step():
    lq = LQ()
    plan = solved(lq)
    J, r, *_ = lq.residuals()
    best = np.linalg.lstsq(J, -r)[0]
    np.testing.assert_allclose(plan.controls.ravel(), best, atol=1e-8)
    assert plan.cost == pytest.approx(0.5 * np.sum((J @ best + r) ** 2), rel=1e-10)
    assert plan.memory.status is Status.CONVERGED
    assert plan.stats["iterations"] == 2
    assert solved(lq, iterations=1, first_iterations=1).cost == pytest.approx(plan.cost, rel=1e-10)


def test_gains_are_the_regulators():
    lq = LQ()
    n, nu = lq.n, lq.nu
    # The cost is of the state that a step leads to: seen from the state before it, z = F (x, u), F = [A B; 0 I].
    W = lq.root @ lq.root.T
    F = np.block([[lq.model.A, lq.model.B], [np.zeros((nu, n)), np.eye(nu)]])
    whole = F.T @ W @ F
    Q = np.tile(whole[:n, :n], (HORIZON + 1, 1, 1))
    Q[-1] = 2.0 * lq.last @ lq.last.T
    K = lqr.finite(
        np.tile(lq.model.A, (HORIZON, 1, 1)),
        np.tile(lq.model.B, (HORIZON, 1, 1)),
        Q,
        np.tile(whole[n:, n:], (HORIZON, 1, 1)),
        N=np.tile(whole[n:, :n], (HORIZON, 1, 1)),
    ).K
    np.testing.assert_allclose(solved(lq).feedback.gains, K, atol=1e-8)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_limits_are_a_box_constrained_least_squares_problem(seed, limit):
    lq = LQ(seed, limit=limit)
    plan = solved(lq, iterations=60)
    J, r, *_ = lq.residuals()
    best = lsq_linear(J, -r, (-limit, limit), method="bvls", tol=1e-14)
    assert plan.cost == pytest.approx(best.cost, rel=1e-7)
    np.testing.assert_allclose(plan.controls.ravel(), best.x, atol=1e-4 * limit)
    held = np.abs(plan.controls) >= limit
    assert held.any() == (np.abs(best.x) > 0.999 * limit).any()
    np.testing.assert_array_equal(plan.feedback.gains[held], 0.0)


def backward(A, B, gradient, hessian, gaps, low, high, mu=0.0, curvature=None):
    """The best policy on a linear-quadratic model."""
    recursion = Recursion(*B.shape)
    recursion.F[:], recursion.gradient[:], recursion.hessian[:] = np.concatenate((A, B), 2), gradient, hessian
    return recursion.solve(low, high, mu, gaps, curvature)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_single_step_is_a_box_constrained_quadratic_program(size):
    rng = np.random.default_rng(size)
    for _ in range(50):
        H, q = positive(rng, size), rng.standard_normal(size)
        low, high = np.sort(rng.standard_normal((2, size)), 0)
        hessian = np.zeros((1, size + 1, size + 1))
        hessian[0, 1:, 1:] = H
        policy = backward(
            np.zeros((1, 1, 1)), np.zeros((1, 1, size)), np.concatenate(([0.0], q))[None], hessian, np.zeros((1, 1)),
            low[None], high[None],
        )  # fmt: skip
        root = np.linalg.cholesky(H)
        best = lsq_linear(root.T, -np.linalg.solve(root, q), (low, high), method="bvls", tol=1e-14).x
        np.testing.assert_allclose(policy.feedforward[0], best, atol=1e-7)


@pytest.mark.parametrize("gapped", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_no_control_of_a_step_does_better_while_the_policy_goes_on(mu, gapped):
    rng = np.random.default_rng(0)
    horizon, n, nu = 5, 3, 2
    A, B = rng.standard_normal((horizon, n, n)), rng.standard_normal((horizon, n, nu))
    W, g = np.array([positive(rng, n + nu) for _ in range(horizon)]), rng.standard_normal((horizon, n + nu))
    S = np.array([0.1 * positive(rng, n + nu) for _ in range(horizon)])
    d = gapped * rng.standard_normal((horizon, n))
    limit = np.full((horizon, nu), 0.4)
    policy = backward(A, B, g, W, d if gapped else None, -limit, limit, mu, S)

    def cost(first, x, u):
        """Of a control `u` at step `first`, and the policy from there on."""
        total = 0.5 * mu * u @ u
        for k in range(first, horizon):
            if k > first:
                u = policy.feedforward[k] + policy.feedback[k] @ x
            z = np.concatenate((x, u))
            total += 0.5 * z @ S[k] @ z
            x = A[k] @ x + B[k] @ u + d[k]
            z = np.concatenate((x, u))
            total += g[k] @ z + 0.5 * z @ W[k] @ z
        return total

    def slopes(k, x):
        """By the controls of a step: the cost is quadratic, so that these differences are exact."""
        u = policy.feedforward[k] + policy.feedback[k] @ x
        return np.array([0.5 * (cost(k, x, u + e) - cost(k, x, u - e)) for e in np.eye(nu)])

    held = 0
    for k in range(horizon):
        scale = abs(cost(k, np.zeros(n), np.ones(nu)))
        at = np.abs(policy.feedforward[k]) >= limit[k]
        held += at.sum()
        assert (slopes(k, np.zeros(n))[at] * policy.feedforward[k, at] <= 0.0).all()
        for x in (np.zeros(n), *rng.standard_normal((3, n))):
            np.testing.assert_allclose(slopes(k, x)[~at], 0.0, atol=1e-10 * scale)
    assert 0 < held < horizon * nu


@pytest.mark.parametrize(("limit", "sizes"), [(1e6, [1.0, 0.5, 0.1]), (0.3, [1.0])])  # limits bend what is between
def test_what_the_model_promises_is_kept(limit, sizes):
    lq = LQ(limit=limit)
    state, u = lq.problem().state, np.full((HORIZON, lq.nu), 0.1)
    start = lq.model.rollout(state, u[None], None)
    linear, times = lq.model.linearize(start.y[0, 0], u), lq.problem().times
    model = objective(lq.task).expansion(start.y[0, 0], u, times, linear.C)
    gaps = np.zeros((HORIZON, lq.n))
    policy = backward(linear.A, linear.B, model.gradient, model.hessian, gaps, -limit - u, limit - u)
    free, tried = np.array([[-np.inf], [np.inf]]) * np.ones(lq.nu), np.array([0.0, *sizes])
    found = lq.model.policy_rollout(state, start.y[0, 0], u, policy.feedforward, policy.feedback, tried, free)
    costs = objective(lq.task).costs(found.y, found.u, times)
    np.testing.assert_allclose(
        costs[0] - costs[1:], [-size * (policy.slope + 0.5 * size * policy.curvature) for size in sizes], rtol=1e-9
    )


def test_an_indefinite_step_is_named():
    A, B, W = np.eye(1)[None].repeat(3, 0), np.eye(1)[None].repeat(3, 0), np.zeros((3, 2, 2))
    W[1, 1, 1] = -1.0
    W[2, 1, 1] = 1.0
    wide = np.full((3, 1), np.inf)
    assert backward(A, B, np.zeros((3, 2)), W, np.zeros((3, 1)), -wide, wide).failed == 1


def wall(view, u, t):
    return entry(view.y, slice(0, 2)) - 0.1


def test_constraints_are_a_quadratic_programs():
    lq = LQ(limit=0.8, constraints=(Constraint("wall", wall),))
    lq.x = np.array([-0.2, -0.4, 0.3, 0.1])
    plan = solved(lq, iterations=80, feasibility=1e-7)
    J, r, slopes, states = lq.residuals()
    size = HORIZON * lq.nu
    rows = slopes[:, :2].reshape(-1, size)
    quiet = {"printLevel": "none", "error_on_fail": False}
    solver = ca.conic("qp", "qpoases", {"h": ca.Sparsity.dense(size, size), "a": ca.Sparsity.dense(*rows.shape)}, quiet)
    best = solver(
        h=J.T @ J, g=J.T @ r, a=rows, uba=(0.1 - states[:, :2]).ravel(), lba=-1e9, lbx=-0.8, ubx=0.8
    )  # fmt: skip
    assert solver.stats()["success"]
    assert plan.memory.status is Status.CONVERGED
    assert plan.stats["violation"] <= 1e-7
    assert plan.cost == pytest.approx(float(best["cost"]) + 0.5 * r @ r, rel=1e-5)
    assert objective(lq.task).violations(plan.prediction, plan.controls[None], lq.problem().times).max() > -1e-5


def test_constraints_that_contradict_are_told():
    both = (
        Constraint("right", lambda v, u, t: column(1.0 - entry(v.y, 0))),
        Constraint("left", lambda v, u, t: column(entry(v.y, 0))),
    )
    lq = LQ(constraints=both)
    plan = solved(lq, iterations=200)
    assert plan.memory.status is Status.VIOLATED
    assert "violated by" in plan.memory.reason
    assert plan.stats["violation"] > 0.4


def test_a_guess_with_gaps_leads_to_the_same_plan():
    lq = LQ()
    rng = np.random.default_rng(1)
    guess = rng.standard_normal((HORIZON + 1, lq.n)), rng.standard_normal((HORIZON, lq.nu))
    plan = exact().solve(lq.problem(), *guess)
    np.testing.assert_allclose(plan.controls, solved(lq).controls, atol=1e-8)
    with pytest.raises(ValueError, match="states"):
        exact().solve(lq.problem(), guess[0][1:], guess[1])
    with pytest.raises(ValueError, match="not finite"):
        exact().solve(lq.problem(), np.nan * guess[0], guess[1])


def test_a_replan_begins_where_the_plan_before_was():
    lq = LQ(limit=0.3)
    first = solved(lq, iterations=60)
    lq.x = lq.model.advance(lq.problem().state, first.controls[:1]).x
    second = exact(iterations=1).plan(lq.problem(DT), first, np.random.default_rng(0))
    J, r, *_ = lq.residuals()
    tail = np.concatenate((first.controls[1:], first.controls[-1:])).ravel()
    assert second.cost <= 0.5 * np.sum((J @ tail + r) ** 2)


# Expansions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cartpole-swingup", "walker-walk", "cheetah-run", "reacher-hard", "acrobot-swingup"])
def test_the_costs_gradient_is_its_slope_through_the_readings(name):
    task = robots.load(name)
    ny, nu, n, steps = task.robot.layout.size, task.robot.nu, 5, 6
    rng = np.random.default_rng(0)
    y, u = 0.5 * rng.standard_normal((steps + 1, ny)), rng.uniform(-0.9, 0.9, (steps, nu))
    C, times = rng.standard_normal((steps + 1, ny, n)), np.linspace(0.1, 0.6, steps)
    model = objective(task).expansion(y, u, times, C)

    def cost(dz):
        reached, v = y[1:] + (C[1:] @ dz[:n]), u + dz[n:]
        costs = task.cost(reached, v, times)
        if any(term.terminal_weight for term in task.terms):
            costs[-1] += task.terminal_cost(reached[-1], v[-1], times[-1])
        return costs

    h = 1e-6
    slopes = np.stack([(cost(h * e) - cost(-h * e)) / (2 * h) for e in np.eye(n + nu)], 1)
    np.testing.assert_allclose(model.gradient, slopes, rtol=1e-5, atol=1e-6)
    assert np.linalg.eigvalsh(model.hessian).min() > -1e-9
    np.testing.assert_allclose(model.hessian, model.hessian.mT, atol=1e-9)


def test_a_convex_costs_hessian_is_exact_and_what_bends_down_is_flat():
    def bowl(view, u, t):
        a, b = entry(view.y, 0), entry(view.y, 1)
        return column(np.exp(a) + 2.0 * b * b)

    def hill(view, u, t):
        return column(np.cos(entry(view.y, 0)) - 3.0 * entry(u, 0) * entry(u, 0))

    y, u, C = np.array([[0.0, 0.0], [0.2, 0.5]]), np.array([[0.3]]), np.tile(np.eye(2), (2, 1, 1))
    model = objective(task(2, 1, (Term("bowl", bowl),))).expansion(y, u, np.array([DT]), C)
    np.testing.assert_allclose(model.hessian[0], np.diag([np.exp(0.2), 4.0, 0.0]), atol=1e-12)
    model = objective(task(2, 1, (Term("hill", hill),))).expansion(y, u, np.array([DT]), C)
    np.testing.assert_allclose(model.hessian[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(model.gradient[0], [-np.sin(0.2), 0.0, -1.8], atol=1e-12)


def test_the_augmented_lagrangians_gradient_is_its_slope():
    def round_and_effort(view, u, t):
        return np.concatenate([column((view.y * view.y).sum(-1) - 1.0), u * u - 0.5], -1)

    it = objective(
        task(2, 1, (Term("none", lambda v, u, t: 0.0 * u),), constraints=(Constraint("c", round_and_effort),))
    )
    rng = np.random.default_rng(0)
    y, u, m = rng.standard_normal((5, 2)), rng.standard_normal((4, 1)), rng.uniform(0.0, 1.0, (4, 2))
    times, C = DT * np.arange(1, 5), np.tile(np.eye(2), (5, 1, 1))
    model = it.expansion(y, u, times, C, m, 7.0)

    def merit(dz):
        violations = it.violations(y + dz[:2], u + dz[2:], times)
        return np.array([penalised(violations[None, k : k + 1], m[k : k + 1], 7.0)[0] for k in range(4)])

    h = 1e-6
    slopes = np.stack([(merit(h * e) - merit(-h * e)) / (2 * h) for e in np.eye(3)], 1)
    np.testing.assert_allclose(model.gradient, slopes, rtol=1e-5, atol=1e-6)


# Bad input -----------------------------------------------------------------------------------------------------------


def test_dynamics_without_derivatives_are_refused_with_the_choices():
    task = robots.load("cartpole-swingup")
    with pytest.raises(ValueError, match=r"DmControlDynamics.*casadi.*mujoco"):
        MPC(ILQR(), sim.dynamics("dm_control", task), task)
    with pytest.raises(ValueError, match=r"second_order.*MujocoDynamics"):
        MPC(ILQR(second_order=True), sim.dynamics("mujoco", task), task)


def test_a_term_that_does_not_trace_is_named():
    def sorted_readings(view, u, t):
        return np.asarray(sorted(view.y.tolist()))

    it = task(2, 1, (Term("sorted", sorted_readings),))
    with pytest.raises(ValueError, match=r"line-go's term 'sorted' does not trace"):
        MPC(ILQR(), Linear(np.eye(2), np.ones((2, 1))), it)


def test_a_cost_that_is_not_finite_is_a_status():
    it = task(1, 1, (Term("root", lambda v, u, t: column(np.sqrt(v.y - 10.0))),))
    model = Linear(np.eye(1), np.eye(1))
    problem = Problem(model, it, State(0.0, np.zeros(1), np.zeros(1)), HORIZON, np.random.default_rng(0))
    plan = exact().plan(problem, None, np.random.default_rng(0))
    assert plan.memory.status is Status.DIVERGED
    assert plan.cost == np.inf
    assert plan.feedback is None
    assert np.isfinite(plan.control(0.0)).all()
    # The cost is finite, at a place where its slope is not.
    it = task(1, 1, (Term("root", lambda v, u, t: column(np.sqrt(abs(v.y)))),))
    problem = dataclasses.replace(problem, task=it)
    plan = exact().plan(problem, None, np.random.default_rng(0))
    assert plan.memory.status is Status.STUCK
    assert plan.memory.reason == "the cost's derivatives at step 0 are not finite"


@pytest.mark.parametrize("bad", [{"iterations": 0}, {"steps": 0}, {"noise": 0.0}, {"feasibility": 0.0}, {"knots": 60}])
def test_settings_outside_their_range_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ILQR(**bad)


# Robots --------------------------------------------------------------------------------------------------------------


def hanging(dynamics, seed=100, horizon=200):
    task = robots.load("cartpole-swingup")
    state = sim.make("mujoco", task).reset(seed)
    return Problem(sim.dynamics(dynamics, task), task, state, horizon, np.random.default_rng(0))


@pytest.mark.parametrize("dynamics", ["mujoco", "casadi"])
def test_the_cartpole_swings_up_from_rest(dynamics):
    problem = hanging(dynamics)
    planner = ILQR(horizon=200, first_iterations=60, first_samples=0)
    plan = planner.plan(problem, None, np.random.default_rng(0))
    assert np.cos(plan.prediction[0, -1, 1]) > 0.98
    assert plan.memory.status is Status.CONVERGED
    # What is predicted is what the model does under the controls.
    found = problem.rollout(plan.controls[None]).y[0, 0]
    np.testing.assert_allclose(found, plan.prediction[0], atol=1e-6)
    again = planner.plan(hanging(dynamics), None, np.random.default_rng(0))
    np.testing.assert_array_equal(plan.controls, again.controls)


def test_a_straight_line_to_the_goal_will_do_as_a_guess():
    problem = hanging("casadi")
    x0 = problem.dynamics.coordinates(problem.state)
    x = np.linspace(x0, np.array([0.0, 2.0 * np.pi * (x0[1] > 0.0), 0.0, 0.0]), 201)
    plan = ILQR(horizon=200, first_iterations=80).solve(problem, x, np.zeros((200, 1)))
    assert np.cos(plan.prediction[0, -1, 1]) > 0.95


def test_second_derivatives_lead_to_the_same_optimum():
    problem = hanging("casadi", horizon=60)
    settings = {"horizon": 60, "first_iterations": 200, "tolerance": 1e-9}
    plans = [
        ILQR(**settings, second_order=second).plan(problem, None, np.random.default_rng(0)) for second in (False, True)
    ]
    assert [plan.memory.status for plan in plans] == [Status.CONVERGED] * 2
    assert plans[1].cost <= plans[0].cost * (1.0 + 1e-4)


def test_gains_hold_the_plan_between_replans():
    task = robots.load("cartpole-balance")
    plant = sim.make("mujoco", task)

    def end(held):
        mpc = MPC(ILQR(horizon=100, replan=100), sim.dynamics("mujoco", task), task)
        state, rng = plant.reset(100), np.random.default_rng(0)
        mpc.plan(state)
        for k in range(100):
            u = mpc.control(state) if held else mpc.latest.control(state.time)
            push = rng.choice([-0.2, 0.2]) if k < 50 else 0.0  # which the plan knows nothing of
            state = plant.step(np.clip(u + push, -1.0, 1.0))
        return abs(state.y[1])

    assert end(True) < 0.02 < end(False)


def test_a_constraint_that_nothing_changes_does_no_harm():
    lq = LQ(constraints=(Constraint("always", lambda v, u, t: 0.0 * u - 1.0),))
    np.testing.assert_allclose(solved(lq).controls, solved(LQ()).controls, atol=1e-8)
