from dataclasses import replace

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.robots.suite import control_suite, load_environment

OURS = [name for name in robots.names() if tuple(name.split("-", 1)) in control_suite().ALL_TASKS]

# Among them: targets, sizes, damping, tendons and terrains drawn at reset, a model drawn when it is built, a task that
# terminates, and one that keeps attributes of its own.
SUITE = [
    "reacher-hard",
    "finger-turn_hard",
    "swimmer-swimmer6",
    "fish-swim",
    "manipulator-insert_peg",
    "lqr-lqr_6_2",
    "point_mass-hard",
    "quadruped-escape",
    "cheetah-run",
    "dog-run",
]


def controls(task, *shape, seed=0):
    low, high = np.nan_to_num(task.robot.control_limits, posinf=1.0, neginf=-1.0)
    return np.random.default_rng(seed).uniform(low, high, (*shape, task.robot.nu))


@pytest.mark.parametrize("name", OURS)
def test_moves_our_tasks_as_mujoco_does(name):
    task = robots.load(name)
    one, other = sim.make("mujoco", task), sim.make("dm_control", task)
    states = one.reset(3), other.reset(3)
    for k, u in enumerate(controls(task, 12)):
        if k == 6:  # states change places
            states = one.reset(0, states[1]), other.reset(0, states[0])
        states = one.step(u), other.step(u)
        np.testing.assert_allclose(states[0].y, states[1].y, rtol=0, atol=1e-12)
        np.testing.assert_allclose(states[0].x, states[1].x, rtol=1e-12, atol=1e-12)
    assert states[0].time == states[1].time


@pytest.mark.parametrize("name", SUITE)
def test_suite_tasks_are_dm_controls(name):
    task = robots.load(f"dm_control:{name}")
    plant = sim.make("dm_control", task)
    env = load_environment(*name.split("-", 1))
    env.task._random = np.random.RandomState(3)
    env.reset()
    start = plant.reset(3)
    u = controls(task, 10)
    states = []
    for k in range(10):
        truth = env.step(u[k])
        states.append(plant.step(u[k]))
        view = task.robot.layout(states[-1].y)
        np.testing.assert_array_equal(np.atleast_1d(view.qpos), env.physics.data.qpos)
        np.testing.assert_array_equal(np.atleast_1d(view.qvel), env.physics.data.qvel)
        assert view.reward == truth.reward == task.reward(states[-1].y, u[k])
    # Another environment, which has drawn another episode since, goes on from the state just so.
    dynamics = sim.dynamics("dm_control", task)
    dynamics.advance(plant.reset(4), u[:1])
    y = dynamics.rollout(start, np.stack([u, -u, u]), np.random.default_rng(0)).y
    for i in (0, 2):
        np.testing.assert_array_equal(y[0, i, 1:], [s.y for s in states])
    cost = task.cost(y[:, :, 1:], np.stack([u, -u, u])[None], 0.0)
    np.testing.assert_allclose(cost[0, 0], [1.0 - task.reward(s.y, None) for s in states], rtol=0, atol=1e-15)
    dynamics.close()


def test_start_is_the_suites():
    task = robots.load("dm_control:reacher-easy")
    start = task.start(8)
    view = task.robot.layout(sim.make("dm_control", task).reset(8).y)
    np.testing.assert_array_equal(view.qpos, start.qpos)
    np.testing.assert_array_equal(view.qvel, start.qvel)


def test_goes_on_past_the_time_limit():
    task = robots.load("dm_control:pendulum-swingup")
    assert task.duration == 20.0
    plant = sim.make("dm_control", task)
    plant.reset(0)
    for _ in range(1005):
        state = plant.step(np.zeros(1))
    assert state.time == pytest.approx(20.1)


