"""Analytic nominal models: what the full state's dynamics predict, their derivatives, and what is left to learn."""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers.cem import CEM
from trimtab.controllers.problem import Problem
from trimtab.learners.encoding import Encoding
from trimtab.learners.ensemble import EnsembleSettings
from trimtab.learners.ensemble_dynamics import EnsembleDynamics
from trimtab.learners.gaussian_process import GaussianProcess
from trimtab.learners.learned_model import LearnedModel
from trimtab.learners.nominal import AnalyticNominal
from trimtab.learners.replay import Replay
from trimtab.robots import Parameter, Reading
from trimtab.robots.plugins import UnknownName

TASK = robots.load("cartpole-swingup")
ROBOT = TASK.robot
KINDS = [
    ("pendulum-swingup", "casadi"),
    ("cartpole-swingup", "casadi"),
    ("cartpole-swingup", "mujoco"),
    ("cartpole-swingup", "pinocchio"),
    ("car-parking", "casadi"),  # of first order
    ("quadrotor-waypoints", "casadi"),  # a quaternion, and a clock
    ("quadrotor-waypoints", "mujoco"),
    ("reacher-easy", "mujoco"),  # a target that is a reading in part
    ("finger-turn_easy", "mujoco"),  # a target that is told by a sensor
    ("cheetah-run", "mujoco"),  # sensors
    ("quadruped-walk", "mujoco"),  # activations
]
SMALL = EnsembleSettings(members=3, elites=3, hidden=(64, 64), batch=64, epochs=150)


@functools.cache
def steps(name, dynamics, episodes=2, length=6):
    """Readings and controls along random episodes, and the readings that the dynamics lead to from the full states."""
    task, rng = robots.load(name), np.random.default_rng(0)
    plant = sim.make("casadi" if task.robot.build is None else "mujoco", task)
    model, rows = sim.dynamics(dynamics, task), []
    limits = np.clip(task.robot.control_limits, -1.0, 1.0)
    for episode in range(episodes):
        state = plant.reset(episode)
        for _ in range(length):
            u = rng.uniform(*limits)
            rows.append((state.y, u, model.advance(state, u[None]).y))
            state = plant.step(u)
    return tuple(np.array(column) for column in zip(*rows))


@pytest.mark.parametrize(("name", "dynamics"), KINDS)
def test_it_leads_where_the_full_state_leads_but_clocks_stand(name, dynamics):
    robot = robots.load(name).robot
    y, u, expected = steps(name, dynamics)
    expected = expected.copy()
    clocks = list(Encoding.of(robot).clocks)
    expected[:, clocks] = y[:, clocks]
    before = y.copy(), u.copy()
    np.testing.assert_allclose(AnalyticNominal(robot, dynamics)(y, u), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(u, before[1])


@pytest.mark.parametrize(("name", "dynamics"), [k for k in KINDS if k[0] not in ("cheetah-run", "quadruped-walk")])
def test_derivatives_are_those_of_differences(name, dynamics):
    """Where there is no contact, which has none: a landing foot's are what they are on either side."""
    robot = robots.load(name).robot
    y, u, _ = steps(name, dynamics)
    nominal, still = AnalyticNominal(robot, dynamics), Encoding.of(robot)
    A, B = nominal.jacobian(y, u)
    directions, step = np.random.default_rng(1).standard_normal((2, y.shape[1])), 1e-5
    directions[:, [k for k in range(y.shape[1]) if k not in still.predicted]] = 0.0
    for start in still.quaternions:
        # Turns alone: what else changes a quaternion is no motion.
        directions[:, start : start + 4] = 0.0
    homes = [r for r in robot.readings if r.source in ("sensor", "external")]
    for reading in homes:  # they follow from others, and move nothing
        directions[:, robot.layout[reading.name]] = 0.0
    for d in directions:
        found = (nominal(y + step * d, u) - nominal(y - step * d, u)) / (2.0 * step)
        np.testing.assert_allclose(A @ d, found, rtol=1e-4, atol=2e-5)
    for start in still.quaternions:
        for k in range(3):
            turn = np.eye(3)[k]
            w, v = y[:, start, None], y[:, start + 1 : start + 4]
            d = np.zeros_like(y)
            d[:, start] = -v[:, k]
            d[:, start + 1 : start + 4] = w * turn + np.cross(v, turn)
            found = (nominal(y + step * d, u) - nominal(y - step * d, u)) / (2.0 * step)
            np.testing.assert_allclose((A @ d[..., None])[..., 0], found, rtol=1e-4, atol=2e-5)
    v = np.random.default_rng(2).standard_normal(u.shape[1])
    inside = 0.9 * u
    found = (nominal(y, inside + step * v) - nominal(y, inside - step * v)) / (2.0 * step)
    np.testing.assert_allclose(nominal.jacobian(y, inside)[1] @ v, found, rtol=1e-4, atol=2e-5)
    assert B.shape == (len(y), y.shape[1], u.shape[1])


def test_at_a_limit_derivatives_are_of_the_side_within():
    y, u = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[1.0]])
    by = {kind: AnalyticNominal(ROBOT, kind).jacobian(y, u)[1] for kind in ("casadi", "mujoco")}
    np.testing.assert_allclose(by["mujoco"], by["casadi"], rtol=1e-5)
    assert by["casadi"][0, 2, 0] > 0.05


