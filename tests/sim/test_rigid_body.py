"""Rigid bodies as expressions: the numbers of pinocchio's own algorithms on random states."""

import functools
import importlib.metadata

import casadi as ca
import numpy as np
import pinocchio as pin
import pytest
from trimtab.robots.plugins import UnknownName
from trimtab.sim.posture import Posture
from trimtab.sim.rigid_body import RigidBody

FOLDER = "cmeel.prefix/share/example-robot-data/robots"


def urdf(path, floating=False):
    root = importlib.metadata.distribution("example-robot-data").locate_file(FOLDER)
    return pin.buildModelFromUrdf(f"{root}/{path}", *([pin.JointModelFreeFlyer()] if floating else []))


def panda():
    whole = urdf("panda_description/urdf/panda.urdf")
    fingers = [whole.getJointId(name) for name in whole.names if "finger" in name]
    return pin.buildReducedModel(whole, fingers, pin.neutral(whole))


def placement(rng):
    turn = pin.Quaternion(rng.standard_normal(4)).normalized().toRotationMatrix()
    return pin.SE3(turn, rng.standard_normal(3))


def every_joint():
    """All kinds of joints, at random places, with rotors, and a gravity that is not straight down."""
    rng, axis = np.random.default_rng(0), np.array([0.6, 0.0, 0.8])
    pin.seed(0)
    composite = pin.JointModelComposite()
    for part in (pin.JointModelRX(), pin.JointModelPrismaticUnaligned(axis), pin.JointModelSpherical()):
        composite.addJoint(part, placement(rng))
    branches = [  # each with the joint that it hangs on; depth first, as pinocchio's algorithms need it
        (0, [pin.JointModelRX(), pin.JointModelRevoluteUnaligned(axis), pin.JointModelRUBY(), pin.JointModelPX()]),
        (2, [pin.JointModelSphericalZYX(), pin.JointModelTranslation(), composite]),
        (0, [pin.JointModelPY(), pin.JointModelPZ(), pin.JointModelPrismaticUnaligned(-axis)]),
        (10, [pin.JointModelSpherical()]),
        (0, [pin.JointModelFreeFlyer(), pin.JointModelRZ()]),
    ]
    model = pin.Model()
    for parent, branch in branches:
        for joint in branch:
            parent = model.addJoint(parent, joint, placement(rng), f"joint{model.njoints}")
            model.appendBodyToJoint(parent, pin.Inertia.Random(), placement(rng))
            model.addFrame(pin.Frame(f"frame{parent}", parent, 0, placement(rng), pin.FrameType.OP_FRAME))
    model.armature = rng.random(model.nv)
    model.gravity.linear = rng.standard_normal(3)
    return model


MODELS = {
    "panda": panda,
    "ur5": functools.partial(urdf, "ur_description/urdf/ur5_robot.urdf"),
    "go2": functools.partial(urdf, "go2_description/urdf/go2.urdf", floating=True),
    "talos": functools.partial(urdf, "talos_data/robots/talos_reduced.urdf", floating=True),
    "every joint": every_joint,
}


@functools.cache
def expressions(name):
    """The model, and a function of (q, v, a, force) to what is compared."""
    model = MODELS[name]()
    body = RigidBody(model)
    q, v, a, force = (ca.SX.sym(s, n) for s, n in (("q", body.nq), ("v", body.nv), ("a", body.nv), ("f", body.nv)))
    posture = Posture(body, q)
    frames = [posture.frame(name, v) for name in frame_names(model)]
    outputs = {
        "inverse dynamics": posture.inverse_dynamics(v, a),
        "mass matrix": posture.mass_matrix(),
        "forward dynamics": posture.forward_dynamics(v, force),
        "rates": posture.rates(v),
        "positions": ca.horzcat(*(f.position for f in frames)),
        "rotations": ca.horzcat(*(f.rotation for f in frames)),
        "velocities": ca.horzcat(*(f.velocity for f in frames)),
        "angular velocities": ca.horzcat(*(f.angular_velocity for f in frames)),
    }
    return model, ca.Function("f", [q, v, a, force], list(outputs.values()), ["q", "v", "a", "f"], _plain(outputs))


def _plain(names):
    return [name.replace(" ", "_") for name in names]


def frame_names(model):
    return [frame.name for frame in model.frames][-3:]


def random_states(model, n):
    rng = np.random.default_rng(1)
    for _ in range(n):
        q = pin.integrate(model, pin.neutral(model), 1.5 * rng.standard_normal(model.nv))
        yield q, *(scale * rng.standard_normal(model.nv) for scale in (2.0, 3.0, 10.0))


