"""Panda: Franka Emika's arm of seven joints, driven by torques, its gripper closed.

Bodies, joints, limits and meshes are those of the URDF in the package example-robot-data (`pip install
'trimtab[robots]'`). The arm touches nothing: links pass through each other and through the floor.
"""

import functools
import importlib.metadata
import math
from pathlib import Path

import mujoco
import numpy as np

from .arrays import Array, entry, namespace, norm, positive, vector
from .layout import Reading, View
from .rewards import tolerance
from .task import Parameter, Robot, Start, Task, Term, quadratic

HOME = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
"""Joint angles [rad] of the pose in which the arm waits, its gripper pointing down."""

TORQUES = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
"""Largest torque of each joint [N m], Franka's."""

DT = 0.01
"""Control period, and MuJoCo's time step [s]."""

PERIOD = 4.0
"""Of the figure eight [s]."""

WIDTH, HEIGHT = 0.2, 0.1
"""Half the width (y) and half the height (z) of the figure eight [m]."""

CLOSE = 0.005
"""How far the tip may be from where it is to be on the figure eight [m]."""

_FOLDER = "cmeel.prefix/share/example-robot-data/robots/panda_description"


def _files() -> Path:
    """The folder of the arm's files.

    Raises:
        ValueError: the package that has them is not installed.
    """
    try:
        folder = Path(str(importlib.metadata.distribution("example-robot-data").locate_file(_FOLDER)))
    except importlib.metadata.PackageNotFoundError:
        folder = None
    if folder is None or not (folder / "urdf" / "panda.urdf").is_file():
        raise ValueError("its files are in the package example-robot-data: pip install 'trimtab[robots]'")
    return folder


def _arm() -> mujoco.MjSpec:
    folder = _files()
    spec = mujoco.MjSpec.from_file(str(folder / "urdf" / "panda.urdf"))
    spec.modelname = "panda"
    spec.compiler.discardvisual = False  # what touches nothing is still to be seen
    spec.option.timestep = DT
    for mesh in spec.meshes:  # named as ROS does, by package
        mesh.file = str(folder / "meshes" / "collision" / Path(mesh.file).name)
    for equality in list(spec.equalities):  # the fingers' common motion
        spec.delete(equality)
    for joint in list(spec.joints):
        if "finger" in joint.name:
            spec.delete(joint)
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
        geom.rgba = [0.9, 0.9, 0.92, 1.0]
    for joint, torque in zip(spec.joints, TORQUES):
        motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.ctrllimited, motor.ctrlrange = True, [-torque, torque]
    spec.body("panda_hand_tcp").add_site(name="tip", size=[0.008, 0, 0], rgba=[0.9, 0.3, 0.1, 1.0])
    _surroundings(spec)
    return spec


def _surroundings(spec: mujoco.MjSpec) -> None:
    spec.visual.headlight.ambient = [0.4, 0.4, 0.4]
    spec.add_texture(
        name="grid",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.1, 0.2, 0.3],
        rgb2=[0.2, 0.3, 0.4],
        width=300,
        height=300,
    )
    material = spec.add_material(name="grid", texrepeat=[4, 4], texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grid"
    world = spec.worldbody
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[1.5, 1.5, 0.1],
        material="grid",
        contype=0,
        conaffinity=0,
    )
    world.add_light(pos=[0, 0, 3])
    world.add_camera(name="fixed", pos=[1.6, -1.2, 0.9], xyaxes=[0.6, 0.8, 0, -0.25, 0.19, 0.95])


READINGS = (
    Reading.qpos("joints", *range(7)),  # [rad]
    Reading.qvel("joint_velocities", *range(7)),  # [rad/s]
    *(
        Reading.sensed(name, 3, sensor, mujoco.mjtObj.mjOBJ_SITE, "tip")
        for name, sensor in (
            ("tip", mujoco.mjtSensor.mjSENS_FRAMEPOS),  # between the fingers [m]
            ("tip_x", mujoco.mjtSensor.mjSENS_FRAMEXAXIS),
            ("tip_z", mujoco.mjtSensor.mjSENS_FRAMEZAXIS),  # where the gripper points
            ("tip_velocity", mujoco.mjtSensor.mjSENS_FRAMELINVEL),  # [m/s]
            ("tip_spin", mujoco.mjtSensor.mjSENS_FRAMEANGVEL),  # in the world [rad/s]
        )
    ),
)