def drawn(*readings):
    """The cartpole whose pole's mass is drawn at an episode's start."""
    return dataclasses.replace(
        ROBOT, readings=(*ROBOT.readings, *readings), parameters=(Parameter("body_mass", "pole_1"),)
    )


def test_parameters_are_held_at_their_readings():
    robot = drawn(Reading.parameter("mass", "body_mass", "pole_1", 0))
    nominal, y = AnalyticNominal(robot, "mujoco"), np.array([[0.0, 0.4, 0.0, 0.0, m] for m in (0.1, 2.0, 0.1)])
    found = nominal(y, np.zeros((3, 1)))
    np.testing.assert_array_equal(found[:, 4], y[:, 4])
    np.testing.assert_array_equal(found[0], found[2])
    assert found[1, 2] < 2.0 * found[0, 2] < 0.0  # the heavier pole pushes the cart away
    alone = AnalyticNominal(ROBOT, "mujoco")(y[:1, :4], np.zeros((1, 1)))
    np.testing.assert_allclose(found[:1, :4], alone, rtol=1e-12)
    assert nominal(y[:0], np.zeros((0, 1))).shape == (0, 5)


def test_what_the_readings_do_not_tell_is_named():
    blind = dataclasses.replace(ROBOT, readings=ROBOT.readings[:3])
    for dynamics in ("casadi", "mujoco", "pinocchio"):
        with pytest.raises(ValueError, match=rf"the {dynamics} dynamics its state; missing: qvel\[1\] of hinge_1"):
            AnalyticNominal(blind, dynamics)
    with pytest.raises(ValueError, match="missing: body_mass of pole_1"):
        AnalyticNominal(drawn(), "mujoco")
    legs = robots.load("quadruped-walk").robot
    without = [r for r in legs.readings if r.source != "act"]
    with pytest.raises(ValueError, match=r"missing: act\[0\] of "):
        AnalyticNominal(dataclasses.replace(legs, readings=tuple(without)), "mujoco")
    with pytest.raises(UnknownName, match="nominal dynamics 'mujocco'; did you mean 'mujoco'"):
        AnalyticNominal(ROBOT, "mujocco")
    with pytest.raises(ValueError, match="has no closed form"):
        AnalyticNominal(robots.load("cheetah-run").robot, "casadi")


def test_sensors_of_joints_tell_them_too():
    sensor, joint = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_JOINT
    told = dataclasses.replace(
        ROBOT,
        readings=(
            *ROBOT.readings[:3],
            Reading.sensed("pole_velocity", 1, sensor.mjSENS_JOINTVEL, joint, "hinge_1"),
        ),
    )
    y, u, _ = steps("cartpole-swingup", "mujoco")
    np.testing.assert_allclose(
        AnalyticNominal(told, "mujoco")(y, u), AnalyticNominal(ROBOT, "mujoco")(y, u), rtol=1e-12
    )


def test_where_it_diverges_it_says_nothing():
    y, u = np.zeros((2, 4)), np.zeros((2, 1))
    y[1, 3] = 1e12
    for dynamics in ("casadi", "mujoco"):
        found = AnalyticNominal(ROBOT, dynamics)(y, u)
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()


@pytest.mark.parametrize("dynamics", ["casadi", "mujoco"])
def test_threads_may_share_it(dynamics):
    nominal, rng = AnalyticNominal(ROBOT, dynamics), np.random.default_rng(0)
    parts = [(rng.standard_normal((300, 4)), rng.uniform(-1.0, 1.0, (300, 1))) for _ in range(16)]
    alone = [nominal(*part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: nominal(*part), parts))
    np.testing.assert_array_equal(together, alone)


def worn():
    """The cartpole with a heavier pole, and friction in both its joints."""
    spec = ROBOT.build()
    spec.body("pole_1").geoms[0].mass = 0.14
    for name, damping in (("slider", 0.5), ("hinge_1", 0.02)):
        joint = spec.joint(name)
        joint.damping = damping if np.ndim(joint.damping) == 0 else np.array([damping, 0.0, 0.0])
    return spec