def pinocchios(model, q, v, a, force):
    data = model.createData()
    upper = np.triu(pin.crba(model, data, q))
    pin.forwardKinematics(model, data, q, v)
    pin.updateFramePlacements(model, data)
    frames = [model.getFrameId(name) for name in frame_names(model)]
    velocities = [pin.getFrameVelocity(model, data, f, pin.LOCAL_WORLD_ALIGNED) for f in frames]
    placements = [data.oMf[f] for f in frames]
    found = [
        np.array(pin.rnea(model, data, q, v, a)),
        upper + np.triu(upper, 1).T,
        np.array(pin.aba(model, data, q, v, force)),
        (pin.integrate(model, q, 1e-5 * v) - pin.integrate(model, q, -1e-5 * v)) / 2e-5,
        np.column_stack([p.translation for p in placements]),
        np.column_stack([p.rotation for p in placements]),
        np.column_stack([w.linear for w in velocities]),
        np.column_stack([w.angular for w in velocities]),
    ]
    return [np.reshape(x, (len(x), -1)) for x in found]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_pinocchios(name):
    model, function = expressions(name)
    for state in random_states(model, 10):
        for what, ours, theirs in zip(function.name_out(), function(*state), pinocchios(model, *state)):
            within = 1e-8 if what == "rates" else 1e-9  # rates are compared to differences
            np.testing.assert_allclose(ours.full(), theirs, rtol=0, atol=within * (1 + abs(theirs).max()), err_msg=what)


def test_derivatives_are_pinocchios():
    model = panda()
    body, data = RigidBody(model), model.createData()
    q, v, force = ca.SX.sym("q", 7), ca.SX.sym("v", 7), ca.SX.sym("f", 7)
    a = Posture(body, q).forward_dynamics(v, force)
    slopes = ca.Function("slopes", [q, v, force], [ca.jacobian(a, z) for z in (q, v, force)])
    for at, speed, _, torque in random_states(model, 5):
        expected = pin.computeABADerivatives(model, data, at, speed, torque)
        for ours, theirs in zip(slopes(at, speed, torque), expected):
            np.testing.assert_allclose(ours.full(), theirs, rtol=0, atol=1e-9 * (1 + abs(theirs).max()))


def test_accelerations_of_origins():
    """A free-flyer's own axes turn: the rate of its velocity is not its origin's acceleration."""
    model = MODELS["go2"]()
    body = RigidBody(model)
    q, v, force = ca.SX.sym("q", body.nq), ca.SX.sym("v", body.nv), ca.SX.sym("f", body.nv)
    posture = Posture(body, q)
    both = [posture.forward_dynamics(v, force, origins=origins) for origins in (False, True)]
    function = ca.Function("f", [q, v, force], both)
    for at, speed, _, torque in random_states(model, 3):
        rate, acceleration = (np.ravel(x.full()) for x in function(at, speed, torque))
        np.testing.assert_allclose(acceleration[3:], rate[3:], rtol=1e-9, atol=1e-9)
        turning = np.cross(speed[3:6], speed[:3])
        np.testing.assert_allclose(acceleration[:3], rate[:3] + turning, rtol=1e-9, atol=1e-9)


def test_regrouping_leaves_less_to_compute():
    """Of a revolute joint's body, 7 of 10 numbers are left; and what its parent carries for it makes up for them."""
    model = panda()
    links = RigidBody(model).links
    assert all(link.mass == link.first[2] == link.second[2, 2] == 0.0 for link in links)
    assert sum(inertia.mass for inertia in model.inertias) > 15.0


@pytest.mark.parametrize(
    ("joint", "kind"), [(pin.JointModelPlanar(), "Planar"), (pin.JointModelHX(0.1), "HX"), ("mimic", "Mimic")]
)
def test_unsupported_joints_are_named(joint, kind):
    model = pin.Model()
    first = model.addJoint(0, pin.JointModelRX(), pin.SE3.Identity(), "first")
    model.appendBodyToJoint(first, pin.Inertia.Random(), pin.SE3.Identity())
    if joint == "mimic":
        second = model.addJoint(first, pin.JointModelRX(), pin.SE3.Identity(), "odd")
        model.appendBodyToJoint(second, pin.Inertia.Random(), pin.SE3.Identity())
        model = pin.transformJointIntoMimic(model, first, second, 2.0, 0.0)
    else:
        model.addJoint(first, joint, pin.SE3.Identity(), "odd")
    with pytest.raises(ValueError, match=rf"not supported: 'odd' \({kind}\)\. Known: revolute"):
        RigidBody(model)


def test_all_unsupported_joints_are_named_at_once():
    """Also the planar joint of a URDF, and what is in a composite one."""
    model = pin.buildModelFromXML(
        """<robot name="sled"><link name="world"/><link name="sled"><inertial><mass value="1"/>
        <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
        <joint name="slip" type="planar"><parent link="world"/><child link="sled"/></joint></robot>"""
    )
    composite = pin.JointModelComposite()
    for part in (pin.JointModelRX(), pin.JointModelHZ(0.2)):
        composite.addJoint(part, pin.SE3.Identity())
    model.addJoint(1, composite, pin.SE3.Identity(), "screw")
    with pytest.raises(ValueError, match=r"supported: 'slip' \(Planar\), 'screw' \(HZ\)\. Known"):
        RigidBody(model)


def test_unknown_frames_are_named():
    body = RigidBody(panda())
    with pytest.raises(UnknownName, match=r"unknown frame 'panda_hand_tpc'; did you mean 'panda_hand_tcp'"):
        Posture(body, ca.SX.sym("q", 7)).frame("panda_hand_tpc", ca.SX.sym("v", 7))
