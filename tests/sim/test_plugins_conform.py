"""Our own simulators and dynamics pass the suites that plugins' authors get."""

import importlib

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers import MPC, run
from trimtab.controllers.cem import CEM
from trimtab.robots import UnknownName
from trimtab.sim.conformance import DynamicsConformance, SimulatorConformance


class TestMujocoCartpole(SimulatorConformance):
    simulator, task = "mujoco", "cartpole-swingup"


class TestMujocoReacher(SimulatorConformance):
    """Parameters drawn at the start."""

    simulator, task = "mujoco", "reacher-hard"


class TestMujocoQuadruped(SimulatorConformance):
    """Activations, sensors, substeps and contacts."""

    simulator, task = "mujoco", "quadruped-walk"


class TestDmControlFinger(SimulatorConformance):
    simulator, task = "dm_control", "finger-turn_hard"


class TestDmControlSuiteSwimmer(SimulatorConformance):
    simulator, task = "dm_control", "dm_control:swimmer-swimmer6"


class TestGymnasiumPendulum(SimulatorConformance):
    simulator, task = "gymnasium", "gymnasium:Pendulum-v1"


class TestGymnasiumCartPole(SimulatorConformance):
    """Discrete actions, and an episode that may end in the run."""

    simulator, task = "gymnasium", "gymnasium:CartPole-v1"


class TestGymnasiumHalfCheetah(SimulatorConformance):
    """MuJoCo within, and an environment that pickles to a fresh one."""

    simulator, task = "gymnasium", "gymnasium:HalfCheetah-v5"


class TestCasadiPlantCartpole(SimulatorConformance):
    simulator, task = "casadi", "cartpole-swingup"


class TestCasadiPlantQuadrotor(SimulatorConformance):
    """A quaternion, substeps, and the clock among the readings."""

    simulator, task = "casadi", "quadrotor-waypoints"


class TestCasadiPlantCar(SimulatorConformance):
    """Of first order, and without a MuJoCo model."""

    simulator, task = "casadi", "car-parking"


class TestPinocchioPlantPanda(SimulatorConformance):
    """Parameters drawn at the start, and sensors."""

    simulator, task = "pinocchio", "panda-reach"


class TestMujocoDynamicsCartpole(DynamicsConformance):
    simulator, dynamics, task = "mujoco", "mujoco", "cartpole-swingup"
    tolerance = 0.0


class TestMujocoDynamicsReacher(DynamicsConformance):
    simulator, dynamics, task = "mujoco", "mujoco", "reacher-hard"
    tolerance = 0.0


class TestMujocoDynamicsQuadruped(DynamicsConformance):
    simulator, dynamics, task = "mujoco", "mujoco", "quadruped-walk"
    tolerance = 0.0


class TestDmControlDynamicsFinger(DynamicsConformance):
    simulator, dynamics, task = "mujoco", "dm_control", "finger-turn_hard"
    tolerance = 1e-12


class TestDmControlDynamicsSuiteFish(DynamicsConformance):
    simulator, dynamics, task = "dm_control", "dm_control", "dm_control:fish-swim"
    tolerance = 0.0


class TestGymnasiumDynamicsPendulum(DynamicsConformance):
    simulator, dynamics, task = "gymnasium", "gymnasium", "gymnasium:Pendulum-v1"
    tolerance = 0.0


class TestGymnasiumDynamicsCartPole(DynamicsConformance):
    simulator, dynamics, task = "gymnasium", "gymnasium", "gymnasium:CartPole-v1"
    tolerance = 0.0


class TestGymnasiumDynamicsHalfCheetah(DynamicsConformance):
    simulator, dynamics, task = "gymnasium", "gymnasium", "gymnasium:HalfCheetah-v5"
    tolerance = 0.0


class TestCasadiDynamicsCartpole(DynamicsConformance):
    """The model is the plant's, from MuJoCo's own states."""

    simulator, dynamics, task = "mujoco", "casadi", "cartpole-swingup"
    tolerance = 1e-12


class TestCasadiDynamicsQuadrotor(DynamicsConformance):
    simulator, dynamics, task = "mujoco", "casadi", "quadrotor-waypoints"
    tolerance = 1e-12


class TestMujocoDynamicsOnCasadi(DynamicsConformance):
    """The other way round: MuJoCo predicts from the closed form's states."""

    simulator, dynamics, task = "casadi", "mujoco", "quadrotor-waypoints"
    tolerance = 1e-12


class TestCasadiDynamicsCar(DynamicsConformance):
    simulator, dynamics, task = "casadi", "casadi", "car-parking"
    tolerance = 0.0


