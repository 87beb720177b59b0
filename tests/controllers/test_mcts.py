"""Tree search against value iteration, Riccati equations, a search written with objects, and its own books."""

import dataclasses
import threading

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers import MPC, lqr, run
from trimtab.controllers.bandits import NONE
from trimtab.controllers.mcts import MCTS, grid
from trimtab.controllers.plan import Plan
from trimtab.controllers.problem import Problem
from trimtab.controllers.tree_search import Batched, Compiled, Objective
from trimtab.robots.finite import Finite
from trimtab.robots.layout import Reading
from trimtab.robots.symbolic import Symbolic
from trimtab.robots.task import Robot, Start, Task, Term, quadratic
from trimtab.sim.branching import branching
from trimtab.sim.casadi_dynamics import CasadiDynamics
from trimtab.sim.casadi_simulator import CasadiSimulator
from trimtab.sim.finite import FiniteDynamics, FiniteSimulator
from trimtab.sim.interface import State


def finite_task(model, name="numbers"):
    robot = Robot(
        name=name,
        build=None,
        readings=(Reading("number", model.states.shape[1]), Reading("reward", 1), Reading("terminated", 1)),
        dt=1.0,
        limits=model.limits,
        finite=lambda: model,
    )
    return Task(
        name=name,
        robot=robot,
        score=lambda y, u: y.reward,
        terms=(Term("missing", lambda y, u, t: 1.0 - y.reward[..., None]),),
        start=lambda seed: Start(np.zeros(1), np.zeros(0)),
        duration=20.0,
        end=lambda y: y.terminated > 0.5,
    )


def random_model(seed, states=6, controls=3, outcomes=1):
    rng = np.random.default_rng(seed)
    shape = (states, controls, outcomes)
    probability = rng.dirichlet(np.ones(outcomes), shape[:2])
    ends = rng.random(shape) < 0.1
    return Finite(
        np.arange(float(states))[:, None], rng.integers(0, states, shape), probability, rng.random(shape), ends
    )


def search(planner, dynamics, task, state, seed=0, warm=None):
    rng = np.random.default_rng(seed)
    return planner.plan(Problem(dynamics, task, state, planner.horizon, rng), warm, rng)


def of(plan):
    """The tree of a plan: arrays cut to what is used, and the edges in use of each node."""
    tree, width = plan.memory.tree, plan.memory.rule.width
    count = int(tree.used[0])
    nodes = tree.nodes[:count]
    edges = [tree.edges[i * width : i * width + int(n["width"])] for i, n in enumerate(nodes)]
    return tree, nodes, edges


def q_root(plan):
    _, _, edges = of(plan)
    return edges[0]["sum"] / np.maximum(edges[0]["count"], 1)


REWARD = {"objective": "reward", "leaf": "value", "replan": 1, "reuse": False, "exploration": 0.2}


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("outcomes", [1, 3])
def test_values_converge_to_value_iterations(rule, outcomes):
    discount, errors = 0.6, []
    for simulations in (200, 20_000):
        gap = []
        for seed in range(2):
            model = random_model(seed, outcomes=outcomes)
            task = finite_task(model)
            v = model.values(discount)
            q = (model.probability * (model.reward + discount * np.where(model.ends, 0.0, v[model.next]))).sum(-1)[0]
            planner = MCTS(
                horizon=12, simulations=simulations, batch=32, discount=discount, rule=rule, prior="uniform",
                outcomes=20.0, **REWARD,
            )  # fmt: skip
            plan = search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0))
            assert plan.controls[0, 0] == q.argmax() or simulations < 1000
            gap.append(abs(q_root(plan)[q.argmax()] - q.max()))
        errors.append(max(gap))
    assert errors[1] < 0.05
    assert errors[1] < 0.5 * errors[0]


def test_a_tree_that_is_whole_has_dynamic_programmings_values():
    model, horizon, discount = random_model(4, states=5, controls=2), 5, 0.9
    task = finite_task(model)
    v = np.zeros(5)
    for _ in range(horizon):
        q = (model.reward + discount * np.where(model.ends, 0.0, v[model.next]))[..., 0]
        v = q.max(-1)
    planner = MCTS(horizon=horizon, simulations=4000, batch=1, discount=discount, optimism=1.0, execute="best",
                   **{**REWARD, "leaf": "rollout", "exploration": 5.0})  # fmt: skip
    plan = search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0))
    _, _, edges = of(plan)
    np.testing.assert_allclose(edges[0]["best"], q[0], rtol=1e-12)
    assert plan.controls[0, 0] == q[0].argmax()


