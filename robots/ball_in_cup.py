"""Ball in cup: a cup that moves in a vertical plane, and a ball on a string to be swung into it."""

import functools

from .arrays import Array, entry, indicator, namespace, vector
from .layout import Reading, View
from .shaping import column, missing
from .suite import suite_spec, suite_start
from .task import Robot, Task, Term

ROBOT = Robot(
    name="ball_in_cup",
    build=functools.partial(suite_spec, "ball_in_cup"),
    readings=(
        Reading.qpos("cup", 0, 1),  # x, z from where it is at rest [m]
        Reading.qpos("ball", 2, 3),
        Reading.qvel("cup_velocity", 0, 1),
        Reading.qvel("ball_velocity", 2, 3),
    ),
    dt=0.02,
)


class _Catch:
    """What the task measures, with the places and sizes that the model has."""

    def __init__(self) -> None:
        model = ROBOT.model
        plane = [0, 2]
        rest = model.body("ball").pos - model.body("cup").pos - model.site("target").pos
        self.rest = rest[plane].tolist()
        self.room = (model.site("target").size[plane] - model.geom("ball").size[0]).tolist()
        self.ball = [float(v) for v in model.body("ball").pos]
        self.rim = float(model.site("target").size[2] * 2.0)

    def sideways(self, y: View) -> Array:
        """Of the ball from the middle of the cup [m]."""
        return abs(entry(y.ball, 0) - entry(y.cup, 0) + self.rest[0])

    def height(self, y: View) -> Array:
        """Of the ball over the middle of the cup [m]."""
        return entry(y.ball, 1) - entry(y.cup, 1) + self.rest[1]

    def caught(self, y: View) -> Array:
        """1 with the ball in the cup."""
        xp = namespace(y.ball)
        inside = xp.logical_and(y.once(self.sideways) < self.room[0], abs(y.once(self.height)) < self.room[1])
        return indicator(inside, y.ball)

    def trace(self, y: View) -> Array:
        """The ball (..., 3) [m]."""
        x, side, z = self.ball
        return vector(entry(y.ball, 0) + x, side, entry(y.ball, 1) + z)

    def reward(self, y: View, u: Array) -> Array:
        """dm_control's reward."""
        return y.once(self.caught)

    def below(self, y: View, u: Array, t: Array) -> Array:
        """How far the ball is, while not caught, below a cup's height over the cup: it has to go over the rim."""
        height = namespace(y.ball).clip(y.once(self.height), -3.0 * self.rim, self.rim)
        return column((self.rim - height) * (1.0 - y.once(self.caught)))

    def aside(self, y: View, u: Array, t: Array) -> Array:
        """How far the ball is sideways of the cup's middle, while it is not caught."""
        return column(y.once(self.sideways) * (1.0 - y.once(self.caught)))


def catch() -> Task:
    """Swing the ball into the cup."""
    measure = _Catch()
    return Task(
        name="ball_in_cup-catch",
        robot=ROBOT,
        score=measure.reward,
        terms=(
            Term("reward", missing(measure.reward)),
            Term("height", measure.below, weight=2.0),
            Term("sideways", measure.aside, weight=1.0),
        ),
        start=suite_start("ball_in_cup", "catch"),
        duration=20.0,
        trace=measure.trace,
    )


TASKS = {"catch": catch}
