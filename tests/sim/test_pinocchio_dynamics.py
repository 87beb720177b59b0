"""Robots as rigid bodies: MuJoCo's accelerations, steps, sensors and derivatives, from the same model."""

import functools

import casadi as ca
import mujoco
import numpy as np
import pytest
from trimtab.robots import load
from trimtab.robots.layout import Reading
from trimtab.robots.task import Robot, Start, Task
from trimtab.sim.closed_form import ClosedForm
from trimtab.sim.integrators import retract
from trimtab.sim.mujoco_simulator import MujocoSimulator
from trimtab.sim.pinocchio_dynamics import PinocchioDynamics, PinocchioSimulator, rigid

Sensor, Obj = mujoco.mjtSensor, mujoco.mjtObj

# Every kind of joint, off-axis, off-centre and with positions of rest that are not 0; several to a body.
ALL_JOINTS = """
<mujoco>
  <option timestep="0.002" gravity="0.3 -1 -9" tolerance="0" iterations="100"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <body name="base" pos="0.1 0.2 1" quat="0.9 0.1 0.3 0.2">
      <freejoint name="free"/>
      <geom type="box" size="0.3 0.2 0.1" pos="0.1 0 0.05" euler="10 20 30"/>
      <body name="arm" pos="0.3 0 0.1" euler="40 0 10">
        <joint name="ball" type="ball" pos="0.02 0.03 -0.01" damping="0.2" armature="0.02"/>
        <geom type="capsule" size="0.05" fromto="0 0 0 0.1 0.2 0.4"/>
        <body name="fixed" pos="0.1 0.2 0.4" euler="0 30 0">
          <geom type="sphere" size="0.08" pos="0.05 0 0"/>
          <site name="tip" pos="0.1 -0.05 0.02" euler="15 25 35"/>
        </body>
      </body>
      <body name="leg" pos="-0.3 0.1 0" euler="0 20 0">
        <joint name="hinge" axis="1 2 -1" pos="0.05 0 0.1" ref="25" damping="0.3" armature="0.05" stiffness="3"
               springref="10"/>
        <joint name="slide" type="slide" axis="0 0.6 0.8" ref="0.1" damping="2" stiffness="20"/>
        <geom name="shin" type="capsule" size="0.04" fromto="0 0 0 0 0.1 -0.4"/>
        <body name="foot" pos="0 0.1 -0.4">
          <joint name="yaw" axis="0 0 -1" range="-20 60" damping="0.1"/>
          <joint name="roll" axis="1 0 0" pos="0 0 0.02" range="-10 5"/>
          <geom type="box" size="0.1 0.05 0.02" pos="0.04 0 0"/>
        </body>
      </body>
    </body>
    <site name="here"/>
    <body name="pendulum" pos="1 0 1" euler="0 90 0">
      <joint name="swing" axis="0 1 0" ref="-30"/>
      <geom type="cylinder" size="0.05 0.2" pos="0 0.02 -0.3"/>
    </body>
  </worldbody>
  <tendon><fixed name="cable"><joint joint="hinge" coef="0.7"/><joint joint="slide" coef="-1.2"/></fixed></tendon>
  <actuator>
    <position tendon="cable" gear="1.5" kp="8" kv="0.3" ctrlrange="-1 1"/>
    <motor joint="hinge" gear="2.5" ctrlrange="-1 1"/>
    <position joint="yaw" kp="12" kv="0.4" forcerange="-1 1"/>
    <motor joint="slide" gear="7"/>
    <velocity joint="swing" kv="3" ctrlrange="-2 2"/>
    <general site="tip" gear="0.3 -0.2 1 0.1 0 0.05" gainprm="2" biastype="affine" biasprm="0.5 0 -0.1"/>
  </actuator>
</mujoco>"""

FIXED_BASE = """
<mujoco>
  <option timestep="0.005" integrator="RK4"/>
  <worldbody>
    <body name="upper" pos="0 0 1">
      <joint name="shoulder" axis="0 1 0" damping="0.05"/>
      <geom type="capsule" size="0.04" fromto="0 0 0 0 0 -0.5" contype="0" conaffinity="0"/>
      <body name="lower" pos="0 0 -0.5">
        <joint name="elbow" axis="0.1 1 0"/>
        <geom type="capsule" size="0.04" fromto="0 0 0 0.1 0 -0.5" contype="0" conaffinity="0"/>
        <site name="tip" pos="0.1 0 -0.5"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder"/><motor joint="elbow" gear="0.5"/></actuator>
</mujoco>"""

