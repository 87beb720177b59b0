from dataclasses import replace

import mujoco
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.sim.compiled import Compiled, whole_ratio
from trimtab.sim.mujoco_dynamics import MujocoDynamics


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where a simulation diverges


@pytest.fixture
def task():
    return robots.load("cartpole-swingup")


@pytest.mark.parametrize(
    "name", ["humanoid-walk", "quadruped-run", "manipulator-bring_ball", "hopper-hop", "fish-swim"]
)
def test_a_state_is_all_that_goes_on(name):
    """Contacts, activations, mocap and drawn parameters; the copy has another past."""
    task = robots.load(name)
    low, high = task.robot.control_limits
    u = np.random.default_rng(0).uniform(low, high, (30, task.robot.nu))
    one, other = sim.make("mujoco", task), sim.make("mujoco", task)
    state = one.reset(1)
    for k in range(20):
        state = one.step(u[k])
    other.reset(2)
    for k in range(5):
        other.step(-u[k])
    again = other.reset(3, state)
    np.testing.assert_array_equal(again.x, state.x)
    np.testing.assert_array_equal(again.y, state.y)
    for k in range(20, 30):
        state, again = one.step(u[k]), other.step(u[k])
        np.testing.assert_array_equal(again.x, state.x)
        np.testing.assert_array_equal(again.y, state.y)


@pytest.mark.parametrize("bad", [1e11, -np.inf, np.nan])
def test_a_control_that_mujoco_drops_is_a_fault(task, bad):
    """MuJoCo would set all controls to zero, and go on."""
    model = task.robot.spec().compile()
    model.actuator_ctrllimited[:] = 0  # else the control is clamped first
    compiled = Compiled(task.robot, model)
    compiled.begin(task.start(0))
    compiled.step(np.ones(1))
    with pytest.raises(sim.SimulationError, match="control"):
        compiled.step(np.array([bad]))
    compiled.begin(task.start(0))
    compiled.step(np.ones(1))


def test_controls_are_clamped_by_the_actuators_limits(task):
    plant = sim.make("mujoco", task)
    plant.reset(0)
    one = plant.step(np.array([1e11]))
    plant.reset(0)
    np.testing.assert_array_equal(plant.step(np.ones(1)).y, one.y)


def test_divergence_is_found_in_its_step_and_forgotten_at_reset(task):
    plant = sim.make("mujoco", task)
    start = plant.reset(0)
    model = Compiled(task.robot)
    model.unpack(start.x)
    model.data.qvel[0] = 9e9  # finite, and too large one step later
    model.data.qpos[0] = 9.9999e9
    fast = replace(start, x=model.pack())
    for _ in range(2):
        plant.reset(0, fast)
        with pytest.raises(sim.SimulationError, match="diverged"):
            plant.step(np.zeros(1))
        with pytest.raises(sim.SimulationError, match="diverged"):
            plant.step(np.zeros(1))  # until a reset
        plant.reset(0, start)
        assert plant.step(np.zeros(1)).time == pytest.approx(task.robot.dt)
        plant.reset(0)
        plant.step(np.zeros(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e11])
def test_a_state_that_mujoco_resets_is_refused(task, bad):
    plant = sim.make("mujoco", task)
    start = plant.reset(0)
    start.x[1] = bad
    with pytest.raises(sim.SimulationError, match="position"):
        plant.reset(0, start)


def test_readings_are_those_of_the_state():
    """Recomputed by a full forward pass, which knows nothing of the steps before."""
    task = robots.load("walker-run")
    plant = sim.make("mujoco", task)
    plant.reset(0)
    for u in np.random.default_rng(0).uniform(-1, 1, (10, task.robot.nu)):
        state = plant.step(u)
    fresh = Compiled(task.robot)
    mujoco.mj_setState(fresh.model, fresh.data, state.x[: fresh.nintegration], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(fresh.model, fresh.data)
    np.testing.assert_allclose(fresh.readings(), state.y, rtol=0, atol=1e-12)


def test_state_of_another_robot_is_refused(task):
    with pytest.raises(ValueError, match="numbers"):
        sim.make("mujoco", task).reset(0, sim.make("mujoco", robots.load("reacher-easy")).reset(0))


def test_period_must_be_whole_steps(task):
    with pytest.raises(ValueError, match="whole number"):
        Compiled(replace(task.robot, dt=0.0125))
    assert whole_ratio(0.025, 0.0025, "walker") == 10
    with pytest.raises(ValueError, match="whole number"):
        whole_ratio(0.001, 0.01, "walker")


def test_the_dynamics_refuse_forces_that_they_would_leave_out():
    task = robots.load("cartpole-swingup")
    compiled, dynamics = Compiled(task.robot), MujocoDynamics(task, threads=1)
    compiled.begin(task.start(0))
    controls = np.zeros((2, 3, 1))
    assert dynamics.rollout(compiled.state(), controls).valid.all()
    compiled.data.xfrc_applied[1, 0] = 1.0
    with pytest.raises(ValueError, match="applied forces"):
        dynamics.rollout(compiled.state(), controls)
    dynamics.close()
