"""A robot's MuJoCo model as a pinocchio Model: the same bodies, joints and frames, whatever file they came from."""

from typing import Any

import mujoco
import numpy as np

Kind, Object = mujoco.mjtJoint, mujoco.mjtObj
FRAMES = {
    Object.mjOBJ_XBODY: "body",
    Object.mjOBJ_BODY: "inertia",
    Object.mjOBJ_SITE: "site",
    Object.mjOBJ_GEOM: "geom",
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
            joint = result.addJoint(joint, made, place * before, _name(model, Object.mjOBJ_JOINT, j))
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


def fixture(model: mujoco.MjModel, kind: Any, name: str) -> tuple[int, np.ndarray]:
    """The body that the object `name` of a kind, one of `FRAMES`, is fixed to, and its (w, x, y, z) there."""
    number = mujoco.mj_name2id(model, Object.mjOBJ_BODY if kind == Object.mjOBJ_XBODY else kind, name)
    body, _, turn = _frames(model)[kind][number]
    return int(body), np.array(turn)


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
    kind = Object.mjOBJ_BODY if kind == Object.mjOBJ_XBODY else kind
    return mujoco.mj_id2name(model, kind, i) or f"#{i}"


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    result = np.empty(9)
    mujoco.mju_quat2Mat(result, np.array(quaternion, float))
    return result.reshape(3, 3)


# What a rigid body alone does not do ----------------------------------------------------------------------------------


def left_out(model: mujoco.MjModel) -> list[str]:
    """What acts on the bodies of `model` that is none of: inertia, gravity, joints' springs and damping, motors.

    Motors act on hinges and slides, by fixed tendons or not, or as thrusters at sites, with a gain and a bias that are
    affine in position and velocity. Limits of hinges and slides are part of the model.
    """
    flags, found = model.opt.disableflags, []
    off = mujoco.mjtDisableBit
    if not flags & off.mjDSBL_CONSTRAINT:
        if not flags & off.mjDSBL_CONTACT:
            found += [f"contacts (of {one} with {other})" for one, other in _touching(model)[:1]]
        if not flags & off.mjDSBL_EQUALITY and model.eq_active0.any():
            joined = ", ".join(_equality(model, int(i)) for i in np.flatnonzero(model.eq_active0))
            found.append(f"equality constraints ({joined})")
        if not flags & off.mjDSBL_FRICTIONLOSS and model.dof_frictionloss.any():
            rubbing = np.unique(model.dof_jntid[model.dof_frictionloss > 0.0])
            found.append(f"dry friction of joints ({_listed(model, Object.mjOBJ_JOINT, rubbing)})")
        balls = model.jnt_limited.astype(bool) & (model.jnt_type == int(Kind.mjJNT_BALL))
        if not flags & off.mjDSBL_LIMIT and balls.any():
            found.append(f"limits of ball joints ({_listed(model, Object.mjOBJ_JOINT, balls)})")
    if model.ntendon:
        beside = "limited", "stiffness", "damping", "frictionloss", "armature"
        pulling = np.any([np.reshape(getattr(model, f"tendon_{a}"), (model.ntendon, -1)).any(1) for a in beside], 0)
        if pulling.any():
            found.append(f"tendons ({_listed(model, Object.mjOBJ_TENDON, pulling)})")
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
        odd = {i: _odd(model, i) for i in range(model.nu)}
        found += [f"actuator {_name(model, Object.mjOBJ_ACTUATOR, i)} ({why})" for i, why in odd.items() if why]
    if model.nplugin:
        found.append("plugins")
    return found


def pulls(model: mujoco.MjModel, i: int) -> list[tuple[int, float]]:
    """The joints that actuator `i` pulls, with its length's slope by their positions; none at a site.

    A fixed tendon's length is a sum of joint positions, each times its coefficient.
    """
    kind, target = mujoco.mjtTrn(model.actuator_trntype[i]), int(model.actuator_trnid[i, 0])
    gear = float(model.actuator_gear[i, 0])
    if kind == mujoco.mjtTrn.mjTRN_TENDON:
        return [(int(model.wrap_objid[w]), gear * float(model.wrap_prm[w])) for w in _wraps(model, target)]
    return [] if kind == mujoco.mjtTrn.mjTRN_SITE else [(target, gear)]


def _wraps(model: mujoco.MjModel, tendon: int) -> range:
    first = int(model.tendon_adr[tendon])
    return range(first, first + int(model.tendon_num[tendon]))


def _odd(model: mujoco.MjModel, i: int) -> str | None:
    """What would be left out of actuator `i`; None of a motor on hinges and slides, or at a site."""
    kind, (target, reference) = mujoco.mjtTrn(model.actuator_trntype[i]), model.actuator_trnid[i]
    tendon, site = kind == mujoco.mjtTrn.mjTRN_TENDON, kind == mujoco.mjtTrn.mjTRN_SITE
    if tendon:
        called = _name(model, Object.mjOBJ_TENDON, target)
        if any(model.wrap_type[w] != int(mujoco.mjtWrap.mjWRAP_JOINT) for w in _wraps(model, target)):
            return f"pulls tendon {called}, which runs through space"
        if model.tendon_actfrclimited[target]:
            return f"pulls tendon {called}, which limits its force"
    elif kind not in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT) and not (site and reference < 0):
        return "neither on joints nor at a site"
    for joint, _ in pulls(model, i):
        if Kind(model.jnt_type[joint]) not in (Kind.mjJNT_HINGE, Kind.mjJNT_SLIDE):
            return "on a free or ball joint"
        if model.jnt_actgravcomp[joint]:
            return "compensates gravity"
    if mujoco.mjtDyn(model.actuator_dyntype[i]) != mujoco.mjtDyn.mjDYN_NONE:
        return "has dynamics of its own"
    beside = "damping", "dampingpoly", "armature", "delay"
    if any(np.any(getattr(model, f"actuator_{a}")[i]) for a in beside):
        return "has damping, inertia or delay of its own"
    plain = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE
    straight = mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE
    if model.actuator_gaintype[i] not in map(int, plain) or model.actuator_biastype[i] not in map(int, straight):
        return "its force is not affine"
    return None


def _equality(model: mujoco.MjModel, i: int) -> str:
    """The name of equality constraint `i`, or what it holds together: a URDF's mimic joints have no other."""
    named = mujoco.mj_id2name(model, Object.mjOBJ_EQUALITY, i)
    own = {mujoco.mjtEq.mjEQ_JOINT: Object.mjOBJ_JOINT, mujoco.mjtEq.mjEQ_TENDON: Object.mjOBJ_TENDON}
    kind = own.get(mujoco.mjtEq(model.eq_type[i]), Object(model.eq_objtype[i]))
    pair = [int(k) for k in (model.eq_obj1id[i], model.eq_obj2id[i]) if k >= 0]
    return named or "of " + " with ".join(_name(model, kind, k) for k in pair)


def _listed(model: mujoco.MjModel, kind: Any, which: np.ndarray) -> str:
    """Names of the objects of a kind that `which` tells, by a mask of bool or by their numbers."""
    numbers = np.flatnonzero(which) if which.dtype == bool else which
    return ", ".join(_name(model, kind, int(i)) for i in numbers)


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
    named = mujoco.mj_id2name(model, Object.mjOBJ_GEOM, i)
    return named or f"a geom of {_name(model, Object.mjOBJ_BODY, int(model.geom_bodyid[i]))}"