def test_a_new_node_is_worth_the_mean_of_its_rollouts():
    model, horizon, discount = random_model(0), 6, 0.9
    task, errors = finite_task(model), {}
    v = np.zeros(len(model.states))
    for _ in range(horizon - 1):
        v = (model.reward + discount * np.where(model.ends, 0.0, v[model.next]))[..., 0].mean(-1)
    for rollouts in (1, 3000):
        planner = MCTS(horizon=horizon, segment=1, simulations=3, batch=1, discount=discount, policy="random",
                       rollouts=rollouts, objective="reward")  # fmt: skip
        plan = search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0))
        _, nodes, edges = of(plan)
        assert plan.stats["evaluations"] == 3 * rollouts
        assert edges[0]["count"].tolist() == [1, 1, 1]
        expected = np.where(model.ends[0], 0.0, v[model.next[0]])[:, 0]
        errors[rollouts] = np.abs(nodes["leaf"][edges[0]["child"]] - expected)
    assert errors[3000].max() < 0.1  # five times what returns of some 1 scatter by
    assert errors[1].max() > 0.2


def test_normalised_among_siblings_a_far_worse_control_elsewhere_does_not_matter():
    """Costing 1000 at the root, it makes 1 and 0 alike further down, where they are all that there is to choose."""
    after = np.array([[1, 2], [2, 2], [2, 2]])[:, :, None]
    reward = np.array([[0.0, -1000.0], [0.0, 1.0], [0.0, 0.0]])[:, :, None]
    task = finite_task(Finite(np.arange(3.0)[:, None], after, np.ones((3, 2, 1)), reward, after == 2))
    shares = []
    for siblings in (False, True):
        planner = MCTS(horizon=2, segment=1, simulations=400, batch=1, siblings=siblings,
                       **{**REWARD, "leaf": "rollout"})  # fmt: skip
        _, _, edges = of(search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0)))
        below = edges[int(edges[0][0]["child"])]
        shares.append(below["count"][1] / below["count"].sum())
    assert shares[0] < 0.6
    assert shares[1] > 0.9


class Reference:
    """UCT as a textbook has it, an object a node: deterministic, zero default policy, polynomial bonus."""

    def __init__(self, model, horizon, discount, exploration, choices):
        self.model, self.horizon, self.discount, self.c, self.choices = model, horizon, discount, exploration, choices
        self.span = [np.inf, -np.inf]

    def node(self, s):
        return {"s": s, "n": 0, "edges": [{"n": 0, "sum": 0.0, "to": None} for _ in self.choices]}

    def rollout(self, s, over, depth):
        gain, weight = 0.0, 1.0
        for _ in range(depth, self.horizon):
            if over:
                break
            gain += weight * self.model.reward[s, 0, 0]
            s, over = self.model.next[s, 0, 0], self.model.ends[s, 0, 0]
            weight *= self.discount
        return gain

    def simulate(self, node, depth):
        if depth == self.horizon:
            return 0.0
        low, high = self.span

        def score(k):
            edge = node["edges"][k]
            if edge["n"] == 0:
                return np.inf
            q = (edge["sum"] / edge["n"] - low) / (high - low) if high > low else 0.5
            return q + self.c * np.sqrt(np.sqrt(max(node["n"], 1))) / np.sqrt(edge["n"])

        k = max(range(len(self.choices)), key=lambda k: (score(k), -k))
        edge, s = node["edges"][k], node["s"]
        over, reward = self.model.ends[s, k, 0], self.model.reward[s, k, 0]
        if edge["to"] is None:
            edge["to"] = self.node(self.model.next[s, k, 0])
            edge["over"] = over
            value = self.rollout(edge["to"]["s"], over, depth + 1)
        else:
            value = 0.0 if over else self.simulate(edge["to"], depth + 1)
        gain = reward + self.discount * value
        edge["to"]["n"] += 1
        edge["n"] += 1
        edge["sum"] += gain
        self.span = [min(self.span[0], edge["sum"] / edge["n"]), max(self.span[1], edge["sum"] / edge["n"])]
        return gain


def test_one_walk_at_a_time_is_the_sequential_search():
    for seed in range(4):
        model = random_model(seed, states=7)
        task = finite_task(model)
        planner = MCTS(horizon=6, simulations=400, batch=1, discount=0.9, policy="rest",
                       **{**REWARD, "leaf": "rollout"})  # fmt: skip
        plan = search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0))
        reference = Reference(model, 6, 0.9, 0.2, range(3))
        root = reference.node(0)
        for _ in range(400):
            reference.simulate(root, 0)
            root["n"] += 1
        edges = of(plan)[2]

        def same(at, node, edges=edges):
            assert [int(e["count"]) for e in edges[at]] == [e["n"] for e in node["edges"]]
            np.testing.assert_allclose([e["sum"] for e in edges[at]], [e["sum"] for e in node["edges"]], rtol=1e-9)
            for e, other in zip(edges[at], node["edges"]):
                if other["to"] is not None and not other["over"]:
                    same(int(e["child"]), other["to"])

        same(0, root)


