"""Copies of a plant against single simulators, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.robots.plugins import UnknownName
from trimtab.sim import mujoco_copies
from trimtab.sim.compiled import Compiled
from trimtab.sim.copies import SingleCopies
from trimtab.sim.interface import SimulationError, State


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where a simulation diverges


PLANTS = [
    ("mujoco", "cheetah-run"),  # sensors, one physics step in a control step
    ("mujoco", "cartpole-swingup"),  # Runge-Kutta, no sensor
    ("mujoco", "reacher-easy"),  # a model of its own for each copy
    ("mujoco", "finger-turn_hard"),
    ("mujoco", "walker-walk"),  # many physics steps in a control step
    ("mujoco", "quadruped-walk"),  # activations
    ("dm_control", "reacher-easy"),
    ("casadi", "pendulum-swingup"),
    ("gymnasium", "gymnasium:InvertedPendulum-v5"),
    ("finite", "maze-holes"),
]


def controls(task, *shape, seed=0):
    low, high = np.nan_to_num(task.robot.control_limits, posinf=1.0, neginf=-1.0)
    return np.random.default_rng(seed).uniform(low, high, (*shape, len(low)))


def begun(name, task, count, threads=None, seed=5):
    copies = sim.copies(name, task, count, threads)
    return copies, np.array([copies.reset(i, seed + i) for i in range(count)])


def always_share(copies):
    """Has all threads take part, however little there is to do."""
    if hasattr(copies, "_sharing"):
        copies._sharing = lambda repeat: copies._threads > 1


def alone(name, task, count, u, seed=5):
    """Readings (steps + 1, count, ny) of single simulators under `u` (steps, count, nu), and their last states."""
    paths, last = [], []
    for i in range(count):
        plant = sim.make(name, task)
        states = [plant.reset(seed + i), *(plant.step(v) for v in u[:, i])]
        paths.append([state.y for state in states])
        last.append(states[-1])
        plant.close()
    return np.swapaxes(np.array(paths), 0, 1), last


@pytest.mark.parametrize(("name", "of"), PLANTS)
def test_each_copy_goes_where_a_single_simulator_would(name, of):
    task, count = robots.load(of), 4
    u = controls(task, 6, count)
    y, last = alone(name, task, count, u)
    for threads in (1, 2, 3) if name == "mujoco" else (None,):
        copies, first = begun(name, task, count, threads)
        np.testing.assert_array_equal(first, y[0])
        assert copies.count == count
        assert copies.dt == task.robot.dt
        always_share(copies)
        for k in range(len(u)):
            readings, failures = copies.step(u[k])
            np.testing.assert_array_equal(readings, y[k + 1][:, None])
            assert not failures
        for one, other in zip(copies.states(), last, strict=True):
            np.testing.assert_array_equal(one.y, other.y)
            np.testing.assert_array_equal(one.x, other.x)
            assert one.time == other.time
        copies.close()


@pytest.mark.parametrize(("name", "of"), [PLANTS[1], PLANTS[2], PLANTS[4], PLANTS[8]])
def test_a_control_that_is_repeated_is_held(name, of):
    task, count = robots.load(of), 3
    u = controls(task, 3, count)
    y, _ = alone(name, task, count, np.repeat(u, 4, axis=0))
    copies, _ = begun(name, task, count)
    for k in range(3):
        readings, _ = copies.step(u[k], 4)
        np.testing.assert_array_equal(readings, np.swapaxes(y[1 + 4 * k : 5 + 4 * k], 0, 1))
    copies.close()


@pytest.mark.parametrize(("name", "of"), PLANTS)
def test_restored_copies_go_on_to_the_last_bit(name, of):
    task, count = robots.load(of), 3
    u = controls(task, 9, count)
    copies, _ = begun(name, task, count)
    for k in range(4):
        copies.step(u[k])
    kept = copies.states()
    expected = [copies.step(u[k])[0] for k in range(4, 9)]
    other, _ = begun(name, task, count, seed=90)
    other.step(u[0])
    for again in (other, copies, sim.copies(name, task, count)):
        again.restore(kept)
        for one, two in zip(again.states(), kept, strict=True):
            np.testing.assert_array_equal(one.y, two.y)
            assert one.time == two.time
        np.testing.assert_array_equal([again.step(u[k])[0] for k in range(4, 9)], expected)
        again.close()


class Forgetful:
    """The cart-pole with states that have readings only, as a plant whose inside can not be looked at."""

    def __init__(self, task):
        self.dt, self.plant, self.resets = task.robot.dt, sim.make("mujoco", task), 0

    def reset(self, seed, state=None):
        assert state is None
        self.resets += 1
        return replace(self.plant.reset(seed), x=None)

    def step(self, u):
        return replace(self.plant.step(u), x=None)

    def scene(self):
        return None

    def close(self):
        self.plant.close()


def test_a_plant_without_a_state_is_brought_back_by_its_controls():
    task = robots.load("cartpole-swingup")
    u = controls(task, 8, 2)
    copies = SingleCopies(Forgetful, task, 2)
    for i in range(2):
        copies.reset(i, 2**32 - 1 - i)
    for k in range(2):
        copies.step(u[k])
    copies.reset(1, 3)  # from here on, copies have been stepped a different number of times
    for k in range(2, 4):
        copies.step(u[k].copy())
    kept = copies.states()
    expected = [copies.step(u[k])[0] for k in range(4, 8)]
    fresh = SingleCopies(Forgetful, task, 2)
    for again in (copies, fresh):
        again.restore(kept)
        again.restore(again.states())
        np.testing.assert_array_equal([again.step(u[k])[0] for k in range(4, 8)], expected)
    assert [len(state.x) for state in kept] == [5, 3]
    with pytest.raises(ValueError, match="does not go on as it did"):
        fresh.restore([replace(kept[0], y=kept[0].y + 1.0), kept[1]])
    with pytest.raises(ValueError, match="a seed and controls"):
        fresh.restore([replace(kept[0], x=np.zeros(3, np.uint8)), kept[1]])
    with pytest.raises(ValueError, match="readings only"):
        fresh.restore([replace(kept[0], x=None), kept[1]])


def runaway(task, start, steps):
    """`start`, but so fast that the pendulum's angle is too large for MuJoCo in the control step of that number."""
    compiled = Compiled(task.robot)
    compiled.unpack(start.x)
    compiled.data.qvel[0] = 9e9
    compiled.data.qpos[0] = 1e10 - (steps - 0.5) * 9e9 * task.robot.dt
    return replace(start, x=compiled.pack())