# Soft limits of all kinds, on joints that meet them one by one and together. MuJoCo's solver is to go on to the end.
LIMITED = """
<mujoco>
  <option timestep="0.004" tolerance="0" iterations="100"><flag contact="disable"/></option>
  <worldbody>
    <body pos="0 0 1">
      <joint name="shoulder" axis="0 1 0" range="-50 40" damping="0.3"/>
      <geom type="capsule" size="0.04" fromto="0 0 0 0 0 -0.5"/>
      <body pos="0 0 -0.5">
        <joint name="slide" type="slide" axis="0 0.6 -0.8" range="-0.1 0.05" solreflimit="-3000 -20" damping="1"/>
        <geom type="capsule" size="0.04" fromto="0 0 0 0.1 0 -0.5"/>
        <body pos="0.1 0 -0.5">
          <joint name="elbow" axis="0.1 1 0" range="-30 30" margin="0.1" solimplimit="0.3 0.98 0.2 0.3 3"
                 damping="0.1"/>
          <joint name="wrist" axis="1 0 0" range="-20 90" solreflimit="0.03 0.7" solimplimit="0.8 0.9 0.1 0.5 1"/>
          <geom type="box" size="0.1 0.05 0.02" pos="0.04 0 -0.1"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder" gear="9"/><motor joint="elbow" gear="4"/><motor joint="wrist"/></actuator>
</mujoco>"""
STEPPED = {
    "damping at the end": LIMITED,
    "RK4": LIMITED.replace('tolerance="0"', 'tolerance="0" integrator="RK4"'),
    "no damping": LIMITED.replace("damping", "armature"),
}


def sensed(name, size, sensor, kind, target):
    return Reading.sensed(name, size, getattr(Sensor, f"mjSENS_{sensor}"), getattr(Obj, f"mjOBJ_{kind}"), target)


FRAMES = (
    sensed("place", 3, "FRAMEPOS", "SITE", "tip"),
    *(sensed(f"{axis}_axis", 3, f"FRAME{axis}AXIS", "SITE", "tip") for axis in "XYZ"),
    sensed("speed", 3, "FRAMELINVEL", "SITE", "tip"),
    sensed("spin", 3, "FRAMEANGVEL", "SITE", "tip"),
)
TURNED = (("SITE", "tip"), ("XBODY", "leg"), ("BODY", "fixed"), ("GEOM", "shin"))
MORE = (
    sensed("body", 3, "FRAMEPOS", "XBODY", "leg"),
    sensed("centre", 3, "FRAMEPOS", "BODY", "leg"),
    sensed("centre_speed", 3, "FRAMELINVEL", "BODY", "leg"),
    sensed("principal", 3, "FRAMEXAXIS", "BODY", "fixed"),
    sensed("geom", 3, "FRAMEPOS", "GEOM", "shin"),
    sensed("velocimeter", 3, "VELOCIMETER", "SITE", "tip"),
    sensed("gyro", 3, "GYRO", "SITE", "tip"),
    *(sensed(f"turn_of_{kind}", 4, "FRAMEQUAT", kind, name) for kind, name in TURNED),
    sensed("angle", 1, "JOINTPOS", "JOINT", "yaw"),
    sensed("rate", 1, "JOINTVEL", "JOINT", "slide"),
)


def task_of(xml, *readings, dt=0.01, parameters=()):
    model = mujoco.MjModel.from_xml_string(xml)
    robot = Robot(
        name="bodies",
        build=functools.partial(mujoco.MjSpec.from_string, xml),
        readings=(Reading.qpos("q", *range(model.nq)), Reading.qvel("v", *range(model.nv)), *readings),
        dt=dt,
        parameters=parameters,
    )

    def start(seed):
        q, v = random_state(robot.model, np.random.default_rng(seed))
        return Start(q, v)

    return Task("bodies-move", robot, lambda y, u: 0.0 * y.q[..., 0], (), start, duration=1.0)