# Continuous controls -------------------------------------------------------------------------------------------------


def linear_quadratic():
    """A double integrator, and the matrices of its control period and costs."""

    def derivative(x, u, h):
        import casadi as ca

        return ca.vertcat(x[1], u[0] - 0.2 * x[1])

    symbolic = Symbolic(nq=2, nv=0, nu=1, derivative=derivative, timestep=0.25)
    robot = Robot(
        name="cart",
        build=None,
        readings=(Reading.qpos("position", 0), Reading.qpos("velocity", 1)),
        dt=0.25,
        limits=np.array([[-2.0], [2.0]]),
        symbolic=lambda: symbolic,
    )
    task = Task(
        name="cart-rest",
        robot=robot,
        score=lambda y, u: 1.0 - 0.1 * y.position * y.position,
        terms=(
            Term("position", lambda y, u, t: y.position.reshape((*y.position.shape, 1)), norm=quadratic),
            Term("effort", lambda y, u, t: u, norm=quadratic, weight=0.3),
        ),
        start=lambda seed: Start(np.array([1.0, 0.0]), np.zeros(0)),
        duration=3.0,
    )
    A, B = np.array([[1.0, 0.25], [0.0, 0.95]]), np.array([[0.0], [0.25]])
    return task, A, B


def test_the_control_nears_lqrs():
    task, A, B = linear_quadratic()
    horizon = 8
    # The state that a control leads to is what it costs: Q is of the states after the first.
    Q = np.tile(np.diag([1.0, 0.0]), (horizon + 1, 1, 1))
    Q[0] = 0.0
    R = np.full((horizon, 1, 1), 0.3)
    K = lqr.finite(np.tile(A, (horizon, 1, 1)), np.tile(B, (horizon, 1, 1)), Q, R).K[0]
    dynamics, errors = CasadiDynamics(task), []
    for simulations in (20, 200, 4000):
        planner = MCTS(
            horizon=horizon, segment=1, simulations=simulations, batch=8, optimism=1.0, execute="best", reuse=False
        )
        gap = []
        for seed, x in enumerate(([1.0, 0.0], [-0.5, 0.5], [0.6, -1.0])):
            state = dataclasses.replace(CasadiSimulator(task).reset(0), x=np.array(x), y=np.array(x))
            plan = search(planner, dynamics, task, state, seed)
            gap.append(abs(plan.controls[0, 0] - (K @ x)[0]))
        errors.append(np.mean(gap))
    assert errors[2] < 0.2
    assert errors[2] < 0.5 * errors[0]
    assert errors[1] < errors[0]


SHAPES = [
    {"levels": 5},
    {"levels": 3, "rule": "puct", "first_play": -0.2},
    {},
    {"rule": "puct"},
    {"rule": "hoot"},
    {"segment_knots": 2, "segment_spline": "linear"},
    {"policy": "random", "rollouts": 3},
    {"policy": "hold", "optimism": 1.0, "execute": "best"},
    {"leaf": "both", "siblings": True, "bonus": "logarithmic"},
    {"leaf": "value", "discount": 0.95},
    {"horizon": 26},
]


def pendulum(kind="casadi"):
    task = robots.load("pendulum-swingup")
    return task, sim.dynamics(kind, task), sim.make("casadi", task).reset(100)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 8])
def test_visits_and_returns_add_up(settings, batch):
    task, dynamics, state = pendulum()
    planner = MCTS(**{"horizon": 24, **settings}, replan=4, segment=4, simulations=200, batch=batch)
    plan = search(planner, dynamics, task, state)
    check_books(plan, 200)
    assert np.all(plan.controls >= -1.0)
    assert np.all(plan.controls <= 1.0)
    assert plan.stats["nodes"] > (40 if batch == 8 else 60)
    # The branch that is used, and its books.
    later = dynamics.advance(state, plan.controls[:4])
    begun = search(planner, dynamics, task, later, 1, plan)
    assert len(begun.controls) == planner.horizon
    assert begun.stats["kept"] > 0
    check_books(begun, None)