def reason(name, task, start, u):
    """Why a single simulator fails."""
    plant = sim.make(name, task)
    plant.reset(0, start)
    try:
        for v in u:
            plant.step(v)
    except SimulationError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "threads"), [("mujoco", 1), ("mujoco", 2), ("dm_control", None)])
def test_a_plant_that_diverges_is_named_and_the_others_go_on(name, threads):
    task, count, others = robots.load("pendulum-swingup"), 4, [0, 2, 3]
    u = controls(task, 6, count)
    y, _ = alone(name, task, count, u)
    copies, _ = begun(name, task, count, threads)
    starts = copies.states()
    starts[1] = runaway(task, starts[1], 4)
    copies.restore(starts)
    told = {1: reason(name, task, starts[1], u[:, 1])}
    assert "diverged" in told[1]
    always_share(copies)
    for k in range(2):
        assert not copies.step(u[k])[1]
    for v, expected in ((u[2], [False, True, True]), (u[2], [True, True, True])):
        readings, failures = copies.step(v, 3)
        assert failures == told
        np.testing.assert_array_equal(np.isnan(readings[1]).all(axis=1), expected)
        assert np.isfinite(readings[others]).all()
        with pytest.raises(ValueError, match="copy 1 has failed"):
            copies.states()
    np.testing.assert_array_equal(copies.reset(1, 6), y[0][1])
    readings, failures = copies.step(u[0])
    assert not failures
    np.testing.assert_array_equal(readings[1, 0], y[1][1])
    for i in others:
        copies.reset(i, 5 + i)
    copies.reset(1, 6)
    for k in range(6):
        readings, _ = copies.step(u[k])
        np.testing.assert_array_equal(readings[:, 0], y[k + 1])
    copies.close()


def test_results_do_not_depend_on_whether_threads_share(monkeypatch):
    monkeypatch.setattr(mujoco_copies, "WORTH", 0.0)
    monkeypatch.setattr(mujoco_copies, "AGAIN", 3)
    task = robots.load("reacher-easy")
    u = controls(task, 40, 5)
    y, _ = alone("mujoco", task, 5, u)
    copies, _ = begun("mujoco", task, 5, 2)
    shares = []
    monkeypatch.setattr(copies, "_share", lambda *given, f=copies._share: (shares.append(1), f(*given))[1])
    for k in range(40):
        np.testing.assert_array_equal(copies.step(u[k])[0][:, 0], y[k + 1])
    assert 0 < len(shares) < 40
    copies.close()


def test_what_is_returned_is_the_callers_own():
    task = robots.load("reacher-easy")
    copies, first = begun("mujoco", task, 2)
    u = controls(task, 2, 2)
    y, _ = copies.step(u[0])
    kept = copies.states()
    y[:], first[:] = 0.0, 0.0
    copies.reset(1, 9)
    assert not y.any()
    after, _ = copies.step(u[1])
    copies.restore(kept)
    np.testing.assert_array_equal(copies.step(u[1])[0][0], after[0])
    assert kept[0].y.any()


@pytest.mark.parametrize("name", ["mujoco", "casadi"])
def test_bad_questions(name):
    task = robots.load("pendulum-swingup")
    copies = sim.copies(name, task, 2)
    copies.reset(0, 0)
    with pytest.raises(ValueError, match="no episode has begun in copy 1"):
        copies.step(np.zeros((2, 1)))
    with pytest.raises(ValueError, match="no episode has begun in copy 1"):
        copies.states()
    copies.reset(1, 0)
    before = copies.states()
    for u, told in (
        (np.zeros((1, 1)), r"shape \(1, 1\); these copies take \(2, 1\)"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.array([[0.0], [np.nan]]), "of copy 1 is not finite"),
    ):
        with pytest.raises(ValueError, match=told):
            copies.step(u)
    with pytest.raises(ValueError, match="0 control steps"):
        copies.step(np.zeros((2, 1)), 0)
    with pytest.raises(ValueError, match="1 states for 2 copies"):
        copies.restore(before[:1])
    with pytest.raises(ValueError):  # noqa: PT011 - simulators word their own errors
        copies.restore([before[0], State(0.0, before[0].y, np.zeros(2))])
    with pytest.raises(ValueError):  # noqa: PT011 - simulators word their own errors
        copies.restore([before[0], State(0.0, before[0].y)])
    copies.close()
    copies.close()
    for count in (0, 257):
        with pytest.raises(ValueError, match=f"{count} copies; there can be 1 to 256"):
            sim.copies(name, task, count)
    with pytest.raises(ValueError, match="0 threads"):
        sim.copies(name, task, 2, 0)
    with pytest.raises(UnknownName, match="mujoco"):
        sim.copies("mujocco", task, 2)