def random_state(model, rng):
    v = rng.standard_normal(model.nv)
    q = model.qpos0.copy()
    mujoco.mj_integratePos(model, q, 1.5 * rng.standard_normal(model.nv), 1.0)
    for j in np.flatnonzero(model.jnt_limited):
        low, high = model.jnt_range[j]
        q[model.jnt_qposadr[j]] = rng.uniform(low - 0.05, high + 0.05)
    return q, v


@functools.cache
def moving():
    return task_of(ALL_JOINTS, *FRAMES, *MORE, dt=0.002)


@functools.cache
def swinging():
    return task_of(FIXED_BASE, *FRAMES)


@functools.cache
def stopped():
    return task_of(LIMITED, dt=0.004)


@functools.cache
def closed_form(which):
    task = {"moving": moving, "swinging": swinging, "stopped": stopped}[which]()
    return ClosedForm(task, rigid(task))


def test_accelerations_are_mujocos():
    task, motion = moving(), closed_form("moving").symbolic
    model, data = task.robot.model, mujoco.MjData(task.robot.model)
    x, u = ca.SX.sym("x", motion.nx), ca.SX.sym("u", motion.nu)
    rate = ca.Function("rate", [x, u], [motion.derivative(x, u, 0.0)])
    rng = np.random.default_rng(0)
    for _ in range(20):
        q, v = random_state(model, rng)
        data.qpos, data.qvel = q, v
        data.ctrl = rng.uniform(-1.0, 1.0, model.nu)
        mujoco.mj_forward(model, data)
        found = np.ravel(rate(np.concatenate((q, v)), data.ctrl).full())
        np.testing.assert_array_equal(found[: model.nv], v)
        np.testing.assert_allclose(found[model.nv :], data.qacc, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["moving", "swinging"])
def test_steps_and_readings_are_mujocos(which):
    model = closed_form(which)
    low, high = np.clip(model.robot.control_limits, -3.0, 3.0)
    plant = MujocoSimulator(model.task)
    state, nx = plant.reset(3), model.symbolic.nx
    x = model.unpack(state)
    for u in np.random.default_rng(1).uniform(low, high, (20, model.robot.nu)):
        state = plant.step(u)
        x = np.ravel(model.step.function(x, u).full())
        np.testing.assert_allclose(x, model.unpack(state), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.ravel(model.readings(x).full()), state.y, rtol=1e-9, atol=1e-9)
    assert x.shape == (nx,)


@pytest.mark.parametrize("which", ["moving", "swinging", "stopped"])
def test_slopes_are_the_derivatives_own(which):
    """Also where limits push."""
    model, rng = closed_form(which), np.random.default_rng(2)
    motion = model.symbolic
    x, u, d = ca.SX.sym("x", motion.nx), ca.SX.sym("u", motion.nu), ca.SX.sym("d", motion.tangent)
    for h in (0.0, 0.01):
        moved = motion.derivative(retract(motion, x, d), u, h)
        expected = ca.jacobian(moved, ca.vertcat(d, u))
        compare = ca.Function("compare", [x, u, d], [ca.horzcat(*motion.slopes(x, u, h)), expected])
        for _ in range(10):
            q, v = random_state(model.robot.model, rng)
            point = np.concatenate((q, v)), rng.standard_normal(motion.nu), np.zeros(motion.tangent)
            ours, theirs = (m.full() for m in compare(*point))
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


def test_quaternions_have_mujocos_sign():
    """However often joints have turned: it changes with each whole turn of a hinge, and with a quaternion's own."""
    task, sense = moving(), closed_form("moving").readings
    model, data = task.robot.model, mujoco.MjData(task.robot.model)
    rng, signs = np.random.default_rng(4), []
    for _ in range(40):
        q, v = random_state(model, rng)
        q[model.joint("swing").qposadr[0] - 4 : model.joint("swing").qposadr[0]] += rng.uniform(-20.0, 20.0, 4)
        q[[3, 4, 5, 6]] *= rng.choice([-1.0, 1.0])
        data.qpos = q
        mujoco.mj_forward(model, data)
        y = task.robot.layout(np.ravel(sense(np.concatenate((q, v))).full()))
        expected = np.empty(4)
        mujoco.mju_mulQuat(expected, data.body("leg").xquat, model.geom("shin").quat)
        np.testing.assert_allclose(y.turn_of_GEOM, expected, atol=1e-12)
        np.testing.assert_allclose(y.turn_of_XBODY, data.body("leg").xquat, atol=1e-12)
        signs.append(np.sign(y.turn_of_XBODY[0]))
    assert {-1.0, 1.0} == set(signs)


