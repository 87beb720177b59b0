"""Cheetah: a planar runner with a back and a front leg of three joints each (Wawrzynski, 2009)."""

import math

import mujoco
import numpy as np

from .arrays import Array, entry, namespace, vector
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

RUN_SPEED = 10.0
"""Speed [m/s] at which the reward is full, dm_control's `_RUN_SPEED`."""

SUCCESS_SHARE = 0.8
"""Share of the full-reward speed at which the cheetah counts as running."""


def _build() -> mujoco.MjSpec:
    """dm_control's model with its total mass, 14 kg, set body by body: MuJoCo deprecates `settotalmass`."""
    spec = suite_spec("cheetah")
    mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
    model = spec.compile()
    scale = mass / np.cumsum(model.body_mass)[-1]  # one by one, as MuJoCo sums: the bits are dm_control's
    for body in spec.bodies[1:]:
        inertial = model.body(body.name)
        body.mass, body.inertia = scale * inertial.mass[0], scale * inertial.inertia
        body.ipos, body.iquat = inertial.ipos, inertial.iquat
        body.explicitinertial = True
    return spec


ROBOT = Robot(
    name="cheetah",
    build=_build,
    readings=(
        Reading.qpos("root", 0, 1),  # x, z from where the torso is at rest [m]
        Reading.qpos("pitch", 2),  # [rad], 0 is level, positive nose down
        Reading.qpos("joints", *range(3, 9)),  # back thigh, shin, foot, front thigh, shin, foot
        Reading.qvel("root_velocity", 0, 1),
        Reading.qvel("pitch_velocity", 2),
        Reading.qvel("joint_velocities", *range(3, 9)),
        Reading.sensed(
            "com_velocity", 3, mujoco.mjtSensor.mjSENS_SUBTREELINVEL, mujoco.mjtObj.mjOBJ_BODY, "torso"
        ),  # of the whole body [m/s]
    ),
    dt=0.01,
)


def run_reward(y: View, u: Array) -> Array:
    """dm_control's reward: forward speed, linear up to `RUN_SPEED`."""
    speed = entry(y.com_velocity, 0)
    return tolerance(speed, (RUN_SPEED, math.inf), margin=RUN_SPEED, value_at_margin=0.0, sigmoid="linear")


def _lean(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - namespace(y.pitch).cos(y.pitch))


def _running(y: View) -> Array:
    return entry(y.com_velocity, 0) >= SUCCESS_SHARE * RUN_SPEED


def _torso(y: View) -> Array:
    rest = ROBOT.model.body("torso").pos
    return vector(entry(y.root, 0) + rest[0], rest[1], entry(y.root, 1) + rest[2])


def _run() -> Task:
    return Task(
        name="cheetah-run",
        robot=ROBOT,
        score=run_reward,
        terms=(
            Term("reward", missing(run_reward)),
            Term("level", _lean, weight=0.05),  # a cheetah on its back runs nowhere, but only beyond the horizon
        ),
        start=suite_start("cheetah", "run"),
        duration=10.0,
        trace=_torso,
        goal=_running,
    )


TASKS = {"run": _run}
