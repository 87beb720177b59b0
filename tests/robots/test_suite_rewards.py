"""Our tasks of dm_control's suite against dm_control itself: model, start, motion and reward."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from trimtab import robots
from trimtab.robots import plugins
from trimtab.robots.suite import control_suite
from trimtab.robots.task import Task
from trimtab.sim.compiled import Compiled
from trimtab.sim.mujoco_simulator import MujocoSimulator

EPISODES = 16  # half of them of random control alone
STEPS = 26  # of each episode

SUITE = set(control_suite().ALL_TASKS)
DOMAINS = {domain for domain, _ in SUITE}


def suite_names() -> list[str]:
    names = []
    for robot in plugins.names("robots"):
        try:
            names += [f"{robot}-{task}" for task in plugins.find("robots", robot) if (robot, task) in SUITE]
        except robots.PluginError:
            if robot in DOMAINS:
                names.append(robot)  # fails in its own tests, not in everybody's
    return names


NAMES = suite_names()
every_task = pytest.mark.parametrize("name", NAMES)


@functools.cache
def task_of(name: str) -> Task:
    return robots.load(name)


@functools.cache
def env_of(name: str) -> Any:
    domain, _, task = name.partition("-")
    return control_suite().load(domain, task, task_kwargs={"random": 0})


# Most rewards are zero almost everywhere: part of the episodes begin near the goal, and are put there again and again.


def near_rest(physics: Any, rng: np.random.Generator) -> None:
    """The model's reference pose, for most robots upright, disturbed."""
    model, data = physics.model.ptr, physics.data.ptr
    data.qpos[:] = model.qpos0 + 0.05 * rng.standard_normal(model.nq)
    data.qvel[:] = rng.standard_normal(model.nv)


def near_still(physics: Any, rng: np.random.Generator) -> None:
    """The same, at rest: the fish weighs grams, and its integration fails at velocities like the others'."""
    near_rest(physics, rng)
    physics.data.qvel[:] = 0.0


def put(scale: float, *goal: float) -> Callable[[Any, np.random.Generator], None]:
    def near(physics: Any, rng: np.random.Generator) -> None:
        near_rest(physics, rng)
        physics.data.qpos[:] = np.array(goal) + scale * rng.standard_normal(len(goal))

    return near


def target_at(array: str, target: str, objects: str, tip: str, scale: float) -> Callable[[Any, Any], None]:
    """The target's place moved to near the tip, in the plane or space that the two share."""

    def near(physics: Any, rng: np.random.Generator) -> None:
        place = getattr(physics.named.model, array)
        where = getattr(physics.named.data, objects)[tip]
        moved = where + scale * rng.standard_normal(3)
        place[target] = np.where(np.abs(where - place[target]) > 1e-9, moved, place[target])

    return near


def near_spinning(physics: Any, rng: np.random.Generator) -> None:
    physics.named.data.qvel["hinge"] = -15.0 + 2.0 * rng.standard_normal()


def near_held(physics: Any, rng: np.random.Generator) -> None:
    target = physics.named.data.xpos["target_ball"]
    physics.named.data.qpos[["ball_x", "ball_z"]] = target[[0, 2]] + 0.01 * rng.standard_normal(2)
    physics.named.data.qvel[["ball_x", "ball_z"]] = 0.0


NEAR = {
    "cartpole": put(0.1, 0.0, 0.0),
    "pendulum": put(0.15, 0.0),
    "acrobot": put(0.15, 0.0, 0.0),
    "ball_in_cup": put(0.02, 0.0, 0.0, 0.0, 0.35),
    "reacher": target_at("geom_pos", "target", "geom_xpos", "finger", 0.03),
    "finger-spin": near_spinning,
    "finger": target_at("site_pos", "target", "site_xpos", "tip", 0.03),
    "point_mass": put(0.02, 0.0, 0.0),
    "swimmer": target_at("geom_pos", "target", "geom_xpos", "nose", 0.1),
    "fish-upright": near_still,
    "fish-swim": target_at("geom_pos", "target", "geom_xpos", "mouth", 0.05),
    "manipulator": near_held,
}


def near_goal(name: str) -> Callable[[Any, np.random.Generator], None]:
    return NEAR.get(name) or NEAR.get(name.partition("-")[0], near_rest)


@dataclass
class Visited:
    y: np.ndarray  # (n, ny) our readings of dm_control's states
    u: np.ndarray  # (n, nu) the controls that led to them
    reward: np.ndarray  # (n,) dm_control's


@functools.cache
def visited(name: str) -> Visited:
    task, env = task_of(name), env_of(name)
    theirs = Compiled(task.robot, env.physics.model.ptr, env.physics.data.ptr)
    ours = Compiled(task.robot)
    low, high = np.clip(task.robot.control_limits, -1.0, 1.0)
    y, u, reward = [], [], []
    for seed in range(EPISODES):
        rng = np.random.default_rng(seed)
        env.task._random = np.random.RandomState(seed)
        env.reset()
        for step in range(STEPS):
            if seed % 2 and step % 3 == 0:
                with env.physics.model.disable("actuation"):
                    near_goal(name)(env.physics, rng)
                    env.physics.forward()
            control = rng.uniform(low, high)
            timestep = env.step(control)
            ours.unpack(theirs.pack())
            y.append(ours.readings())
            u.append(control)
            reward.append(timestep.reward)
    return Visited(np.array(y), np.array(u), np.array(reward, float))


@every_task
def test_rewards_are_dm_controls(name):
    states = visited(name)
    assert len(states.y) >= 200
    assert np.isfinite(states.y).all()
    np.testing.assert_allclose(task_of(name).reward(states.y, states.u), states.reward, rtol=0, atol=1e-9)