def test_termination_is_a_reading_and_does_not_reset():
    task = robots.load("dm_control:lqr-lqr_2_1")
    assert np.isfinite(task.duration)
    plant = sim.make("dm_control", task)
    state = plant.reset(0)
    assert not task.terminated(state.y)
    x = state.x.copy()
    x[1:5] = 0.0  # positions and velocities: at rest at the origin, where this task ends
    state = plant.reset(0, sim.State(state.time, state.y, x))
    for k in range(1, 4):
        state = plant.step(np.zeros(1))
        assert task.terminated(state.y)
        assert state.time == pytest.approx(k * task.robot.dt)


def test_controls_are_not_clipped():
    plant = sim.make("dm_control", robots.load("dm_control:cartpole-balance"))
    plant.reset(0)
    assert 5.0 in plant.step(np.array([5.0])).x  # the state holds the control, as given


@pytest.mark.parametrize("name", ["cartpole-swingup", "dm_control:cartpole-swingup"])
def test_divergence_is_an_error_at_once_and_until_reset(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log
    plant = sim.make("dm_control", robots.load(name))
    start = plant.reset(0)
    x = start.x.copy()
    x[1], x[3] = 9.99999e9, 9e9  # the cart is finite, and one step from too large
    for _ in range(2):
        plant.reset(0, replace(start, x=x))
        for _ in range(2):
            with pytest.raises(sim.SimulationError, match="diverged"):
                plant.step(np.zeros(1))
        assert plant.reset(0).time == 0.0
        assert plant.step(np.zeros(1)).time == pytest.approx(0.01)
        plant.reset(0, start)
        plant.step(np.zeros(1))


@pytest.mark.parametrize("name", ["cartpole-swingup", "dm_control:cartpole-swingup"])
def test_a_state_that_mujoco_resets_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant = sim.make("dm_control", robots.load(name))
    start = plant.reset(0)
    start.x[1] = np.nan
    with pytest.raises(sim.SimulationError, match="position"):
        plant.reset(0, start)


def test_diverging_candidates_are_marked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = robots.load("dm_control:cartpole-swingup")
    dynamics = type(sim.dynamics("dm_control", task))(task, threads=1)
    dynamics._environments[0].model.actuator_ctrllimited[:] = 0  # else MuJoCo clamps any control to a good one
    u = np.zeros((3, 4, 1))
    u[1, 2] = 1e11
    rollout = dynamics.rollout(sim.make("dm_control", task).reset(0), u)
    np.testing.assert_array_equal(rollout.valid, [[True, False, True]])
    assert np.isfinite(rollout.y[0, 1, :3]).all()
    np.testing.assert_array_equal(rollout.y[0, 0], rollout.y[0, 2])


def test_rollouts_do_not_depend_on_threads():
    task = robots.load("dm_control:reacher-hard")
    state = sim.make("dm_control", task).reset(0)
    u = controls(task, 5, 4)
    make = type(sim.dynamics("dm_control", task))
    np.testing.assert_array_equal(make(task, threads=1).rollout(state, u).y, make(task, threads=3).rollout(state, u).y)


def test_step_before_reset_is_an_error():
    with pytest.raises(sim.SimulationError, match="reset"):
        sim.make("dm_control", robots.load("dm_control:reacher-easy")).step(np.zeros(2))


def test_unknown_names_list_the_known_and_the_nearest():
    with pytest.raises(robots.UnknownName, match=r"did you mean 'dm_control:walker-run'\?.*dm_control:dog-run"):
        robots.load("dm_control:walker-rum")
    with pytest.raises(robots.UnknownName, match="Known: dm_control, gymnasium"):
        robots.load("dmcontrol:walker-run")
    with pytest.raises(robots.UnknownName, match=r"gymnasium:Pendulum-v1.*reacher-easy"):
        sim.make("dm_control", robots.load("gymnasium:Pendulum-v1"))
    with pytest.raises(ValueError, match="no MuJoCo model"):
        sim.make("mujoco", robots.load("dm_control:dog-run"))


def test_state_of_another_task_is_refused():
    plant = sim.make("dm_control", robots.load("dm_control:reacher-easy"))
    other = sim.make("dm_control", robots.load("dm_control:cartpole-balance")).reset(0)
    with pytest.raises(ValueError, match="numbers"):
        plant.reset(0, other)