class _Holding:
    """The torques that hold the arm against gravity, from its joint angles.

    Outwards, gravity is turned into each link's axes; inwards, the first moments of the mass that a joint carries are
    summed up: the joint holds their moment about its axis, which is z.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.gravity = [float(v) for v in model.opt.gravity]
        self.turns, self.places, self.masses, self.moments = [], [], [], []
        for joint in range(model.njnt):
            body = model.jnt_bodyid[joint]
            turn = np.empty(9)
            mujoco.mju_quat2Mat(turn, model.body_quat[body])
            nearest = np.round(turn)
            self.turns.append(np.where(abs(turn - nearest) < 1e-12, nearest, turn).reshape(3, 3).tolist())
            self.places.append(model.body_pos[body].tolist())
            self.masses.append(float(model.body_mass[body]))
            self.moments.append((model.body_mass[body] * model.body_ipos[body]).tolist())

    def __call__(self, y: View) -> Array:
        """The torques (..., 7) [N m]."""
        xp, angles = namespace(y.joints), [entry(y.joints, j) for j in range(7)]
        sines, cosines = [xp.sin(a) for a in angles], [xp.cos(a) for a in angles]
        down, downs = [0.0 * angles[0] + g for g in self.gravity], []
        for j in range(7):
            x, y_, z = _combined(zip(*self.turns[j]), down)
            down = [cosines[j] * x + sines[j] * y_, cosines[j] * y_ - sines[j] * x, z]
            downs.append(down)
        torques, carried, mass = [], [0.0, 0.0, 0.0], 0.0
        for j in reversed(range(7)):
            x, y_, z = (a + b for a, b in zip(carried, self.moments[j]))
            mass += self.masses[j]
            torques.append(y_ * downs[j][0] - x * downs[j][1])
            turned = cosines[j] * x - sines[j] * y_, sines[j] * x + cosines[j] * y_, z
            carried = [a + mass * p for a, p in zip(_combined(self.turns[j], turned), self.places[j])]
        return xp.stack(torques[::-1], axis=-1)


def _combined(rows: object, parts: object) -> list[Array]:
    """Of each of the `rows`, the sum of the `parts` times its numbers; zeros are left out."""
    found = []
    for row in rows:  # type: ignore[attr-defined]
        terms = [part if c == 1.0 else c * part for c, part in zip(row, parts) if c]  # type: ignore[call-overload]
        found.append(sum(terms[1:], terms[0]))
    return found


class _Arm:
    """What the arm's tasks measure, with the numbers of its model."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self._torques = 0.1 * TORQUES

    @functools.cached_property
    def holding(self) -> _Holding:
        return _Holding(self.robot.model)

    def effort(self, y: View, u: Array, t: Array) -> Array:
        """Torques beyond those that hold the arm, as shares of a tenth of their limits."""
        return (u - self.holding(y)) / self._torques

    def near_limits(self, y: View, u: Array, t: Array) -> Array:
        """How far joints are beyond nine tenths of their ranges [rad]."""
        low, high = self.robot.model.jnt_range.T
        middle, reach = 0.5 * (low + high), 0.45 * (high - low)
        return positive(abs(y.joints - middle) - reach)


def _velocities(y: View, u: Array, t: Array) -> Array:
    return y.joint_velocities


def _tip(y: View) -> Array:
    return y.tip


# Reach ----------------------------------------------------------------------------------------------------------------

TARGET = (Parameter("site_pos", "target"), Parameter("site_quat", "target"))


def _with_target() -> mujoco.MjSpec:
    spec = _arm()
    spec.worldbody.add_site(
        name="target",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.4, 0.0, 0.4],
        size=[0.02, 0.04, 0.03],
        rgba=[0.2, 0.8, 0.3, 0.5],
    )
    return spec