def check_books(plan, simulations):
    tree, nodes, edges = of(plan)
    rule = plan.memory.rule
    if simulations is not None:
        assert nodes[0]["visits"] == simulations
    assert not nodes["inflight"].any()
    for i, (node, mine) in enumerate(zip(nodes, edges)):
        assert not mine["inflight"].any()
        leaves = node["visits"] - mine["count"].sum()
        if i:
            assert leaves >= 1
        assert (
            node["total"] == pytest.approx(leaves * node["leaf"] + mine["sum"].sum(), rel=1e-9, abs=1e-9) or leaves > 1
        )
        for edge in mine:
            if edge["child"] == NONE:
                continue
            child = nodes[edge["child"]]
            assert edge["count"] == child["visits"]
            expected = edge["count"] * child["reward"] + rule.discount * child["total"]
            assert edge["sum"] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert edge["best"] >= edge["sum"] / edge["count"] - 1e-9
    cells = tree.cells[: int(tree.used[1])]
    for k, cell in enumerate(cells):
        assert cell["inflight"] == 0
        if cell["kids"] != NONE:
            kids = slice(cell["kids"], cell["kids"] + 3)
            assert cell["count"] == cells[kids]["count"].sum()
            assert cell["sum"] == pytest.approx(cells[kids]["sum"].sum(), rel=1e-9)
            sides = tree.boxes[:, 1] - tree.boxes[:, 0]
            assert sides[kids].prod(-1).sum() == pytest.approx(sides[k].prod())
        elif cell["edge"] != NONE:
            np.testing.assert_allclose(tree.actions[cell["edge"]], tree.boxes[k].mean(0), atol=1e-12)
            assert tree.edges[cell["edge"]]["cell"] == k


def same_trees(one, other, exact=True):
    a, b = of(one), of(other)
    assert int(a[0].used[0]) == int(b[0].used[0])
    for mine, yours in zip(a[2], b[2]):
        np.testing.assert_array_equal(mine["count"], yours["count"])
        np.testing.assert_array_equal(mine["child"], yours["child"])
        np.testing.assert_allclose(mine["sum"], yours["sum"], rtol=0 if exact else 1e-9)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_same_seed_same_tree(settings):
    task, dynamics, state = pendulum()
    planner = MCTS(**{"horizon": 24, **settings}, replan=4, segment=4, simulations=100)
    one = search(planner, dynamics, task, state)
    same_trees(one, search(planner, dynamics, task, state))
    np.testing.assert_array_equal(one.controls, search(planner, dynamics, task, state).controls)


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 8])
def test_compiled_searches_are_those_by_batches(settings, batch):
    task, dynamics, state = pendulum()
    planner = MCTS(**{"horizon": 24, **settings}, replan=4, segment=4, simulations=100, batch=batch)
    searcher = planner._searcher(dynamics, task)
    assert isinstance(searcher._search, Compiled)
    compiled = search(planner, dynamics, task, state)
    searcher._search = Batched(searcher.branching, searcher.objective)
    same_trees(compiled, search(planner, dynamics, task, state), exact=False)
    searcher._search = Compiled(searcher.branching, searcher.objective)


def test_any_dynamics_grow_the_same_tree():
    task, casadi, state = pendulum()
    planner = MCTS(horizon=12, replan=4, segment=4, simulations=60, levels=3, batch=4)
    expected = search(planner, casadi, task, state)

    class Plain:
        """No more than dynamics must be."""

        dt = task.robot.dt
        rollout, advance = staticmethod(casadi.rollout), staticmethod(casadi.advance)

    same_trees(search(planner, Plain(), task, state), expected, exact=False)
    mujoco = sim.dynamics("mujoco", task)
    begun = sim.make("mujoco", task).reset(100)
    found = search(planner, mujoco, task, begun)
    same_trees(found, expected, exact=False)
    mujoco.close()


def test_walks_under_way_spread():
    task, dynamics, state = pendulum()
    nodes = []
    for loss in (0.0, 1.0):
        planner = MCTS(horizon=24, segment=4, simulations=300, batch=32, levels=3, virtual_loss=loss, exploration=0.02)
        nodes.append(search(planner, dynamics, task, state).stats["nodes"])
    assert nodes[1] > 1.1 * nodes[0]


