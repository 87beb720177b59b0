"""A robot's MuJoCo model as a pinocchio Model: the same bodies, joints and frames, whatever file they came from."""

from typing import Any

import mujoco
import numpy as np

Kind = mujoco.mjtJoint
FRAMES = {
    mujoco.mjtObj.mjOBJ_XBODY: "body",
    mujoco.mjtObj.mjOBJ_BODY: "inertia",
    mujoco.mjtObj.mjOBJ_SITE: "site",
    mujoco.mjtObj.mjOBJ_GEOM: "geom",
}
"""What the model has frames for: a body, its principal axes of inertia, a site, a geom."""


def pinocchio_model(model: mujoco.MjModel) -> Any:
    """The bodies and joints of `model` as a `pinocchio.Model`, degrees of freedom in the same order.

    Velocities and forces are MuJoCo's, but for a free joint's linear ones, which pinocchio has in the body's own axes;
    quaternions are (x, y, z, w). Joints have the names that they have in MuJoCo; frames are called `body NAME`,
    `inertia NAME` (principal axes, at the centre of mass), `site NAME` and `geom NAME`.
    """
    import pinocchio as pin

    def pose(place: np.ndarray, quaternion: np.ndarray) -> Any:
        return pin.SE3(_matrix(quaternion), np.array(place, float))

    result = pin.Model()
    result.name = "mujoco"
    off = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY
    result.gravity.linear = np.zeros(3) if off else np.array(model.opt.gravity)
    carriers = [(0, pin.SE3.Identity())]  # of each body: its joint, and its place there
    for body in range(1, model.nbody):
        joint, place = carriers[model.body_parentid[body]]
        place = place * pose(model.body_pos[body], model.body_quat[body])
        first = int(model.body_jntadr[body])
        for j in range(first, first + int(model.body_jntnum[body])):
            made, before, after = _joint(model, j, pin)
            if Kind(model.jnt_type[j]) == Kind.mjJNT_FREE:
                place = pin.SE3.Identity()  # its position is the world's
            joint = result.addJoint(joint, made, place * before, _name(model, mujoco.mjtObj.mjOBJ_JOINT, j))
            place = after
        carriers.append((joint, place))
        inertia = pose(model.body_ipos[body], model.body_iquat[body])
        if joint:
            result.appendBodyToJoint(joint, _inertia(model, body, pin), place * inertia)
    result.armature = np.array(model.dof_armature)
    for kind, inside in _frames(model).items():
        for i, (body, where, turn) in enumerate(inside):
            joint, place = carriers[body]
            label = frame_name(model, kind, i)
            if not result.existFrame(label):
                result.addFrame(pin.Frame(label, joint, 0, place * pose(where, turn), pin.FrameType.OP_FRAME))
    return result


def _joint(model: mujoco.MjModel, j: int, pin: Any) -> tuple[Any, Any, Any]:
    """Pinocchio's joint for joint `j`, its placement in the frame before it, and that of the frame after it in it."""
    axis, anchor, none = np.array(model.jnt_axis[j]), np.array(model.jnt_pos[j]), np.eye(3)
    rest = float(model.qpos0[model.jnt_qposadr[j]])
    kind = Kind(model.jnt_type[j])
    if kind == Kind.mjJNT_FREE:
        return pin.JointModelFreeFlyer(), pin.SE3.Identity(), pin.SE3.Identity()
    if kind == Kind.mjJNT_SLIDE:
        return pin.JointModelPrismaticUnaligned(axis), pin.SE3(none, -rest * axis), pin.SE3.Identity()
    after = pin.SE3(none, -anchor)
    if kind == Kind.mjJNT_BALL:
        return pin.JointModelSpherical(), pin.SE3(none, anchor), after
    back = pin.AngleAxis(-rest, axis).toRotationMatrix() if rest else none
    return pin.JointModelRevoluteUnaligned(axis), pin.SE3(back, anchor), after


def _inertia(model: mujoco.MjModel, body: int, pin: Any) -> Any:
    return pin.Inertia(float(model.body_mass[body]), np.zeros(3), np.diag(model.body_inertia[body]))


def frame_name(model: mujoco.MjModel, kind: Any, i: int) -> str:
    """What the frame of the `i`-th object of a kind, one of `FRAMES`, is called."""
    return f"{FRAMES[kind]} {_name(model, kind, i)}"


def _frames(model: mujoco.MjModel) -> dict[Any, list[tuple[int, np.ndarray, np.ndarray]]]:
    """The frames of each kind of object: their bodies, places and quaternions there."""
    bodies, none, still = range(model.nbody), np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
    inside = {
        "body": [(i, none, still) for i in bodies],
        "inertia": [(i, model.body_ipos[i], model.body_iquat[i]) for i in bodies],
        "site": list(zip(model.site_bodyid, model.site_pos, model.site_quat)),
        "geom": list(zip(model.geom_bodyid, model.geom_pos, model.geom_quat)),
    }
    return {kind: inside[name] for kind, name in FRAMES.items()}