@functools.cache
def _reacher() -> Robot:
    return Robot(
        name="panda",
        build=_with_target,
        readings=(
            *READINGS,
            Reading.parameter("target", "site_pos", "target", 0, 1, 2),  # [m]
            Reading.parameter("target_turn", "site_quat", "target", 0, 1, 2, 3),  # quaternion w, x, y, z
        ),
        dt=DT,
        parameters=TARGET,
    )


def _off_place(y: View) -> Array:
    """From the target to the tip [m]."""
    return y.tip - y.target


def _off_axes(y: View) -> Array:
    """Differences of the tip's x and z axes to the target's (..., 6)."""
    w, i, j, k = (entry(y.target_turn, n) for n in range(4))
    x = (1.0 - 2.0 * (j * j + k * k), 2.0 * (i * j + w * k), 2.0 * (i * k - w * j))
    z = (2.0 * (i * k + w * j), 2.0 * (j * k - w * i), 1.0 - 2.0 * (i * i + j * j))
    found = [entry(y.tip_x, n) - x[n] for n in range(3)] + [entry(y.tip_z, n) - z[n] for n in range(3)]
    return vector(*found)


def _distances(y: View) -> tuple[Array, Array]:
    """How far off the tip is: [m], and the length of the axes' differences."""
    place, axes = y.once(_off_place), y.once(_off_axes)
    return norm(*(entry(place, n) for n in range(3))), norm(*(entry(axes, n) for n in range(6)))


NEAR, ALIGNED = 0.01, 0.05
"""How far off the tip may be at the target [m], and its axes."""


def _reaching(y: View, u: Array) -> Array:
    """1 at the target; falling off over 0.5 m, and over a quarter turn."""
    place, axes = y.once(_distances)
    return tolerance(place, (0.0, NEAR), margin=0.5) * (0.5 + 0.5 * tolerance(axes, (0.0, ALIGNED), margin=1.5))


def _reached(y: View) -> Array:
    place, axes = y.once(_distances)
    return namespace(place).logical_and(place <= NEAR, axes <= ALIGNED)


def _place_error(y: View, u: Array, t: Array) -> Array:
    return y.once(_off_place)


def _axes_error(y: View, u: Array, t: Array) -> Array:
    return y.once(_off_axes)


def _reach_start(seed: int) -> Start:
    """The arm at rest near `HOME`; the target where the tip is at joint angles up to 0.6 rad from there."""
    rng = np.random.default_rng(seed)
    model = _reacher().model
    data = mujoco.MjData(model)
    low, high = model.jnt_range.T
    place, turn = np.zeros(3), np.empty(4)
    while place[2] < 0.15:
        data.qpos[:] = np.clip(HOME + rng.uniform(-0.6, 0.6, 7), low + 0.3, high - 0.3)
        mujoco.mj_kinematics(model, data)
        place = data.site("tip").xpos.copy()
    mujoco.mju_mat2Quat(turn, data.site("tip").xmat)
    return Start(HOME + rng.uniform(-0.05, 0.05, 7), np.zeros(7), (place, turn))


def reach() -> Task:
    """Bring the gripper to a pose drawn anew for every episode, and hold it there."""
    robot = _reacher()
    arm = _Arm(robot)
    return Task(
        name="panda-reach",
        robot=robot,
        score=_reaching,
        terms=(
            Term("place", _place_error, quadratic, weight=40.0, terminal_weight=400.0),
            Term("axes", _axes_error, quadratic, weight=4.0, terminal_weight=40.0),
            Term("velocity", _velocities, quadratic, weight=0.1, terminal_weight=2.0),
            Term("effort", arm.effort, quadratic, weight=0.02),
            Term("limits", arm.near_limits, quadratic, weight=200.0),
        ),
        start=_reach_start,
        duration=4.0,
        trace=_tip,
        goal=_reached,
    )


# Figure eight ---------------------------------------------------------------------------------------------------------