def test_the_used_branch_is_kept_as_it_was():
    task, dynamics, state = pendulum()
    planner = MCTS(horizon=24, replan=4, segment=4, simulations=200, levels=3, discount=0.9)
    plan = search(planner, dynamics, task, state)
    old, nodes, edges = of(plan)
    used = int(old.edges[plan.memory.edges[0]]["child"])
    problem = Problem(dynamics, task, dynamics.advance(state, plan.controls[:4]), 24, np.random.default_rng(0))
    rule, row = plan.memory.rule, branching(dynamics, task).root(problem.state)
    assert planner._used(problem, plan, rule, row)[1] == used
    tree, kept = planner._begin(problem, plan, rule, row, planner._aim(None, None))
    assert 0 < kept < len(nodes)
    np.testing.assert_array_equal(tree.edges[: rule.width]["count"], edges[used]["count"])
    assert tree.nodes[0]["visits"] == nodes[used]["visits"] == 1 + edges[used]["count"].sum()
    # Later than the tree knows, elsewhere, or in the middle of an edge there is nothing to keep.
    for steps, shift in ((4, 0.1), (3, 0.0), (28, 0.0)):
        there = dynamics.advance(state, plan.controls[:steps] if steps < 24 else np.zeros((steps, 1)))
        there = dataclasses.replace(there, y=there.y + shift)
        elsewhere = Problem(dynamics, task, there, 24, np.random.default_rng(0))
        assert planner._used(elsewhere, plan, rule, row) == (None, 0)


def test_kept_returns_reach_as_far_as_the_horizon():
    """Where every step costs 1, whatever is done, returns of a kept branch are those of a new one."""
    task, dynamics, state = pendulum()
    for discount, terminal in ((1.0, 0.0), (0.9, 0.0), (1.0, 7.0)):
        term = Term("one", lambda y, u, t: 1.0 + 0.0 * u, terminal_weight=terminal)
        task = dataclasses.replace(task, terms=(term,))
        planner = MCTS(horizon=24, replan=4, segment=4, simulations=100, levels=3, discount=discount)
        plan = search(planner, dynamics, task, state)
        whole = -24.0 - terminal if discount == 1.0 else -(1.0 - discount**24) / (1.0 - discount)
        np.testing.assert_allclose(q_root(plan), whole)
        for _ in range(3):
            state = dynamics.advance(state, plan.controls[:4])
            plan = search(planner, dynamics, task, state, warm=plan)
            assert plan.stats["kept"] > 0
            np.testing.assert_allclose(q_root(plan), whole)


def test_a_reward_at_the_horizons_end_counts_once_in_a_kept_branch():
    """Along a chain whose third step ends the episode at reward 1."""
    after = np.array([1, 2, 3, 3]).reshape(4, 1, 1)
    reward, ends = (after == 3) * np.array([1.0, 1.0, 1.0, 0.0]).reshape(4, 1, 1), after == 3
    task = finite_task(Finite(np.arange(4.0)[:, None], after, np.ones((4, 1, 1)), reward, ends))
    plant, dynamics = FiniteSimulator(task), FiniteDynamics(task)
    for leaf in ("rollout", "value"):
        planner = MCTS(horizon=3, segment=1, simulations=20, objective="reward", leaf=leaf)
        state, plan = plant.reset(0), None
        for left in (3, 2, 1):
            plan = search(planner, dynamics, task, state, warm=plan)
            # Valued by the last reward going on, the leaves before the goal are worth 0.
            assert plan.stats["best"] == 1.0 or (leaf == "value" and 0.0 < plan.stats["best"] < 1.0)
            assert (plan.stats["kept"] > 0) == (left < 3)
            state = plant.step(plan.controls[0])


@pytest.mark.parametrize("settings", [{}, {"rule": "hoot"}, {"levels": 5, "rule": "puct"}], ids=str)
def test_so_much_of_a_branch_is_kept_as_memory_allows(settings):
    task, dynamics, state = pendulum()
    kept = []
    for memory in (0.02, np.inf):
        planner = MCTS(horizon=24, replan=4, segment=4, simulations=200, memory=memory, **settings)
        plan = search(planner, dynamics, task, state)
        later = search(planner, dynamics, task, dynamics.advance(state, plan.controls[:4]), 1, plan)
        kept.append(later.stats["kept"])
        _, nodes, edges = of(later)
        assert (
            nodes["visits"][0]
            == 200 + plan.memory.tree.nodes["visits"][plan.memory.tree.edges["child"][plan.memory.edges[0]]]
        )
        assert not nodes["inflight"].any()
        assert all(e["child"] < len(nodes) for mine in edges for e in mine)
    assert kept[0] == 4 < kept[1]


def test_another_models_tree_is_not_kept():
    task, dynamics, state = pendulum()
    planner = MCTS(horizon=24, replan=4, segment=4, simulations=50, levels=3)
    plan = search(planner, dynamics, task, state)
    later, mujoco = dynamics.advance(state, plan.controls[:4]), sim.dynamics("mujoco", task)
    plant = sim.make("mujoco", task)
    begun = dataclasses.replace(plant.reset(100), time=later.time, y=later.y)
    assert search(planner, dynamics, task, later, warm=plan).stats["kept"] > 0
    assert search(planner, mujoco, task, begun, warm=plan).stats["kept"] == 0
    mujoco.close()
    plant.close()


