"""What every learner owes: one that is added belongs into the tables here."""

import dataclasses

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers.cem import CEM
from trimtab.learners.interface import Environment
from trimtab.learners.perceptrons import NetworkSettings
from trimtab.learners.sac import SAC, Schedule
from trimtab.robots import plugins

TASK = robots.load("pendulum-swingup")
DISCOUNT = 0.8  # of a decision

SMALL = SAC(
    network=NetworkSettings(hidden=(16,)),
    untold=("pole_velocity",),  # where an episode is cut off, it must look as where another begins
    discount=DISCOUNT,
    learning_rate=3e-3,
    averaging=0.05,
    batch=64,
    temperature=1e-6,
    learned=False,
    schedule=Schedule(random_steps=24, round=4, ratio=4.0, piece=700, evaluate_every=10**9),
)


def values_of_sac(learner):
    return learner.policy.value(learner.replay.all().y[-20:])


VALUES = {
    "sac": (SMALL, values_of_sac),
    "sac, three steps": (dataclasses.replace(SMALL, n_step=3), values_of_sac),
    "sac, choices": (SMALL, values_of_sac),
}
"""By learner, and variant: settings, and what values it gives to readings that it has seen."""

WITHOUT_VALUES = {"pets"}
"""Learners that plan on models instead."""


def constant(end, choices):
    """The pendulum, for a reward of 1 in every control step."""
    robot = TASK.robot
    if choices:
        robot = dataclasses.replace(robot, limits=np.array([[-0.5], [1.5]]), choices=2)
    return dataclasses.replace(TASK, robot=robot, score=lambda y, u: 1.0 + 0.0 * y.pole, end=end)


def test_the_tables_are_whole():
    own = {name for name in plugins.names("learners") if name != "toy"}
    assert own == {name.partition(",")[0] for name in VALUES} | WITHOUT_VALUES


@pytest.mark.parametrize("name", VALUES)
def test_what_was_cut_off_would_have_gone_on_and_what_ended_not(name):
    """An episode is two decisions, each worth 2: as one that goes on for ever, and as all there is."""
    settings, values = VALUES[name]
    worth = []
    for end in (None, lambda y: y.pole_velocity > -np.inf):
        task = constant(end, "choices" in name)
        learner = settings.start(Environment(task, "mujoco", 0.04, 0.08, CEM()), seed=3)
        learner.advance(lambda doing, numbers: None)
        worth.append(values(learner))
        learner.close()
    np.testing.assert_allclose(worth[0], 2.0 / (1.0 - DISCOUNT), rtol=0.1)
    # A task that ends with every control step scores one of the two.
    np.testing.assert_allclose(worth[1], 1.0, rtol=0.1)