@functools.cache
def _centre() -> tuple[np.ndarray, np.ndarray]:
    """Place (3,) [m] of the tip at `HOME`, and its axes (3, 3) as columns."""
    model = _arm().compile()
    data = mujoco.MjData(model)
    data.qpos[:] = HOME
    mujoco.mj_kinematics(model, data)
    return data.site("tip").xpos.copy(), data.site("tip").xmat.reshape(3, 3).copy()


def _with_eight() -> mujoco.MjSpec:
    spec = _arm()
    for i in range(64):
        place = _eight(i / 64 * PERIOD)
        spec.worldbody.add_site(name=f"eight{i}", pos=place, size=[0.004, 0, 0], rgba=[0.2, 0.8, 0.3, 0.7])
    return spec


def _eight(t: Array) -> list[Array]:
    """Where the tip is to be at `t` (...) [s]: x, y, z [m], from the middle first outwards and up to the left."""
    centre, _ = _centre()
    xp, phase = namespace(t), (2.0 * math.pi / PERIOD) * t
    across, up = xp.sin(phase), xp.sin(2.0 * phase)
    return [float(centre[0]) + 0.0 * across, float(centre[1]) + WIDTH * across, float(centre[2]) + HEIGHT * up]


@functools.cache
def _follower() -> Robot:
    return Robot(name="panda", build=_with_eight, readings=(*READINGS, Reading.clock("clock")), dt=DT)


def _off_eight(y: View, t: Array) -> list[Array]:
    return [entry(y.tip, n) - place for n, place in enumerate(_eight(t))]


def _eight_error(y: View, u: Array, t: Array) -> Array:
    return vector(*_off_eight(y, t))


def _eight_speed(y: View, u: Array, t: Array) -> Array:
    """Velocity relative to the figure's [m/s]."""
    rate = 2.0 * math.pi / PERIOD
    xp, phase = namespace(t), rate * t
    across, up = rate * WIDTH * xp.cos(phase), 2.0 * rate * HEIGHT * xp.cos(2.0 * phase)
    velocity = y.tip_velocity
    return vector(entry(velocity, 0), entry(velocity, 1) - across, entry(velocity, 2) - up)


def _turned(y: View, u: Array, t: Array) -> Array:
    """Differences of the tip's x and z axes to those at `HOME` (..., 6)."""
    _, axes = _centre()
    found = [entry(y.tip_x, n) - float(axes[n, 0]) for n in range(3)]
    return vector(*found, *(entry(y.tip_z, n) - float(axes[n, 2]) for n in range(3)))


def _lag(y: View) -> Array:
    """From where the tip is to be now [m]."""
    return norm(*_off_eight(y, y.clock))


def _following(y: View, u: Array) -> Array:
    """1 within `CLOSE` of where the tip is to be; falling off over 20 cm."""
    return tolerance(y.once(_lag), (0.0, CLOSE), margin=0.2)


def _on_the_eight(y: View) -> Array:
    return y.once(_lag) <= CLOSE


def figure_eight() -> Task:
    """Draw a figure eight with the gripper, in the plane before the arm, the gripper pointing down."""
    robot = _follower()
    arm = _Arm(robot)
    return Task(
        name="panda-figure_eight",
        robot=robot,
        score=_following,
        terms=(
            Term("place", _eight_error, quadratic, weight=4000.0, terminal_weight=4000.0),
            Term("speed", _eight_speed, quadratic, weight=20.0, terminal_weight=200.0),
            Term("axes", _turned, quadratic, weight=20.0, terminal_weight=20.0),
            Term("velocity", _velocities, quadratic, weight=0.02, terminal_weight=0.1),
            Term("effort", arm.effort, quadratic, weight=0.002),
            Term("limits", arm.near_limits, quadratic, weight=200.0),
        ),
        start=_eight_start,
        duration=10.0,
        trace=_tip,
        goal=_on_the_eight,
    )


def _eight_start(seed: int) -> Start:
    """The arm at rest, joints up to 0.02 rad from `HOME`."""
    rng = np.random.default_rng(seed)
    return Start(HOME + rng.uniform(-0.02, 0.02, 7), np.zeros(7))


TASKS = {"reach": reach, "figure_eight": figure_eight}