class Members:
    """An ensemble that knows readings only: of each member, a push by `gain` u."""

    dt = 1.0

    def __init__(self, gains):
        self.gains = np.asarray(gains)

    def rollout(self, state, controls, rng):
        moved = self.gains[:, None, None] * np.cumsum(controls[None, :, :, 0], axis=-1)
        y = np.empty((len(self.gains), len(controls), controls.shape[1] + 1, 1))
        y[:, :, 0] = state.y
        y[:, :, 1:, 0] = state.y[0] + moved
        return sim.Rollout(y, np.ones(y.shape[:2], bool))


def test_a_node_draws_a_member_of_an_ensemble():
    gains = [0.2, 0.5, 1.1]
    robot = Robot("dot", None, (Reading("place", 1),), 1.0, limits=np.array([[-1.0], [1.0]]))
    task = Task("dot-far", robot, lambda y, u: y.place**2, (Term("place", lambda y, u, t: -(y.place[..., None] ** 2)),),
                lambda seed: Start(np.zeros(1), np.zeros(0)), 5.0)  # fmt: skip
    planner = MCTS(horizon=1, simulations=3000, batch=8, levels=3, outcomes=1000.0)
    plan = search(planner, Members(gains), task, State(0.0, np.array([0.0])))
    tree, nodes, edges = of(plan)
    for edge, action in zip(edges[0], tree.actions):
        expected = np.mean(np.square(gains)) * action[0] ** 2
        spread = np.std(np.square(gains)) / np.sqrt(edge["count"])
        assert abs(edge["sum"] / edge["count"] - expected) <= 5.0 * spread
        outcomes, child = set(), int(edge["child"])
        while child != NONE:
            outcomes.add(round(float(tree.y[child, 0]), 9))
            child = int(nodes[child]["sibling"])
        assert outcomes == {round(g * action[0], 9) + 0.0 for g in gains}
    alone = search(planner, Members([0.5]), task, State(0.0, np.array([0.0])))
    assert not alone.memory.rule.stochastic
    np.testing.assert_allclose(sorted(q_root(alone)), [0.0, 0.25, 0.25])


def test_equal_states_are_one_node():
    task = robots.load("maze-holes")
    dynamics, state = FiniteDynamics(task), FiniteSimulator(task).reset(0)
    planner = MCTS(horizon=30, segment=1, simulations=2000, batch=1, policy="random", discount=0.95, objective="reward",
                   transpositions=True)  # fmt: skip
    merged = search(planner, dynamics, task, state)
    tree, nodes, _ = of(merged)
    rows = tree.rows[: len(nodes)]
    assert len(np.unique(rows, axis=0)) == len(rows) <= len(dynamics.model.states)
    apart = search(dataclasses.replace(planner, transpositions=False), dynamics, task, state)
    assert apart.stats["nodes"] > 10 * merged.stats["nodes"]


def test_a_horizon_shorter_than_an_edge_is_one():
    task, dynamics, state = pendulum()
    plan = search(MCTS(horizon=3, segment=4, simulations=50), dynamics, task, state)
    assert plan.stats["depth"] == 1
    assert len(plan.controls) == 3
    np.testing.assert_array_equal(plan.controls, plan.controls[:1].repeat(3, 0))
    check_books(plan, 50)


def test_continuous_controls_widen():
    task, dynamics, state = pendulum()
    for simulations, power in ((100, 0.5), (400, 0.5), (400, 0.25)):
        planner = MCTS(horizon=24, segment=4, simulations=simulations, batch=1, widening_power=power, width=100)
        _, nodes, _ = of(search(planner, dynamics, task, state))
        assert nodes[0]["width"] == np.ceil((simulations - 1) ** power)


def test_a_bonus_for_a_cells_size_counts_where_sizes_differ():
    """Where it is the same at all depths (r = 1), or the whole box's alone (r = 0), it changes nothing."""
    task, dynamics, state = pendulum()
    found = {}
    for decay in (0.0, 0.5, 1.0):
        for bonus in (0.0, 4.0):
            planner = MCTS(
                horizon=24, segment=4, simulations=200, batch=1, rule="hoot", cell_bonus=bonus, cell_decay=decay
            )
            found[decay, bonus] = of(search(planner, dynamics, task, state))[2][0]["count"].tolist()
    without = found[0.5, 0.0]
    assert [key for key, counts in found.items() if counts != without] == [(0.5, 4.0)]


