"""What learned models are told and predict, on robots with angles, quaternions, parameters and a clock."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trimtab import robots, sim
from trimtab.learners.encoding import Encoding
from trimtab.robots.plugins import UnknownName


def labels(task, entries):
    return [robots.load(task).robot.layout.labels[k] for k in entries]


def test_which_entries_are_what():
    cartpole = Encoding.of(robots.load("cartpole-swingup").robot)
    assert labels("cartpole-swingup", cartpole.angles) == ["pole"]
    assert labels("cartpole-swingup", cartpole.told) == ["cart", "cart_velocity", "pole_velocity"]
    assert (cartpole.inputs, cartpole.outputs) == (6, 4)
    reacher = Encoding.of(robots.load("reacher-easy").robot)
    assert labels("reacher-easy", reacher.angles) == ["joints[0]"]  # the wrist has limits
    assert labels("reacher-easy", reacher.predicted) == [
        f"{n}[{i}]" for n in ("joints", "joint_velocities") for i in (0, 1)
    ]
    fish = robots.load("fish-swim").robot
    assert labels("fish-swim", Encoding.of(fish).quaternions) == ["orientation[0]"]
    clocked = Encoding.of(robots.load("quadrotor-waypoints").robot)
    assert len(clocked.clocks) == 1
    assert not {*clocked.clocks} & {*clocked.told, *clocked.predicted}
    unaware = Encoding.of(robots.load("cartpole-swingup").robot, untold=["pole", "cart"])
    assert (unaware.angles, labels("cartpole-swingup", unaware.untold_angles)) == ((), ["pole"])
    assert labels("cartpole-swingup", unaware.predicted) == ["cart", "pole", "cart_velocity", "pole_velocity"]


def test_names_say_which():
    cheetah = robots.load("cheetah-run").robot
    encoding = Encoding.of(cheetah, untold=["root[0]", "joints"])
    assert labels("cheetah-run", encoding.angles) == ["pitch"]
    hidden = ["root[0]", *(f"joints[{i}]" for i in range(6))]
    assert not {*hidden} & {*labels("cheetah-run", encoding.told)}
    assert {*hidden} <= {*labels("cheetah-run", encoding.predicted)}
    with pytest.raises(UnknownName, match="did you mean 'pitch'"):
        Encoding.of(cheetah, untold=["ptch"])


def test_unknown_rewards_are_predicted_as_they_are_and_not_told():
    encoding = Encoding.of(robots.load("gymnasium:Pendulum-v1").robot)
    assert encoding.angles == ()
    assert encoding.told == (0, 1, 2)
    assert encoding.values == (3, 4)  # reward and terminated
    assert encoding.predicted == (0, 1, 2, 3, 4)
    y = np.array([[1.0, 2.0, 3.0, -5.0, 0.0]])
    np.testing.assert_array_equal(encoding.changes(y, y + 1.0), [[1.0, 1.0, 1.0, -4.0, 1.0]])
    np.testing.assert_array_equal(encoding.advance(y, np.full((1, 5), 0.5)), [[1.5, 2.5, 3.5, 0.5, 0.5]])


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy", "fish-swim", "quadrotor-waypoints"])
def test_advancing_by_the_changes_leads_where_the_plant_went(name):
    task = robots.load(name)
    encoding = Encoding.of(task.robot)
    plant = sim.make("mujoco", task)
    low, high = task.robot.control_limits
    y = [plant.reset(0).y]
    for u in np.random.default_rng(0).uniform(low, high, (20, len(low))):
        y.append(plant.step(u).y)
    y = np.array(y)
    before = y[:-1].copy()
    changes = encoding.changes(y[:-1], y[1:])
    np.testing.assert_allclose(encoding.advance(y[:-1], changes), y[1:], rtol=0, atol=1e-12)
    torched = encoding.advance(torch.as_tensor(y[:-1]), torch.as_tensor(changes))
    np.testing.assert_allclose(torched.numpy(), y[1:], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(y[:-1], before)
    u = np.zeros((20, task.robot.nu))
    told = encoding.tell(y[:-1], u)
    assert told.shape == (20, encoding.inputs)
    np.testing.assert_allclose(encoding.tell(torch.as_tensor(y[:-1]), torch.as_tensor(u)).numpy(), told, atol=1e-12)


@given(st.floats(-50, 50), st.integers(-3, 3), st.floats(-3, 3), st.booleans())
def test_whole_turns_do_not_matter(angle, turns, change, told):
    kinds = {"angles": (0,)} if told else {"angles": (), "untold_angles": (0,)}
    encoding = Encoding(ny=2, nu=1, dt=0.1, told=(1,), predicted=(0, 1), **kinds)
    y, turned = np.array([[angle, 1.0]]), np.array([[angle + 2 * np.pi * turns, 1.0]])
    u = np.zeros((1, 1))
    np.testing.assert_allclose(encoding.tell(y, u), encoding.tell(turned, u), atol=1e-12)
    later = y + np.array([change, 0.5])
    np.testing.assert_allclose(encoding.changes(turned, later), [[change, 0.5]], atol=1e-12)
    np.testing.assert_allclose(encoding.shorter(turned[0], later[0]), [change, 0.5], atol=1e-12)
