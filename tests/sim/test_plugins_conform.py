"""Our own simulators and dynamics pass the suites that plugins' authors get."""

import importlib

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
