"""Acrobot: two hinged links with a motor at the elbow only (Coulom, 2002, after Spong, 1995)."""

import functools

from .arrays import Array, namespace, norm
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

ROBOT = Robot(
    name="acrobot",
    build=functools.partial(suite_spec, "acrobot"),
    readings=(
        Reading.qpos("shoulder", 0),  # [rad], 0 is upright
        Reading.qpos("elbow", 1),  # [rad], 0 is stretched
        Reading.qvel("shoulder_velocity", 0),
        Reading.qvel("elbow_velocity", 1),
    ),
    dt=0.01,
)


class _Swingup:
    """What the acrobot's tasks measure, with the lengths that its model has."""

    def __init__(self, sparse: bool) -> None:
        model = ROBOT.model
        self.upper = float(model.body("lower_arm").pos[2])
        self.lower = float(model.site("tip").pos[2])
        self.target = float(model.site("target").pos[2] - model.body("upper_arm").pos[2])  # above the shoulder
        self.radius = float(model.site("target").size[0])
        self.margin = 0.0 if sparse else 1.0

    def distance(self, y: View) -> Array:
        """From the tip to the target [m]."""
        xp = namespace(y.shoulder)
        first = y.shoulder
        second = first + y.elbow
        x = self.upper * xp.sin(first) + self.lower * xp.sin(second)
        z = self.upper * xp.cos(first) + self.lower * xp.cos(second)
        return norm(x, z - self.target)

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: 1 with the tip within the target, sparse or falling off over a metre."""
        return tolerance(y.once(self.distance), (0.0, self.radius), margin=self.margin)

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The distance."""
        return column(y.once(self.distance))

    def speed_at_target(self, y: View, u: Array, t: Array) -> Array:
        """The links' squared angular velocities, forgiven far from the target: to get there takes speed."""
        first = y.shoulder_velocity
        second = first + y.elbow_velocity
        return column(namespace(first).exp(-y.once(self.distance)) * (first * first + second * second))


def _task(name: str, sparse: bool) -> Task:
    measure, smooth = _Swingup(sparse), _Swingup(sparse=False)
    return Task(
        name=f"acrobot-{name}",
        robot=ROBOT,
        score=measure.reward,
        terms=(
            Term("reward", missing(smooth.reward)),  # a sparse reward plans badly: both plan on the smooth one
            Term("distance", smooth.off_target, weight=0.025),
            Term("link_velocity", smooth.speed_at_target, weight=0.002),
        ),
        start=suite_start("acrobot", name),
        duration=10.0,
    )


TASKS = {
    "swingup": functools.partial(_task, "swingup", sparse=False),
    "swingup_sparse": functools.partial(_task, "swingup_sparse", sparse=True),
}
