"""The Panda: MuJoCo's arm is the URDF's as pinocchio reads it, and its tasks measure what they say."""

import importlib.metadata

import mujoco
import numpy as np
import pinocchio as pin
import pytest
from trimtab.robots import load, panda
from trimtab.sim.mujoco_simulator import MujocoSimulator
from trimtab.sim.pinocchio_dynamics import rigid


@pytest.fixture(scope="module")
def arm():
    """The URDF as pinocchio itself reads it, the fingers locked."""
    folder = importlib.metadata.distribution("example-robot-data").locate_file(panda._FOLDER)
    whole = pin.buildModelFromUrdf(f"{folder}/urdf/panda.urdf")
    fingers = [whole.getJointId(name) for name in whole.names if "finger" in name]
    return pin.buildReducedModel(whole, fingers, pin.neutral(whole))


def states(model, n):
    rng = np.random.default_rng(0)
    low, high = model.jnt_range.T
    for _ in range(n):
        yield rng.uniform(low + 0.1, high - 0.1), rng.uniform(-2.0, 2.0, 7), rng.uniform(-10.0, 10.0, 7)


@pytest.mark.parametrize("name", ["panda-reach", "panda-figure_eight"])
def test_mujocos_arm_is_pinocchios(arm, name):
    model = load(name).robot.model
    data, theirs = mujoco.MjData(model), arm.createData()
    tip = arm.getFrameId("panda_hand_tcp")
    for q, v, u in states(model, 10):
        data.qpos, data.qvel, data.ctrl = q, v, u
        mujoco.mj_forward(model, data)
        a = pin.aba(arm, theirs, q, v, u - arm.damping * v)
        np.testing.assert_allclose(data.qacc, a, rtol=1e-9, atol=1e-9)
        pin.framesForwardKinematics(arm, theirs, q)
        np.testing.assert_allclose(data.site("tip").xpos, theirs.oMf[tip].translation, rtol=0, atol=1e-12)
        np.testing.assert_allclose(data.site("tip").xmat.reshape(3, 3), theirs.oMf[tip].rotation, rtol=0, atol=1e-12)


def test_the_arm_is_to_be_seen():
    model = load("panda-figure_eight").robot.model
    shown = [model.body(model.geom_bodyid[i]).name for i in range(model.ngeom) if model.geom_dataid[i] >= 0]
    assert set(shown) == {"world", *(f"panda_link{i}" for i in range(1, 8))}  # the hand is the seventh's
    assert not model.geom_contype.any()
    assert sum(model.site(i).name.startswith("eight") for i in range(model.nsite)) == 64


def test_limits_are_the_urdfs(arm):
    robot = load("panda-reach").robot
    np.testing.assert_array_equal(robot.control_limits, [-arm.effortLimit, arm.effortLimit])
    np.testing.assert_array_equal(robot.model.jnt_range.T, [arm.lowerPositionLimit, arm.upperPositionLimit])


def test_torques_that_hold_the_arm():
    """The numbers that MuJoCo's inverse dynamics has for the arm at rest; no effort is left with them."""
    task = load("panda-reach")
    model, layout = task.robot.model, task.robot.layout
    data, effort = mujoco.MjData(model), next(term for term in task.terms if term.name == "effort")
    y = np.zeros((5, layout.size))
    for row, (q, _, _) in zip(y, states(model, 5)):
        row[layout["joints"]] = q
    torques = panda._Holding(model)(layout(y))
    for row, torque in zip(y, torques):
        data.qpos = row[layout["joints"]]
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(torque, data.qfrc_bias, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(effort.residual(layout(y), torques, 0.0), 0.0, atol=1e-12)
    assert effort.norm(effort.residual(layout(y), 0.0 * torques, 0.0)).min() > 1.0


def test_targets_can_be_reached():
    task = load("panda-reach")
    places = []
    for seed in range(5):
        start = task.start(seed)
        place, turn = start.parameters
        assert place[2] >= 0.15
        assert np.linalg.norm(turn) == pytest.approx(1.0, abs=1e-9)
        plant = MujocoSimulator(task)
        y = plant.reset(seed).y.copy()
        assert not task.success(y)
        axes = np.empty(9)
        mujoco.mju_quat2Mat(axes, turn)
        layout = task.robot.layout
        y[layout["tip"]], y[layout["tip_x"]], y[layout["tip_z"]] = place, axes[0::3], axes[2::3]
        assert task.reward(y, np.zeros(7)) == pytest.approx(1.0)
        assert task.success(y)
        y[layout["tip"]] += [0.02, 0.0, 0.0]
        assert not task.success(y)
        places.append(place)
    assert np.ptp(places, axis=0).min() > 0.05


def test_figure_eight_and_its_velocity():
    task = load("panda-figure_eight")
    layout, eps = task.robot.layout, 1e-6
    times = np.linspace(0.0, 1.5 * panda.PERIOD, 25)
    y = np.zeros((25, layout.size))
    y[:, layout["clock"]] = times[:, None]
    y[:, layout["tip"]] = np.stack(panda._eight(times), -1)
    ahead, behind = (np.stack(panda._eight(times + d), -1) for d in (eps, -eps))
    y[:, layout["tip_velocity"]] = (ahead - behind) / (2 * eps)
    _, axes = panda._centre()
    y[:, layout["tip_x"]], y[:, layout["tip_z"]] = axes[:, 0], axes[:, 2]
    u = np.zeros((25, 7))
    for term in task.terms[:3]:
        assert term.name in ("place", "speed", "axes")
        np.testing.assert_allclose(term.residual(layout(y), u, times), 0.0, atol=1e-8)
    np.testing.assert_allclose(task.reward(y, u), 1.0)
    assert task.success(y).all()
    assert np.ptp(y[:, layout["tip"]], axis=0) == pytest.approx([0.0, 2 * panda.WIDTH, 2 * panda.HEIGHT], abs=1e-2)
    y[:, layout["tip"]] += [0.0, 0.0, 0.006]
    assert (task.reward(y, u) < 1.0).all()
    assert not task.success(y).any()


def test_rigid_bodies_have_no_more_than_the_arm():
    motion = rigid(load("panda-reach"))
    assert (motion.nq, motion.nv, motion.nu, motion.integrator) == (7, 7, 7, "euler")


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
        ValueError, match=r"model of robot 'panda' does not load.*pip install 'trimtab\[robots\]'"
    ) as said:
        panda._reacher.__wrapped__().spec()
    assert "\n" not in str(said.value)