def test_random_transitions_widen():
    model = random_model(0, states=50, controls=2, outcomes=20)
    task = finite_task(model)
    for power, most in ((0.5, 23), (0.0, 1)):
        planner = MCTS(horizon=4, simulations=500, batch=1, outcomes_power=power, **REWARD)
        edges = of(search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0)))[2]
        draws = edges[0]["draws"]
        np.testing.assert_array_equal(draws, np.ceil((edges[0]["count"]) ** power))
        assert draws.max() <= most


def test_outcomes_are_followed_as_often_as_they_are_drawn():
    model = Finite(
        np.arange(3.0)[:, None],
        np.tile([1, 2], (3, 1, 1)),
        np.tile([0.8, 0.2], (3, 1, 1)),
        np.zeros((3, 1, 2)),
        np.zeros((3, 1, 2), bool),
    )
    task = finite_task(model)
    planner = MCTS(horizon=3, simulations=4000, batch=16, outcomes=100.0, **REWARD)
    tree, nodes, edges = of(search(planner, FiniteDynamics(task), task, FiniteSimulator(task).reset(0)))
    at = int(edges[0][0]["child"])
    visits = {}
    while at != NONE:
        visits[int(tree.rows[at, 0])] = int(nodes[at]["visits"])
        at = int(nodes[at]["sibling"])
    assert visits[1] / 4000 == pytest.approx(0.8, abs=0.03)
    assert visits[1] + visits[2] == 4000


def test_priors_are_followed():
    task, dynamics, state = pendulum()
    before = Plan(time=state.time, dt=task.robot.dt, controls=np.full((24, 1), 0.9))
    counts = []
    for prior in ("uniform", "plan"):
        planner = MCTS(horizon=24, segment=4, simulations=60, levels=11, rule="puct", prior=prior, prior_width=0.1,
                       first_play=0.0, exploration=2.0, reuse=False)  # fmt: skip
        plan = search(planner, dynamics, task, state, warm=before)
        tree, _, edges = of(plan)
        near = np.abs(tree.actions[: len(edges[0]), 0] - 0.9) < 0.2
        counts.append(edges[0]["count"][near].sum())
        assert edges[0]["prior"].sum() == pytest.approx(1.0)
    assert counts[1] > 2 * counts[0]


def test_values_and_policies_given_are_asked():
    task, dynamics, state = pendulum()
    seen = []

    def value(y):
        seen.append(y.copy())
        return np.cos(y[:, 0])

    planner = MCTS(horizon=8, segment=4, simulations=30, leaf="value", value=value, levels=3, discount=0.5)
    plan = search(planner, dynamics, task, state)
    _, nodes, _ = of(plan)
    tree = plan.memory.tree
    np.testing.assert_allclose(nodes["leaf"][1:], np.cos(tree.y[1 : len(nodes), 0]), rtol=1e-12)
    assert sum(map(len, seen)) >= len(nodes) - 1
    # A policy that gives the controls of `rest` is `rest`.
    planner = MCTS(horizon=24, segment=4, simulations=50, levels=3, policy="rest")
    own = dataclasses.replace(planner, default=lambda y: np.zeros((len(y), 1)))
    same_trees(search(planner, dynamics, task, state), search(own, dynamics, task, state), exact=False)


def test_grids_begin_at_rest_and_spread():
    found = grid(np.array([-1.0, -2.0]).tobytes(), np.array([1.0, 2.0]).tobytes(), 3)
    assert found.shape == (9, 2)
    np.testing.assert_array_equal(found[0], 0.0)
    assert {tuple(np.abs(a)) for a in found[1:5]} == {(1.0, 2.0)}
    assert len(np.unique(found, axis=0)) == 9
    with pytest.raises(ValueError, match="11\\^4"):
        grid(np.full(4, -1.0).tobytes(), np.ones(4).tobytes(), 11)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": "ucb"}, "unknown rule 'ucb'; known: uct, puct, hoot"),
        ({"segment": -1}, "segment is -1"),
        ({"levels": 1}, "levels is 1"),
        ({"levels": 5, "rule": "hoot"}, "set levels to 0"),
        ({"simulations": 0}, "simulations is 0"),
        ({"discount": 1.5}, "discount is 1.5"),
        ({"first_play": float("nan")}, "first_play is nan"),
        ({"segment": 2, "segment_knots": 3}, "segment_knots is 3; it must lie between 1 and 2, the control steps"),
    ],
)
def test_settings_that_make_no_sense_are_told(settings, said):
    with pytest.raises(ValueError, match=said.replace("^", "\\^")):
        MCTS(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rule": "hoot"}, "rule = hoot"), ({"segment": 2, "segment_knots": 2}, "segment_knots = 2")],
)
def test_controls_to_choose_from_are_not_cut(settings, said):
    task = robots.load("maze-holes")
    with pytest.raises(ValueError, match=f"4 controls to choose from: {said} does not apply"):
        MPC(MCTS(**settings), FiniteDynamics(task), task)