@pytest.mark.parametrize("which", STEPPED)
def test_limits_push_back_as_mujocos_do(which):
    task = task_of(STEPPED[which], dt=0.004)
    motion = ClosedForm(task, rigid(task))
    model, data = task.robot.model, mujoco.MjData(task.robot.model)
    rng, met = np.random.default_rng(5), []
    for k in range(900):
        if k % 45 == 0:
            mujoco.mj_resetData(model, data)
            data.qvel[:] = rng.uniform(-3.0, 3.0, model.nv)
            u = rng.choice([-1.0, 1.0], model.nu)
        data.ctrl = u
        found = motion.step.function(np.concatenate((data.qpos, data.qvel)), u)
        mujoco.mj_step(model, data)
        met.append(np.count_nonzero(data.efc_force[: data.nefc]))
        np.testing.assert_allclose(np.ravel(found.full()), np.concatenate((data.qpos, data.qvel)), rtol=0, atol=1e-9)
    assert all(met.count(n) > 50 for n in (0, 1, 2))


def test_a_pandas_limits_push_back_as_mujocos_do():
    """Its damping is felt with the inertia, which changes that by 0.5 % at most."""
    task = load("panda-reach")
    motion = ClosedForm(task, rigid(task))
    model, start = task.robot.model, task.start(0).qpos
    for joint in range(model.nv):
        data = mujoco.MjData(model)
        data.qpos = start
        data.qpos[joint], data.qvel[joint] = model.jnt_range[joint, 1] - 0.01, 1.5
        found, beyond = np.concatenate((data.qpos, data.qvel)), False
        for _ in range(15):
            found = np.ravel(motion.step.function(found, np.zeros(model.nu)).full())
            mujoco.mj_step(model, data)
            beyond |= data.qpos[joint] > model.jnt_range[joint, 1]
        assert beyond
        np.testing.assert_allclose(found[: model.nq], data.qpos, rtol=0, atol=1e-3)


def test_the_plugins_agree_with_mujoco():
    task = swinging()
    model, plant = PinocchioDynamics(task, threads=1), PinocchioSimulator(task)
    mujocos = MujocoSimulator(task)
    controls = np.random.default_rng(1).uniform(-1.0, 1.0, (3, 8, 2))
    states = [mujocos.reset(3)]
    states += [mujocos.step(u) for u in controls[0]]
    y = model.rollout(states[0], controls, np.random.default_rng(0)).y[0]
    np.testing.assert_allclose(y[0], [s.y for s in states], rtol=1e-9, atol=1e-9)
    ours = plant.reset(3)
    for u, expected in zip(controls[0], states[1:]):
        ours = plant.step(u)
        np.testing.assert_allclose(ours.y, expected.y, rtol=1e-9, atol=1e-9)
    model.close()
    plant.close()


def test_a_robot_with_contacts_is_refused():
    with pytest.raises(
        ValueError, match=r"pinocchio model of walker would leave out: contacts \(of floor with .*mujoco"
    ):
        PinocchioDynamics(load("walker-walk"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('damping="0.1"/>', 'damping="0.1" frictionloss="1"/>', r"dry friction of joints \(yaw\)"),
        ('name="ball" type="ball"', 'name="ball" type="ball" range="0 80"', r"limits of ball joints \(ball\)"),
        ('<option timestep="0.002"', '<option timestep="0.002" density="1.2"', "drag of the medium"),
        (
            '<motor joint="slide" gear="7"/>',
            '<general joint="slide" name="slow" dyntype="filter"/>',
            r"actuator slow \(has dynamics of its own\)",
        ),
        ('<geom name="shin"', '<geom name="shin" contype="1" conaffinity="1"', None),
        (
            "</worldbody>",
            '</worldbody><equality><connect body1="leg" body2="arm" anchor="0 0 0"/></equality>',
            r"equality constraints \(of leg with arm\)",
        ),
        (
            "</worldbody>",
            '</worldbody><tendon><spatial name="rope"><site site="tip"/><site site="here"/></spatial></tendon>'
            '<actuator><motor name="winch" tendon="rope"/></actuator>',
            r"actuator winch \(pulls tendon rope, which runs through space\)",
        ),
        (
            "</worldbody>",
            '</worldbody><tendon><fixed name="cord" range="0 1"><joint joint="yaw" coef="1"/></fixed></tendon>',
            r"tendons \(cord\)",
        ),
    ],
)
def test_what_would_be_left_out_is_said(old, new, said):
    assert old in ALL_JOINTS
    task = task_of(ALL_JOINTS.replace(old, new))
    if said is None:  # a single geom that may collide has nothing to collide with
        rigid(task)
        return
    with pytest.raises(ValueError, match=rf"would leave out: {said}.*use the mujoco dynamics"):
        rigid(task)