@functools.cache
def recorded(seed, steps):
    """Random controls on the worn cartpole."""
    task = dataclasses.replace(TASK, robot=dataclasses.replace(ROBOT, build=worn))
    plant, store, rng = sim.make("mujoco", task), Replay(ROBOT), np.random.default_rng(seed)
    for episode in range(steps // 100):
        state = plant.reset(1000 * seed + episode)
        for k in range(100):
            if k % 4 == 0:
                u = rng.uniform(-1.0, 1.0, 1)
            after = plant.step(u)
            store.append(state.y, u, 0.0, after.y, truncated=k == 99)
            state = after
    return store


@functools.cache
def trained(nominal, process=False):
    """The worn cartpole from 200 steps."""
    rng, encoding = np.random.default_rng(0), Encoding.of(ROBOT)
    added = AnalyticNominal(ROBOT, nominal) if nominal else None
    if process:
        model = LearnedModel(ROBOT, encoding, GaussianProcess(encoding.inputs, encoding.outputs, rng), added)
    else:
        model = LearnedModel.of_ensemble(ROBOT, rng, SMALL, nominal=added)
    model.fit(recorded(0, 200), rng)
    return model


def error(advance, horizon=10):
    """Median size of the error so many steps ahead, in the readings' standard deviations."""
    data, found = recorded(7, 600).all(), []
    for begin in range(0, 600, 20):
        y = data.y[begin]
        for k in range(horizon):
            y = advance(y[None], data.u[begin + k, None])[0]
        found.append(np.abs(y - data.y_next[begin + horizon - 1]) / data.y.std(axis=0))
    return np.median(found)


def test_what_a_nominal_model_gets_wrong_takes_few_data_to_learn():
    alone = error(AnalyticNominal(ROBOT, "casadi"))
    network, residual = error(trained(None).expected), error(trained("casadi").expected)
    assert residual < 0.2 * alone
    assert residual < 0.2 * network
    assert error(trained("casadi", True).expected) < 0.02 * alone


@pytest.mark.parametrize("dynamics", ["casadi", "mujoco"])
def test_a_model_with_a_nominal_one_is_saved_with_it(dynamics, tmp_path):
    model = trained("casadi", True)
    model.nominal = AnalyticNominal(ROBOT, dynamics)
    model.save(tmp_path / "model.safetensors")
    loaded = LearnedModel.load(tmp_path / "model.safetensors", ROBOT)
    assert loaded.nominal.to_json() == {"dynamics": dynamics}
    y, u, _ = steps("cartpole-swingup", "casadi")
    np.testing.assert_array_equal(loaded.expected(y, u), model.expected(y, u))
    model.nominal = AnalyticNominal(ROBOT, "casadi")


def test_planners_search_what_it_leads_to_and_its_derivatives_are_of_both():
    dynamics = EnsembleDynamics(TASK, trained("casadi"), "tsinf", 3)
    state = sim.make("mujoco", TASK).reset(1)
    problem = Problem(dynamics, TASK, state, 12, np.random.default_rng(1))
    plan = CEM(horizon=12, samples=32).plan(problem, None, np.random.default_rng(0))
    assert plan.cost < problem.cost(np.zeros((1, 12, 1)))[0]
    x, u = np.stack([state.y, state.y]), np.full((1, 1), 0.3)
    found = dynamics.linearize(x, u)
    for k in range(4):
        step = 1e-3 * np.eye(4)[k]
        up, down = (dynamics.model.expected((state.y + s)[None], u)[0] for s in (step, -step))
        np.testing.assert_allclose(found.A[0, :, k], (up - down) / 2e-3, rtol=1e-2, atol=2e-3)


def test_a_deterministic_ensemble_is_a_model_like_the_others(tmp_path):
    """Members predict no noise: what spreads their predictions is what they disagree on."""
    rng = np.random.default_rng(0)
    model = LearnedModel.of_ensemble(ROBOT, rng, dataclasses.replace(SMALL, probabilistic=False))
    fit = model.fit(recorded(0, 200), rng)
    assert (fit.holdout < 0.05).all()  # half the squared error of what varies by 1
    assert 0.0 <= fit.calibration.error <= 0.95
    y, u, _ = steps("cartpole-swingup", "casadi")
    assert not model.regressor.predict(model.encoding.tell(y, u))[1].any()
    controls, state = np.random.default_rng(1).uniform(-1.0, 1.0, (3, 8, 1)), sim.make("mujoco", TASK).reset(1)
    rollouts = {
        kind: EnsembleDynamics(TASK, model, kind, 3).rollout(state, controls, np.random.default_rng(seed)).y
        for seed, kind in enumerate(("mean", "tsinf"))
    }
    np.testing.assert_allclose(rollouts["tsinf"], rollouts["mean"], atol=1e-5)  # there is no noise to draw
    assert (rollouts["mean"][:, :, -1].std(axis=0) > 0.0).all()
    model.save(tmp_path / "model.safetensors")
    loaded = LearnedModel.load(tmp_path / "model.safetensors", ROBOT)
    assert not loaded.regressor.settings.probabilistic
    for one in (model, loaded):
        one.fit(recorded(0, 200), np.random.default_rng(3))
    np.testing.assert_array_equal(loaded.expected(y, u), model.expected(y, u))
    for propagation in ("ts1", "moments"):
        dynamics = EnsembleDynamics(TASK, model, propagation, 3)
        problem = Problem(dynamics, TASK, state, 12, np.random.default_rng(1))
        plan = CEM(horizon=12, samples=32).plan(problem, None, np.random.default_rng(0))
        assert plan.cost < problem.cost(np.zeros((1, 12, 1)))[0]