class TestPinocchioDynamicsPanda(DynamicsConformance):
    """The model is the plant's, from MuJoCo's own states."""

    simulator, dynamics, task = "mujoco", "pinocchio", "panda-reach"
    steps = 6  # random torques bring joints to their limits soon


def test_suites_are_made_of_tests():
    module = importlib.import_module("trimtab.sim.conformance")
    for suite in (module.SimulatorConformance, module.DynamicsConformance):
        assert sum(name.startswith("test_") for name in vars(suite)) >= 10


@pytest.mark.parametrize("planned", ["casadi", "mujoco"])
@pytest.mark.parametrize("plant", ["casadi", "mujoco"])
@pytest.mark.parametrize("periods", [4, 1])
def test_dynamics_of_a_longer_period_are_the_plant_under_held_controls(planned, plant, periods):
    task = robots.load("cartpole-swingup")
    coarse = task.with_period(periods * task.robot.dt)
    simulator, dynamics = sim.make(plant, task), sim.dynamics(planned, coarse)
    assert dynamics.dt == pytest.approx(periods * 0.01)
    start = simulator.reset(3)
    U = np.random.default_rng(0).uniform(-1, 1, (2, 6, 1))
    rollout = dynamics.rollout(start, U, np.random.default_rng(1))
    tolerance = 0.0 if planned == plant else 1e-12
    for controls, y in zip(U, rollout.y[0]):
        state, seen = simulator.reset(3), [start.y]
        for u in np.repeat(controls, periods, axis=0):
            state = simulator.step(u)
            seen.append(state.y)
        np.testing.assert_allclose(y, seen[::periods], rtol=0, atol=tolerance)
        after = dynamics.advance(start, controls)
        np.testing.assert_allclose(after.y, state.y, rtol=0, atol=tolerance)
        assert after.time == pytest.approx(state.time)
    assert np.abs(rollout.y[0, 0] - rollout.y[0, 1]).max() > 0.1
    simulator.close()
    dynamics.close()


@pytest.mark.parametrize("dynamics", ["casadi", "mujoco"])
def test_plans_of_a_longer_period_come_true(dynamics):
    """A plan that is followed to its end leads where it was predicted to, on a plant of four times as many steps."""
    task = robots.load("cartpole-swingup")
    coarse = task.with_period(0.04)
    simulator, model = sim.make("mujoco", task), sim.dynamics(dynamics, coarse)
    planner = CEM(horizon=8, samples=8, iterations=1, knots=4, replan=8)
    seen = []

    class Witness(MPC):
        def plan(self, state):
            seen.append(super().plan(state))
            return seen[-1]

    episode = run(simulator, Witness(planner, model, coarse), task=task, duration=0.64, seed=2)
    assert (episode.status, len(episode), len(seen)) == ("done", 64, 2)
    for n, plan in enumerate(seen):
        np.testing.assert_array_equal(episode.u[32 * n : 32 * (n + 1)], np.repeat(plan.controls, 4, axis=0))
        np.testing.assert_allclose(plan.prediction[0], episode.y[32 * n : 32 * (n + 1) + 1 : 4], rtol=0, atol=1e-11)
    simulator.close()
    model.close()


def test_what_is_behind_a_colon_belongs_to_dynamics_that_were_trained():
    task = robots.load("cartpole-swingup")
    with pytest.raises(ValueError, match="'mujoco' take nothing after a colon, not 'foo'"):
        sim.dynamics("mujoco:foo", task)
    with pytest.raises(ValueError, match="'mujoco' take nothing after a colon, not ''"):
        sim.dynamics("mujoco:", task)
    for name in ("ensemble", "ensemble:"):
        with pytest.raises(ValueError, match="take the folder of a trained run: ensemble:DIR"):
            sim.dynamics(name, task)
    with pytest.raises(UnknownName, match="did you mean 'mujoco'"):
        sim.dynamics("mujocoo", task)


@pytest.mark.parametrize("period", [0.015, 0.0, -0.01, float("nan"), float("inf"), 0.004])
def test_a_period_that_is_no_whole_number_of_steps(period):
    with pytest.raises(ValueError, match=r"is no whole number of cartpole-swingup's control steps of 0.01 s"):
        robots.load("cartpole-swingup").with_period(period)


def test_a_longer_period_leaves_all_else_as_it_is():
    task = robots.load("cartpole-swingup")
    assert task.with_period(0.01) is task
    coarse = task.with_period(0.07)
    assert coarse.robot.dt == pytest.approx(0.07)
    assert coarse.robot.layout.labels == task.robot.layout.labels
    np.testing.assert_array_equal(coarse.robot.control_limits, task.robot.control_limits)
    assert (coarse.name, coarse.duration, coarse.terms) == (task.name, task.duration, task.terms)
    assert task.robot.dt == 0.01