def _name(model: mujoco.MjModel, kind: Any, i: int) -> str:
    kind = mujoco.mjtObj.mjOBJ_BODY if kind == mujoco.mjtObj.mjOBJ_XBODY else kind
    return mujoco.mj_id2name(model, kind, i) or f"#{i}"


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    result = np.empty(9)
    mujoco.mju_quat2Mat(result, np.array(quaternion, float))
    return result.reshape(3, 3)


# What a rigid body alone does not do ----------------------------------------------------------------------------------


def left_out(model: mujoco.MjModel) -> list[str]:
    """What acts on the bodies of `model` that is none of: inertia, gravity, joints' springs and damping, motors.

    Motors act on hinges and slides, or as thrusters at sites, with a gain and a bias that are affine in position and
    velocity. Limits of joints are not listed: short of them, they do nothing.
    """
    flags, found = model.opt.disableflags, []
    off = mujoco.mjtDisableBit
    if not flags & off.mjDSBL_CONSTRAINT:
        if not flags & off.mjDSBL_CONTACT:
            found += [f"contacts (of {one} with {other})" for one, other in _touching(model)[:1]]
        if not flags & off.mjDSBL_EQUALITY and model.eq_active0.any():
            found.append("equality constraints")
        if not flags & off.mjDSBL_FRICTIONLOSS and model.dof_frictionloss.any():
            found.append("dry friction of joints")
    if model.ntendon and (
        model.tendon_limited.any()
        or any(a.any() for a in (model.tendon_stiffness, model.tendon_damping, model.tendon_frictionloss))
    ):
        found.append("tendons")
    if model.opt.density or model.opt.viscosity:
        found.append("drag of the medium")
    if model.body_gravcomp.any():
        found.append("compensation of gravity")
    if model.nflex:
        found.append("deformable bodies")
    turning = np.isin(model.jnt_type, [int(Kind.mjJNT_FREE), int(Kind.mjJNT_BALL)])
    if model.jnt_stiffness[turning].any() or model.jnt_stiffnesspoly.any() or model.dof_dampingpoly.any():
        found.append("springs of free and ball joints, springs and damping that are not linear")
    if not flags & off.mjDSBL_ACTUATION:
        found += [
            f"actuator {_name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, i)}" for i in range(model.nu) if not _plain(model, i)
        ]
    if model.nplugin:
        found.append("plugins")
    return found


def _plain(model: mujoco.MjModel, i: int) -> bool:
    """Whether actuator `i` is a motor on a hinge or slide, or at a site, without dynamics of its own."""
    kind, (target, reference) = mujoco.mjtTrn(model.actuator_trntype[i]), model.actuator_trnid[i]
    if kind in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT):
        moves = Kind(model.jnt_type[target]) in (Kind.mjJNT_HINGE, Kind.mjJNT_SLIDE)
        moves = moves and not model.jnt_actgravcomp[target]
    else:
        moves = kind == mujoco.mjtTrn.mjTRN_SITE and reference < 0
    beside = model.actuator_damping, model.actuator_dampingpoly, model.actuator_armature, model.actuator_delay
    return (
        moves
        and mujoco.mjtDyn(model.actuator_dyntype[i]) == mujoco.mjtDyn.mjDYN_NONE
        and mujoco.mjtGain(model.actuator_gaintype[i]) in (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
        and mujoco.mjtBias(model.actuator_biastype[i]) in (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)
        and not any(a[i].any() for a in beside)
    )


def _touching(model: mujoco.MjModel) -> list[tuple[str, str]]:
    """Names of geoms that MuJoCo lets collide: by their masks, or as a pair."""
    filtered = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT
    weld = model.body_weldid[model.geom_bodyid]  # bodies without joints between them are one
    above = model.body_weldid[model.body_parentid[weld]]
    meet = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    meet = (meet | meet.T) & (weld[:, None] != weld)
    if filtered:  # a body does not collide with the one that it hangs on, except the world
        meet &= ~((weld[:, None] == above) & (weld != 0)[:, None]) & ~((weld == above[:, None]) & (weld != 0))
    excluded = {(int(s) >> 16, int(s) & 0xFFFF) for s in model.exclude_signature}
    pairs = [(int(i), int(j)) for i, j in np.argwhere(np.triu(meet, 1))]
    bodies = model.geom_bodyid
    pairs = [(i, j) for i, j in pairs if not {(bodies[i], bodies[j]), (bodies[j], bodies[i])} & excluded]
    pairs += list(zip(model.pair_geom1, model.pair_geom2))
    return [(_geom(model, i), _geom(model, j)) for i, j in pairs]


def _geom(model: mujoco.MjModel, i: int) -> str:
    named = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, i)
    return named or f"a geom of {_name(model, mujoco.mjtObj.mjOBJ_BODY, int(model.geom_bodyid[i]))}"