def test_a_policy_that_nobody_knows_is_told():
    task = robots.load("pendulum-swingup")
    with pytest.raises(ValueError, match=r"unknown policy 'rset'; did you mean 'rest'.*the folder of a trained run"):
        MPC(MCTS(policy="rset"), sim.dynamics("mujoco", task), task)
    with pytest.raises(ValueError, match="no folder 'somewhere/else'"):
        MPC(MCTS(policy="somewhere/else"), sim.dynamics("mujoco", task), task)


# In the loop ---------------------------------------------------------------------------------------------------------


def test_through_the_maze():
    task = robots.load("maze-holes")
    planner = MCTS(horizon=40, segment=1, simulations=1500, batch=16, policy="random", discount=0.97,
                   objective="reward", transpositions=True)  # fmt: skip
    episode = run(FiniteSimulator(task), MPC(planner, FiniteDynamics(task), task), task=task)
    assert episode.status == "terminated"
    assert episode.success


def test_along_a_cliff():
    task = robots.load("gymnasium:CliffWalking-v1")
    plant, model = sim.make("gymnasium", task), sim.dynamics("finite", task)
    planner = MCTS(
        horizon=30, segment=1, simulations=600, batch=16, policy="random", objective="reward", transpositions=True
    )
    episode = run(plant, MPC(planner, model, task), task=task, seed=0, duration=40 * task.robot.dt)
    assert episode.status == "terminated"
    assert episode.reward.sum() >= -20.0  # 13 steps are the fewest; a fall costs 100
    plant.close()


def test_a_pendulum_swings_up():
    task, dynamics, _ = pendulum()
    planner = MCTS(horizon=60, replan=5, segment=5, simulations=256, levels=5)
    episode = run(sim.make("casadi", task), MPC(planner, dynamics, task), task=task, seed=103, duration=8.0)
    assert episode.reward[-100:].sum() > 95


def test_what_diverges_is_not_chosen():
    task = linear_quadratic()[0]

    def derivative(x, u, h):
        import casadi as ca

        return ca.vertcat(x[1], u[0] + ca.if_else(u[0] > 0.5, 1e30, 0.0))

    symbolic = Symbolic(nq=2, nv=0, nu=1, derivative=derivative, timestep=0.25)
    task = dataclasses.replace(task, robot=dataclasses.replace(task.robot, symbolic=lambda: symbolic))
    dynamics = CasadiDynamics(task)
    state = State(0.0, np.array([-1.0, 0.0]), np.array([-1.0, 0.0]))
    for settings in ({"levels": 5}, {"rule": "hoot"}, {}):
        plan = search(MCTS(horizon=8, simulations=200, **settings), dynamics, task, state)
        assert plan.controls[0, 0] <= 0.5
        assert np.isfinite(plan.cost)


def test_objectives_that_do_not_trace_are_batched():
    task, _, _ = linear_quadratic()
    task = dataclasses.replace(
        task, terms=(Term("sorted", lambda y, u, t: np.sort(np.stack([y.position, y.velocity], -1), -1)[..., :1]),)
    )
    dynamics = CasadiDynamics(task)
    assert not MCTS()._searcher(dynamics, task).compiled
    state = CasadiSimulator(task).reset(0)
    plan = search(MCTS(horizon=8, simulations=50), dynamics, task, state)
    assert np.isfinite(plan.cost)
    assert Objective(task, reward=True).terminal is False


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"horizon": 60}, 6),
        ({"horizon": 60, "replan": 5}, 5),  # the used branch is kept
        ({"horizon": 60, "replan": 7}, 6),
        ({"horizon": 60, "replan": 20}, 6),
        ({"horizon": 60, "replan": 5, "segment": 10}, 10),
        ({"horizon": 7}, 1),
    ],
)
def test_an_edge_is_as_long_as_plans_last(settings, steps):
    assert MCTS(**settings).steps == steps


def test_threads_on_one_model_find_what_one_finds():
    task = robots.load("pendulum-swingup")
    dynamics = sim.dynamics("casadi", task)
    planner = MCTS(horizon=40, replan=5, simulations=200)
    plant = sim.make("casadi", task)
    states = [plant.reset(seed) for seed in range(2)]

    def plans(state):
        warm, costs = None, []
        for k in range(10):
            rng = np.random.default_rng(k)
            warm = planner.plan(Problem(dynamics, task, state, 40, rng), warm, rng)
            costs.append(warm.cost)
        return costs

    alone, found = [plans(state) for state in states], {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: plans(states[i])})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone
