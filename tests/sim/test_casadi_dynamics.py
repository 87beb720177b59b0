"""Robots in closed form: against MuJoCo step by step, against finite differences, and what is said of those without."""

from dataclasses import replace

import casadi as ca
import mujoco
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.robots import Parameter, Reading, Robot, Start, Task, Term
from trimtab.robots.symbolic import Symbolic
from trimtab.sim import codegen, native
from trimtab.sim.casadi_dynamics import CasadiDynamics
from trimtab.sim.casadi_simulator import CasadiSimulator
from trimtab.sim.interface import SimulationError
from trimtab.sim.linearization import Differentiable

IN_MUJOCO = (
    "pendulum-swingup",
    "cartpole-swingup",
    "acrobot-swingup",
    "planar_quadrotor-hover",
    "quadrotor-waypoints",
)
ALL = (*IN_MUJOCO, "car-parking")


def some_controls(task, n, horizon, seed=0, share=1.0):
    low, high = share * task.robot.control_limits
    return np.random.default_rng(seed).uniform(low, high, (n, horizon, task.robot.nu))


@pytest.mark.parametrize("name", IN_MUJOCO)
def test_steps_are_mujocos(name):
    """Controls beyond the limits included, which MuJoCo clamps; away from the ends of the cart's rail."""
    task = robots.load(name)
    plant, dynamics = sim.make("mujoco", task), CasadiDynamics(task, threads=1)
    for seed in range(3):
        state, (controls,) = plant.reset(seed), some_controls(task, 1, 60, seed, share=1.3)
        for u in controls:
            predicted, state = dynamics.advance(state, u[None]), plant.step(u)
            np.testing.assert_allclose(predicted.y, state.y, rtol=1e-12, atol=1e-12)
            assert predicted.time == pytest.approx(state.time, abs=1e-12)
    dynamics.close()


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_rails_end_pushes_back_as_mujocos_does(side):
    """MuJoCo's solver is iterative, and told to go on to the end here; with its own tolerance it is 1e-6 off."""
    task = robots.load("cartpole-swingup")
    model = task.robot.spec().compile()
    model.opt.tolerance = 0.0
    data, dynamics = mujoco.MjData(model), CasadiDynamics(task, threads=1)
    data.qpos[:], data.qvel[:] = [1.6 * side, 1.0], [4.0 * side, 3.0]
    beyond = 0
    for _ in range(60):
        x = np.concatenate((data.qpos, data.qvel))
        state = dynamics.model.state(float(data.time), x)
        np.testing.assert_array_equal(dynamics.coordinates(state), x)
        data.ctrl[:] = 0.5 * side
        mujoco.mj_step(model, data)
        found = dynamics.coordinates(dynamics.advance(state, np.array([[0.5 * side]])))
        np.testing.assert_allclose(found, np.concatenate((data.qpos, data.qvel)), atol=1e-10)
        beyond += abs(data.qpos[0]) > 1.8
    assert beyond > 10
    dynamics.close()


@pytest.mark.parametrize("name", ALL)
def test_linear_model_is_the_rollouts_slope(name):
    task = robots.load(name)
    dynamics, plant = CasadiDynamics(task, threads=1), sim.make("casadi", task)
    assert isinstance(dynamics, Differentiable)
    state, (u,) = plant.reset(4), some_controls(task, 1, 6, share=0.5)
    s, n = dynamics.model.symbolic, dynamics.tangent
    none = np.zeros((6, s.nu, n))
    path = dynamics.policy_rollout(
        state, np.tile(dynamics.coordinates(state), (7, 1)), u, 0 * u, none, np.zeros(1), unlimited(s.nu)
    )
    x = path.x[0]
    model = dynamics.linearize(x, u)
    assert (model.A.shape, model.B.shape, model.C.shape) == (
        (6, n, n),
        (6, n, s.nu),
        (7, len(state.y), n),
    )
    h, retract = 1e-6, _retraction(dynamics)
    moving = [i for i in range(len(state.y)) if i not in dynamics.model.clocks]

    def end(k, a, b):
        begin = dynamics.model.state(0.0, a)
        after = dynamics.advance(begin, b[None])
        return begin.y, dynamics.coordinates(after)

    for k in (0, 5):
        for j in range(n):
            step = h * np.eye(n)[j]
            (y1, x1), (y0, x0) = (end(k, retract(x[k], sign * step), u[k]) for sign in (1, -1))
            np.testing.assert_allclose(model.A[k, :, j], dynamics.difference(x1, x0) / (2 * h), atol=2e-8)
            np.testing.assert_allclose(model.C[k, moving, j], ((y1 - y0) / (2 * h))[moving], atol=2e-8)
        for j in range(s.nu):
            step = h * np.eye(s.nu)[j]
            (_, x1), (_, x0) = (end(k, x[k], u[k] + sign * step) for sign in (1, -1))
            np.testing.assert_allclose(model.B[k, :, j], dynamics.difference(x1, x0) / (2 * h), atol=2e-8)
    dynamics.close()


def unlimited(nu):
    return np.array([[-np.inf] * nu, [np.inf] * nu])


def _retraction(dynamics):
    from trimtab.sim.integrators import retract

    s = dynamics.model.symbolic
    x, d = ca.SX.sym("x", s.nx), ca.SX.sym("d", s.tangent)
    f = ca.Function("f", [x, d], [retract(s, x, d)])
    return lambda a, b: np.ravel(f(a, b).full())


@pytest.mark.parametrize("name", ["cartpole-swingup", "quadrotor-waypoints", "car-parking"])
@pytest.mark.parametrize("native", [True, False])
def test_policies_are_followed(name, native, monkeypatch):
    """u_k = clip(u_k + a l_k + K_k (x_k - reference_k)), step by step by the plant."""
    if not native:
        monkeypatch.setattr(codegen, "machine", lambda: None)
    task = robots.load(name)
    dynamics, plant = CasadiDynamics(task, threads=1), sim.make("casadi", task)
    s, n, horizon = dynamics.model.symbolic, dynamics.tangent, 7
    rng = np.random.default_rng(0)
    start, (u, ahead) = plant.reset(1), some_controls(task, 2, horizon, share=0.5)
    gains = 0.3 * rng.standard_normal((horizon, s.nu, n))
    reference = np.stack([dynamics.coordinates(plant.reset(seed)) for seed in range(horizon + 1)])
    sizes, limits = np.array([1.0, 0.5, 0.0]), 0.4 * task.robot.control_limits
    found = dynamics.policy_rollout(start, reference, u, ahead, gains, sizes, limits)
    assert found.valid.all()
    for i, a in enumerate(sizes):
        state = plant.reset(0, start)
        np.testing.assert_array_equal(found.y[i, 0], state.y)
        for k in range(horizon):
            away = dynamics.difference(dynamics.coordinates(state), reference[k])
            control = np.clip(u[k] + a * ahead[k] + gains[k] @ away, *limits)
            np.testing.assert_allclose(found.u[i, k], control, atol=1e-11)
            state = plant.step(control)
            np.testing.assert_allclose(found.x[i, k + 1], dynamics.coordinates(state), atol=1e-10)
            np.testing.assert_allclose(found.y[i, k + 1], state.y, atol=1e-10)
    dynamics.close()


def test_policies_that_do_not_fit_are_refused():
    task = robots.load("cartpole-swingup")
    dynamics, state = CasadiDynamics(task, threads=1), sim.make("casadi", task).reset(0)
    good = {
        "x": np.zeros((4, 4)),
        "u": np.zeros((3, 1)),
        "feedforward": np.zeros((3, 1)),
        "feedback": np.zeros((3, 1, 4)),
        "steps": np.ones(2),
        "limits": np.array([[-1.0], [1.0]]),
    }
    assert dynamics.policy_rollout(state, **good).y.shape == (2, 4, 4)
    for name, array in good.items():
        bad = good | {name: array[1:]} if name != "steps" else good | {"steps": np.ones((2, 1))}
        with pytest.raises(ValueError, match="has shape"):
            dynamics.policy_rollout(state, **bad)
    with pytest.raises(ValueError, match="4 states and 4 controls: there must be one state more"):
        dynamics.linearize(np.zeros((4, 4)), np.zeros((4, 1)))


@pytest.mark.parametrize("name", ["cartpole-swingup", "quadrotor-waypoints"])
def test_neither_threads_nor_compiler_change_rollouts(name, monkeypatch):
    task = robots.load(name)
    state, controls = sim.make("casadi", task).reset(0), some_controls(task, 83, 50)
    alone, many = CasadiDynamics(task, threads=1), CasadiDynamics(task, threads=3)
    expected = alone.rollout(state, controls).y.copy()
    found = many.rollout(state, controls)
    assert len(found._buffers.calls) == 3
    np.testing.assert_array_equal(found.y, expected)
    monkeypatch.setattr(codegen, "machine", lambda: None)
    interpreted = CasadiDynamics(task)
    assert not interpreted.model.moves.native
    np.testing.assert_allclose(interpreted.rollout(state, controls).y, expected, rtol=1e-9, atol=1e-9)
    for dynamics in (alone, many, interpreted):
        dynamics.close()


def test_a_rollout_again_from_elsewhere():
    """Memory is kept; time and constants must not be."""
    task = robots.load("quadrotor-waypoints")
    dynamics, plant, controls = CasadiDynamics(task), sim.make("casadi", task), some_controls(task, 4, 9)
    first = plant.reset(0)
    dynamics.rollout(first, controls)
    later = replace(first, time=3.0, y=np.append(first.y[:-1], 3.0))
    clock = dynamics.rollout(later, controls).y[0, :, :, -1]
    np.testing.assert_allclose(clock, np.tile(3.0 + 0.02 * np.arange(10), (4, 1)), atol=1e-12)
    other = controls[::-1].copy()
    again = dynamics.rollout(first, other).y
    np.testing.assert_array_equal(again, CasadiDynamics(task).rollout(first, other).y)
    dynamics.close()


def test_divergence_is_told():
    task = robots.load("planar_quadrotor-hover")
    plant, dynamics = sim.make("casadi", task), CasadiDynamics(task)
    state, controls = plant.reset(0), some_controls(task, 3, 5)
    controls[1, 2] = np.nan
    np.testing.assert_array_equal(dynamics.rollout(state, controls).valid, [[True, False, True]])
    wild = dynamics.place(state, np.full(6, 1e9))
    assert not dynamics.rollout(wild, np.zeros((1, 2000, 2))).valid.any()
    plant.reset(0, wild)
    with pytest.raises(SimulationError, match="diverged"):
        [plant.step(np.zeros(2)) for _ in range(2000)]
    with pytest.raises(SimulationError, match="diverged"):
        dynamics.advance(wild, np.zeros((2000, 2)))
    with pytest.raises(SimulationError, match="not finite"):
        plant.reset(0, dynamics.place(state, np.full(6, np.nan)))
    dynamics.close()


# Robots made up for what the shipped ones have not -------------------------------------------------------------------

CART = """
<mujoco><option timestep="0.01"/><worldbody>
  <site name="goal" pos="1 1 1"/>
  <body name="cart"><joint name="slide" type="slide" axis="1 0 0" damping="0.3"/><geom size=".1" mass="2"/></body>
</worldbody><actuator><motor joint="slide" ctrlrange="-1 1" gear="3"/></actuator></mujoco>"""
FRAME = Reading.sensed("frame", 3, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_BODY, "cart")
READINGS = (Reading.qpos("place", 0), Reading.qvel("speed", 0), FRAME)


def cart(sense=None, **given):
    def derivative(x, u, h):
        return ca.vertcat(x[1], (3.0 * u - 0.3 * x[1]) / (2.0 + 0.3 * h))

    return Symbolic(**({"nq": 1, "nv": 1, "nu": 1, "derivative": derivative, "timestep": 0.01, "sense": sense} | given))


def cart_task(sense=None, readings=READINGS, **given):
    robot = Robot(
        name="cart",
        build=lambda: mujoco.MjSpec.from_string(CART),
        readings=(*readings, Reading.parameter("goal", "site_pos", "goal", 0, 2)),
        dt=0.02,
        parameters=(Parameter("site_pos", "goal"),),
        symbolic=lambda: cart(sense, **given),
    )

    def start(seed):
        return Start(np.array([0.1]), np.array([0.2]), (np.random.default_rng(seed).uniform(size=3),))

    return Task("cart-go", robot, lambda y, u: 0.0 * y.place, (Term("place", lambda y, u, t: y.place),), start, 1.0)


def frame(reading, x):
    return ca.vertcat(x[0], 0.0, 0.0) if reading.name == "frame" else None


@pytest.mark.parametrize(
    "readings",
    [
        READINGS,
        (FRAME, Reading.qpos("place", 0), Reading.qpos("again", 0)),  # the speed is no reading, the place two
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_readings_of_every_kind(readings, native, monkeypatch):
    if not native:
        monkeypatch.setattr(codegen, "machine", lambda: None)
    task = cart_task(frame, readings)
    plant, ours, dynamics = sim.make("mujoco", task), CasadiSimulator(task), CasadiDynamics(task, threads=1)
    (u,) = some_controls(task, 1, 20)
    state, mine = plant.reset(7), ours.reset(7)
    theirs = sim.dynamics("mujoco", task).rollout(state, u[None], np.random.default_rng(0)).y
    np.testing.assert_allclose(dynamics.rollout(state, u[None]).y, theirs, atol=1e-13)
    np.testing.assert_array_equal(dynamics.rollout(mine, u[None]).y, dynamics.rollout(state, u[None]).y)
    s = dynamics.model.symbolic
    path = dynamics.policy_rollout(
        state, np.zeros((21, 2)), u, 0 * u, np.zeros((20, 1, s.tangent)), np.zeros(1), task.robot.control_limits
    )
    np.testing.assert_allclose(path.y, theirs[0], atol=1e-13)
    for v in u:
        state, mine = plant.step(v), ours.step(v)
        np.testing.assert_allclose(mine.y, state.y, atol=1e-13)
    assert mine.x.shape == state.x.shape
    assert not np.array_equal(dynamics.model.packed(mine)[2:], np.ones(3))
    np.testing.assert_array_equal(dynamics.model.packed(mine)[2:], dynamics.model.packed(state)[2:])
    middle = dynamics.advance(plant.reset(7), u[:10])
    np.testing.assert_allclose(dynamics.rollout(middle, u[None, 10:]).y[0, 0], theirs[0, 0, 10:], atol=1e-13)
    scene = ours.scene()
    scene.restore(mine.x)
    np.testing.assert_allclose(scene.data.body("cart").xpos, [mine.y[task.robot.layout["place"]][0], 0.0, 0.0])
    np.testing.assert_allclose(scene.data.site("goal").xpos, dynamics.model.packed(mine)[2:])
    observed = dynamics.linearize(path.x[0], u).C
    by_place = {"place": 1.0, "again": 1.0}
    for name in task.robot.layout:
        rows = observed[3, task.robot.layout[name], 0]
        expected = [1.0, 0.0, 0.0] if name == "frame" else by_place.get(name, 0.0)
        np.testing.assert_array_equal(rows, np.broadcast_to(expected, rows.shape))
    dynamics.close()


def test_readings_that_are_not_given_are_listed():
    with pytest.raises(ValueError, match="cart in closed form does not give these readings: frame; use the mujoco"):
        CasadiDynamics(cart_task())


def test_a_closed_form_of_another_robot_is_refused():
    with pytest.raises(
        ValueError, match="has 2 positions, 2 velocities and 1 controls, but its MuJoCo model 1, 1 and 1"
    ):
        CasadiDynamics(cart_task(frame, nq=2, nv=2))


@pytest.mark.parametrize("make", [CasadiDynamics, CasadiSimulator])
def test_a_robot_without_closed_form_names_those_with_one(make):
    with pytest.raises(ValueError, match="robot 'walker' has no closed form; these have one: ") as told:
        make(robots.load("walker-walk"))
    for name in ALL:
        assert name.partition("-")[0] in str(told.value)
    assert "\n" not in str(told.value)


def test_states_of_another_robot_are_refused():
    dynamics = CasadiDynamics(robots.load("pendulum-swingup"))
    for name, plant in (("cartpole-swingup", "casadi"), ("cartpole-swingup", "mujoco")):
        state = sim.make(plant, robots.load(name)).reset(0)
        with pytest.raises(ValueError, match="a state of pendulum in closed form has"):
            dynamics.rollout(state, np.zeros((1, 2, 1)))
    dynamics.close()


def test_derivatives_of_wrong_shapes_are_refused():
    dynamics = CasadiDynamics(robots.load("cartpole-swingup"))
    for x, u in (
        (np.zeros((4, 3)), np.zeros((3, 1))),
        (np.zeros((4, 4)), np.zeros((3, 2))),
        (np.zeros(4), np.zeros(3)),
    ):
        with pytest.raises(ValueError, match="has shape"):
            dynamics.linearize(x, u)
    with pytest.raises(ValueError, match=r"input 2 has shape \(2, 4\), not \(3, 4\)"):
        dynamics.curvature(np.zeros((3, 4)), np.zeros((3, 1)), np.zeros((2, 4)))


@pytest.mark.parametrize("name", ["cartpole-swingup", "quadrotor-waypoints", "car-parking"])
def test_neither_lanes_nor_compiler_change_derivatives(name, monkeypatch):
    task = robots.load(name)
    dynamics, plant = CasadiDynamics(task), sim.make("casadi", task)
    x = np.stack([dynamics.coordinates(plant.reset(seed)) for seed in range(12)])
    (u,) = some_controls(task, 1, 11)
    p = np.random.default_rng(0).standard_normal((11, dynamics.tangent))
    found = dynamics.linearize(x, u)
    a, b = (m.full() for m in dynamics.step.linear(x[3], u[3]))
    np.testing.assert_allclose(found.A[3], a, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.B[3], b, rtol=1e-12, atol=1e-14)
    second = dynamics.curvature(x[:-1], u, p)
    np.testing.assert_allclose(second[5], dynamics.step.curved(x[5], u[5], p[5]).full(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(second, second.transpose(0, 2, 1), rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(codegen, "machine", lambda: None)
    again = CasadiDynamics(task).linearize(x[::-1][::-1], np.asfortranarray(u))
    for one, other in ((found.A, again.A), (found.B, again.B), (found.C, again.C)):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def everything(task):
    """All numbers that the compiled functions of the task's dynamics give from one state."""
    dynamics, (u,) = CasadiDynamics(task, threads=1), some_controls(task, 1, 3)
    state, n = CasadiSimulator(task).reset(0), dynamics.tangent
    found = dynamics.rollout(state, u[None])
    x = np.repeat(dynamics.coordinates(state)[None], 4, 0)
    linear, gains = dynamics.linearize(x, u), np.ones((3, u.shape[1], n))
    path = dynamics.policy_rollout(state, x, u, u, gains, np.ones(1), unlimited(u.shape[1]))
    second = dynamics.curvature(x[:-1], u, np.ones((3, n)))
    return [found.y.copy(), linear.A, linear.B, linear.C, path.x, path.y, second]


def test_what_is_kept_on_disk_needs_no_expressions(tmp_path, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path))
    asked = []

    def sense(reading, x):
        asked.append(reading.name)
        return frame(reading, x)

    first = everything(cart_task(sense, key="one"))
    assert asked
    asked.clear()
    for one, other in zip(first, everything(cart_task(sense, key="one"))):
        np.testing.assert_array_equal(one, other)
    assert not asked
    everything(cart_task(sense, key="another"))
    assert asked
    asked.clear()
    everything(cart_task(sense, (FRAME, READINGS[1], READINGS[0]), key="one"))  # other readings
    assert asked
    asked.clear()
    everything(cart_task(sense))  # nothing to know it by
    assert asked
    asked.clear()
    for entry in tmp_path.iterdir():
        entry.write_bytes(entry.read_bytes()[:-1])
    native._loaded.clear()
    for one, other in zip(first, everything(cart_task(sense, key="one"))):
        np.testing.assert_array_equal(one, other)
    assert asked


@pytest.mark.parametrize("name", ["cartpole-swingup", "quadrotor-waypoints"])
def test_states_are_mujocos(name):
    task = robots.load(name)
    theirs, ours = sim.make("mujoco", task).reset(3), CasadiSimulator(task).reset(3)
    moving = slice(1, 1 + task.robot.model.nq + task.robot.model.nv)
    np.testing.assert_array_equal(ours.x[moving], theirs.x[moving])
    rest = np.ones(len(ours.x), bool)
    rest[moving] = False
    rest[1 + task.robot.model.nq + task.robot.model.nv :][: task.robot.model.nv] = False  # a guess, the solver's
    np.testing.assert_array_equal(ours.x[rest], theirs.x[rest])