SLED = """
<robot name="sled"><link name="world"/>
  <link name="sled"><inertial><mass value="2"/>
    <inertia ixx="1" iyy="2" izz="3" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <link name="arm"><inertial><origin xyz="0.1 0 0.3"/><mass value="1"/>
    <inertia ixx="0.1" iyy="0.2" izz="0.2" ixy="0.01" ixz="0" iyz="0"/></inertial></link>
  <joint name="slip" type="JOINT"><parent link="world"/><child link="sled"/></joint>
  <joint name="lift" type="continuous"><parent link="sled"/><child link="arm"/><axis xyz="0 1 0"/></joint>
  <joint name="tilt" type="revolute"><parent link="arm"/><child link="hand"/><axis xyz="1 0 0"/>
    <limit lower="-1" upper="1" effort="1" velocity="1"/>MIMIC</joint>
  <link name="hand"><inertial><mass value="1"/>
    <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
</robot>"""


def test_a_urdfs_planar_joint_is_two_slides_and_a_hinge():
    task = task_of(SLED.replace("JOINT", "planar").replace("MIMIC", ""), dt=0.002)
    motion, model = ClosedForm(task, rigid(task)), task.robot.model
    data = mujoco.MjData(model)
    data.qvel = np.random.default_rng(0).standard_normal(model.nv)
    x = np.concatenate((data.qpos, data.qvel))
    for _ in range(20):
        mujoco.mj_step(model, data)
        x = np.ravel(motion.step.function(x, np.zeros(0)).full())
    assert model.nq == 5
    np.testing.assert_allclose(x, np.concatenate((data.qpos, data.qvel)), rtol=0, atol=1e-10)


def test_a_urdfs_joints_that_are_not_modelled_are_named():
    mimic = SLED.replace("JOINT", "planar").replace("MIMIC", '<mimic joint="lift" multiplier="2"/>')
    with pytest.raises(ValueError, match=r"leave out: equality constraints \(of tilt with lift\)\. .*use the mujoco"):
        rigid(task_of(mimic))
    with pytest.raises(ValueError, match="invalid joint type"):  # MuJoCo's reader says it
        task_of(SLED.replace("JOINT", "helical").replace("MIMIC", ""))


def test_readings_that_are_not_given_are_listed():
    task = task_of(
        FIXED_BASE,
        sensed("push", 3, "FORCE", "SITE", "tip"),
        sensed("place", 3, "FRAMEPOS", "SITE", "tip"),
        sensed("momentum", 3, "SUBTREEANGMOM", "BODY", "upper"),
    )
    with pytest.raises(ValueError, match=r"does not give these readings: push, momentum; use the mujoco"):
        PinocchioDynamics(task)


@pytest.mark.parametrize(
    "name",
    ["pendulum-swingup", "cartpole-swingup", "acrobot-swingup", "planar_quadrotor-hover", "quadrotor-waypoints"],
)
def test_equations_by_hand_say_the_same(name):
    task = load(name)
    by_hand, motion = task.robot.symbolic(), rigid(task)
    x, u = ca.SX.sym("x", motion.nx), ca.SX.sym("u", motion.nu)
    both = ca.Function("both", [x, u], [s.derivative(x, u, h) for s in (by_hand, motion) for h in (0.0, 0.01)])
    rng = np.random.default_rng(0)
    for _ in range(5):
        q, v = random_state(task.robot.model, rng)
        found = [np.ravel(f.full()) for f in both(np.concatenate((q, v)), rng.uniform(-1.0, 1.0, motion.nu))]
        np.testing.assert_allclose(found[2:], found[:2], rtol=1e-9, atol=1e-9)