@every_task
def test_the_states_compared_have_varied_rewards(name):
    reward = visited(name).reward
    assert reward.max() > 0.05
    assert reward.max() - reward.min() > 0.05


@every_task
def test_periods_limits_and_duration_are_dm_controls(name):
    task, env = task_of(name), env_of(name)
    spec = env.action_spec()
    assert task.robot.dt == pytest.approx(env.control_timestep(), abs=1e-12)
    assert task.robot.model.opt.timestep == env.physics.timestep()
    assert round(task.duration / task.robot.dt) == round(env._step_limit)
    np.testing.assert_array_equal(task.robot.control_limits, [spec.minimum, spec.maximum])


@every_task
def test_the_model_is_dm_controls(name):
    """Every number of the model, those that the task sets at its start included."""
    task, env = task_of(name), env_of(name)
    env.reset()
    theirs = env.physics.model.ptr
    ours = Compiled(task.robot)
    ours.set_parameters(Compiled(task.robot, theirs, env.physics.data.ptr).pack())
    compared = 0
    for field in dir(theirs):
        a = getattr(theirs, field)
        looks = field.startswith(("_", "sensor", "name", "mat_", "tex_", "vis", "cam_", "light_")) or "rgba" in field
        bounds = field in ("bvh_aabb", "geom_aabb", "geom_rbound")  # dm_control resizes geoms and leaves these
        if looks or bounds or not isinstance(a, np.ndarray):
            continue
        np.testing.assert_array_equal(getattr(ours.model, field), a, err_msg=field)
        compared += a.size > 0
    assert compared > 50
    for field in ("gravity", "density", "viscosity", "integrator", "cone", "solver", "iterations", "disableflags"):
        np.testing.assert_array_equal(getattr(ours.model.opt, field), getattr(theirs.opt, field), err_msg=field)


@every_task
def test_starts_are_dm_controls(name):
    task, env = task_of(name), env_of(name)
    compiled = Compiled(task.robot, env.physics.model.ptr, env.physics.data.ptr)
    drawn = []
    for seed in (3, 4):
        start = task.start(seed)
        env.task._random = np.random.RandomState(seed)
        env.reset()
        np.testing.assert_array_equal(start.qpos, env.physics.data.qpos)
        np.testing.assert_array_equal(start.qvel, env.physics.data.qvel)
        assert len(start.parameters) == len(compiled.parameters)
        for ours, theirs in zip(start.parameters, compiled.parameters):
            np.testing.assert_array_equal(ours, theirs)
        drawn.append(np.concatenate([start.qpos, start.qvel, *start.parameters]))
    assert not np.array_equal(*drawn)


@every_task
def test_states_move_as_in_dm_control(name):
    task, env = task_of(name), env_of(name)
    theirs = Compiled(task.robot, env.physics.model.ptr, env.physics.data.ptr)
    plant = MujocoSimulator(task)
    rng = np.random.default_rng(5)
    for seed in (0, 1):
        env.reset()
        x = plant.reset(seed).x
        theirs.unpack(x)
        for _ in range(20):
            control = rng.uniform(*np.clip(task.robot.control_limits, -1.0, 1.0))
            env.step(control)
            after = plant.step(control).x
            np.testing.assert_allclose(after, theirs.pack(), rtol=1e-12, atol=1e-12)
        assert not np.allclose(after, x)


def sample(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings (2, 3, 4, ny), controls (2, 3, 4, nu) and times (4,), from all over the visited states."""
    states = visited(name)
    pick = np.linspace(0, len(states.y) - 1, 24).astype(int)
    t = 0.3 + task_of(name).robot.dt * np.arange(4)
    return states.y[pick].reshape(2, 3, 4, -1), states.u[pick].reshape(2, 3, 4, -1), t


def judged(task: Task) -> dict[str, Callable[[Any, Any, Any], Any]]:
    return {
        "reward": lambda y, u, t: task.reward(y, u),
        "cost": task.cost,
        "terminal_cost": task.terminal_cost,
        "success": lambda y, u, t: task.success(y),
        "terminated": lambda y, u, t: task.terminated(y),
    }


@every_task
def test_batches_equal_single_states(name):
    y, u, t = sample(name)
    for what, f in judged(task_of(name)).items():
        batch = np.asarray(f(y, u, t))
        assert batch.shape == (2, 3, 4), what
        for i in np.ndindex(2, 3, 4):
            single = np.asarray(f(y[i], u[i], t[i[-1]]))
            assert single.shape == (), what
            np.testing.assert_allclose(single, batch[i], rtol=1e-12, atol=1e-12, err_msg=what)


@every_task
def test_torch_gives_the_same_numbers(name):
    y, u, t = sample(name)
    for what, f in judged(task_of(name)).items():
        expected = np.asarray(f(y, u, t))
        result = f(*map(torch.from_numpy, (y, u, t)))
        assert tuple(result.shape) == (2, 3, 4), what
        np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-12, atol=1e-12, err_msg=what)


@every_task
def test_costs_are_finite_and_fall_as_rewards_rise(name):
    states, task = visited(name), task_of(name)
    cost = task.cost(states.y, states.u, np.zeros(len(states.y)))
    assert np.isfinite(cost).all()
    assert np.corrcoef(cost, states.reward)[0, 1] < 0.0
    assert len({term.name for term in task.terms}) == len(task.terms)


@every_task
def test_readings_hold_for_a_state_alone(name):
    """No sensor that depends on accelerations: those change with the control that comes next."""
    task = task_of(name)
    assert (task.robot.model.sensor_needstage != mujoco.mjtStage.mjSTAGE_ACC).all()
    if task.trace is not None:
        y = visited(name).y
        assert task.trace(task.robot.layout(y)).shape == (len(y), 3)
        assert task.trace(task.robot.layout(y[0])).shape == (3,)
