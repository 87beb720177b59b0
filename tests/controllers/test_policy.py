"""A policy in the loop: decisions counted by time, both clocks, latency, faults."""

import numpy as np
import pytest
from trimtab.controllers import Safety, Wall, run
from trimtab.controllers.policy import PolicyController
from trimtab.sim import State


class Counted:
    """A policy that says how often it was asked, and at which readings."""

    def __init__(self, rule):
        self.rule = rule
        self.asked = []

    def __call__(self, y):
        self.asked.append(y.copy())
        return np.array([self.rule(y)])


def test_it_is_feedback_at_every_step(block):
    policy = Counted(lambda y: 0.5 - y[0] - y[1])
    episode = run(block.Plant(), PolicyController(policy, block.task), task=block.task)
    np.testing.assert_array_equal(episode.u[:, 0], 0.5 - episode.y[:-1, 0] - episode.y[:-1, 1])
    assert len(policy.asked) == len(episode) == 16
    assert episode.status == "done"
    assert len(episode.plan_ms) == 0


@pytest.mark.parametrize("hold", [1, 2, 3, 5])
def test_decisions_are_held_for_their_period(block, hold):
    policy = Counted(lambda y: 0.5 - y[0] - y[1])
    controller = PolicyController(policy, block.task, hold * block.dt)
    episode = run(block.Plant(), controller, task=block.task)
    first = np.arange(len(episode)) // hold * hold
    np.testing.assert_array_equal(episode.u[:, 0], 0.5 - episode.y[first, 0] - episode.y[first, 1])
    assert len(policy.asked) == -(-len(episode) // hold)


def test_decisions_do_not_drift_with_the_clock(block):
    policy = Counted(lambda y: float(len(policy.asked)))
    task = block.task
    controller = PolicyController(policy, task, 3 * block.dt)
    t, got = 0.7, []
    for _ in range(30_000):  # summed up, as plants do
        got.append(controller.control(State(t, np.zeros(2)))[0])
        t += block.dt * (1.0 - 1e-13)
    np.testing.assert_array_equal(got, 1 + np.arange(30_000) // 3)


def test_asked_again_it_answers_the_same_and_after_a_reset_anew(block):
    policy = Counted(lambda y: float(len(policy.asked)))
    controller = PolicyController(policy, block.task, 2 * block.dt)
    first = controller.control(State(4.0, np.zeros(2)))
    first[:] = 7.0  # whoever asked may do with it as they like
    assert controller.control(State(4.0, np.zeros(2))) == 1.0
    controller.reset(0)
    assert controller.control(State(4.0 + block.dt, np.zeros(2))) == 2.0
    assert controller.control(State(4.0 + 2 * block.dt, np.zeros(2))) == 2.0
    assert controller.control(State(4.0 + 3 * block.dt, np.zeros(2))) == 3.0


def test_under_the_wall_clock_it_decides_in_line(block):
    clock = block.Clock()
    policy = Counted(lambda y: 0.25)
    controller = PolicyController(policy, block.task, 2 * block.dt)
    episode = run(block.Plant(), controller, task=block.task, clock=Wall(clock.now, clock.sleep))
    assert episode.status == "done"
    assert len(policy.asked) == len(episode) // 2
    assert episode.deadline_misses == 0


def test_latency_delays_it(block):
    controller = PolicyController(lambda y: np.array([0.25]), block.task)
    episode = run(block.Plant(), controller, task=block.task, latency=2 * block.dt)
    np.testing.assert_array_equal(episode.u[:, 0], [0.0, 0.0] + [0.25] * (len(episode) - 2))


def test_what_is_no_number_never_reaches_the_plant(block):
    controller = PolicyController(lambda y: np.array([np.nan if y[0] > 0.1 else 0.5]), block.task)
    episode = run(block.Plant(), controller, task=block.task, safety=Safety(fallback="zero"))
    bad = episode.y[:-1, 0] > 0.1
    np.testing.assert_array_equal(episode.u[:, 0], np.where(bad, 0.0, 0.5))
    assert episode.fallbacks == bad.sum() > 0


def test_a_policy_that_raises_fails_the_run(block):
    def policy(y):
        raise RuntimeError("weights are gone")

    episode = run(block.Plant(), PolicyController(policy, block.task), task=block.task)
    assert episode.status == "failed"
    assert "weights are gone" in episode.reason


@pytest.mark.parametrize("period", [0.0, 0.1, -0.125, np.nan, np.inf])
def test_periods_are_whole_steps(block, period):
    with pytest.raises(ValueError, match="no whole number"):
        PolicyController(lambda y: y[:1], block.task, period)
