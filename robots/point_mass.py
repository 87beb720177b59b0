"""Point mass: a mass driven along two axes in a plane, to a target at the centre."""

import functools

from .arrays import Array, entry, norm, vector
from .layout import Reading, View
from .rewards import tolerance
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

ROBOT = Robot(
    name="point_mass",
    build=functools.partial(suite_spec, "point_mass"),
    readings=(
        Reading.qpos("place", 0, 1),  # x, y [m]
        Reading.qvel("velocity", 0, 1),
    ),
    dt=0.02,
)


class _Easy:
    """What the task measures, with the target that the model has."""

    def __init__(self) -> None:
        model = ROBOT.model
        self.radius = float(model.geom("target").size[0])
        x, y, _ = model.geom("target").pos - model.body("pointmass").pos
        self.x, self.y = float(x), float(y)
        self.rest = [float(v) for v in model.body("pointmass").pos]

    def distance(self, y: View) -> Array:
        """From the mass to the target, whose heights are the same [m]."""
        return norm(entry(y.place, 0) - self.x, entry(y.place, 1) - self.y)

    def trace(self, y: View) -> Array:
        """The mass (..., 3) [m]."""
        x, other, z = self.rest
        return vector(entry(y.place, 0) + x, entry(y.place, 1) + other, z)

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward: near the target, with small controls."""
        near = tolerance(y.once(self.distance), (0.0, self.radius), margin=self.radius)
        control = sum(tolerance(entry(u, i), margin=1.0, value_at_margin=0.0, sigmoid="quadratic") for i in (0, 1))
        return near * (0.1 * control + 0.8)

    def off_target(self, y: View, u: Array, t: Array) -> Array:
        """The distance."""
        return column(y.once(self.distance))


def easy() -> Task:
    """Go to the target and stay there."""
    measure = _Easy()
    return Task(
        name="point_mass-easy",
        robot=ROBOT,
        score=measure.reward,
        terms=(Term("reward", missing(measure.reward)), Term("distance", measure.off_target, weight=5.0)),
        start=suite_start("point_mass", "easy"),
        duration=20.0,
        trace=measure.trace,
    )


TASKS = {"easy": easy}
