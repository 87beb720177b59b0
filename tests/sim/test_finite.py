"""Finite problems: plant and model against their tables, and Gymnasium's own environments."""

import gymnasium
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.robots import maze
from trimtab.robots.finite import Finite
from trimtab.sim.conformance import DynamicsConformance, SimulatorConformance
from trimtab.sim.finite import FiniteDynamics, FiniteSimulator
from trimtab.sim.interface import State


class TestMazePlant(SimulatorConformance):
    simulator, task = "finite", "maze-holes"
    random_start = False


class TestIcePlant(SimulatorConformance):
    """Random transitions, which a restored state repeats."""

    simulator, task = "finite", "maze-holes"
    random_start = False

    def make_task(self):
        return maze.holes(slip=0.1)


class TestMazeModel(DynamicsConformance):
    simulator, dynamics, task = "finite", "finite", "maze-holes"
    needs_x = False


class TestIceModel(DynamicsConformance):
    simulator, dynamics, task = "finite", "finite", "maze-holes"
    stochastic, needs_x, tolerance = True, False, None

    def make_task(self):
        return maze.holes(slip=0.1)


def test_a_walk_through_the_maze():
    """Along the map, by hand."""
    task = robots.load("maze-holes")
    plant = FiniteSimulator(task)
    state = plant.reset(0)
    view = task.robot.layout
    begun = view(state.y).cell
    assert maze.cells()[tuple(int(v) for v in begun)] == "S"
    places = [view(plant.step(np.array([u])).y).cell - begun for u in (2.0, 0.3, 1.0, 3.0)]
    # Into the wall on the left; one to the right; into the wall above; and into that below.
    np.testing.assert_array_equal(places, [[0, 0], [1, 0], [1, 0], [1, 0]])
    down = plant.reset(0)
    for _ in range(2):
        down = plant.step(np.array([3.0]))
    np.testing.assert_array_equal(view(down.y).cell - begun, [0, -2])
    assert not task.terminated(down.y)


def shortest(model, start):
    """Steps from a state to the goal, by breadth-first search on the table."""
    seen, border, steps = {start}, [start], 0
    while border:
        steps += 1
        after = []
        for s in border:
            for a in range(model.controls):
                to, over, reward = model.next[s, a, 0], model.ends[s, a, 0], model.reward[s, a, 0]
                if reward > 0.0:
                    return steps
                if not over and to not in seen:
                    seen.add(to)
                    after.append(to)
        border = after
    raise AssertionError("the goal can not be reached")


def test_values_are_discounted_distances():
    model = maze.finite(0.0)
    start = int(robots.load("maze-holes").start(0).qpos[0])
    v = model.values(0.9)
    steps = shortest(model, start)
    assert v[start] == pytest.approx(0.9 ** (steps - 1), rel=1e-8)
    assert model.states[start, 4] == steps


def test_outcomes_come_as_often_as_the_table_says():
    task = maze.holes(slip=0.1)
    dynamics = FiniteDynamics(task)
    model, n = dynamics.model, 20_000
    s = 8
    state = State(0.0, np.append(model.states[s], (0.0, 0.0)), None)
    y = dynamics.rollout(state, np.full((n, 1, 1), 1.0), np.random.default_rng(0)).y[0, :, 1]
    for to in np.unique(model.next[s, 1]):
        p = model.probability[s, 1][model.next[s, 1] == to].sum()
        share = (y[:, :5] == model.states[to]).all(1).mean()
        assert abs(share - p) < 5.0 * np.sqrt(p * (1.0 - p) / n) + 1e-12


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasiums_tables_are_its_environments(name):
    known = [i for i in gymnasium.registry if i.startswith(name[:-1])]
    task = robots.load(f"gymnasium:{sorted(known)[-1]}")
    plant, model = sim.make("gymnasium", task), FiniteDynamics(task)
    rng, seen = np.random.default_rng(0), 0
    for seed in range(6):
        state = plant.reset(seed)
        for _ in range(15):
            u = rng.integers(0, model.model.controls, 1).astype(float)
            s, over = model._number(state)
            state = plant.step(u)
            if over:
                break
            s_after, _ = model._number(state)
            at = model.model.next[s, int(u[0])] == s_after
            assert model.model.probability[s, int(u[0])][at].sum() > 0.0
            assert state.y[-2] in model.model.reward[s, int(u[0])][at]
            assert bool(state.y[-1]) in model.model.ends[s, int(u[0])][at]
            seen += 1
    assert seen > 30
    plant.close()


def test_one_outcome_is_certain_however_its_probability_is_rounded():
    states, shape = np.arange(2.0)[:, None], (2, 1, 1)
    one = Finite(states, np.zeros(shape, int), np.full(shape, 1.0 - 1e-12), np.zeros(shape), np.zeros(shape, bool))
    assert not one.stochastic
    assert maze.finite(0.1).stochastic
    assert not maze.finite(0.0).stochastic


def test_what_is_no_table_is_told():
    with pytest.raises(ValueError, match="no finite problem"):
        FiniteDynamics(robots.load("pendulum-swingup"))
    with pytest.raises(ValueError, match="no finite problem"):
        FiniteSimulator(robots.load("gymnasium:CartPole-v1"))
    states, shape = np.arange(2.0)[:, None], (2, 1, 1)
    good = {
        "next": np.zeros(shape, int),
        "probability": np.ones(shape),
        "reward": np.zeros(shape),
        "ends": np.zeros(shape),
    }
    Finite(states, **good)
    for name, wrong, said in (
        ("probability", np.full(shape, 0.5), "sum to one"),
        ("next", np.full(shape, 2), "between 0 and 1"),
        ("reward", np.zeros((2, 1)), "reward has shape"),
    ):
        with pytest.raises(ValueError, match=said):
            Finite(states, **(good | {name: wrong}))
    with pytest.raises(ValueError, match="same readings"):
        Finite(np.zeros((2, 1)), **good)
    task = robots.load("maze-holes")
    with pytest.raises(ValueError, match="those of no state"):
        FiniteDynamics(task).root(State(0.0, np.full(7, 0.5), None))
