import importlib
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from trimtab import robots, sim


class Walk(gymnasium.Env):
    """A random walk with every kind of state: a generator, a list, a lambda, and an observation in parts."""

    action_space = gymnasium.spaces.MultiDiscrete([2, 3], start=[0, -1])
    observation_space = gymnasium.spaces.Dict(
        {"last": gymnasium.spaces.Discrete(3, start=-1), "place": gymnasium.spaces.Box(-np.inf, np.inf, (1, 2))}
    )

    def __init__(self, held=None):
        self.held = held
        self.scale = lambda a: 0.5 * a

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.path = [self.np_random.normal(size=(1, 2))]
        return self._observation(0), {}

    def _observation(self, last):
        return {"last": np.int64(last), "place": self.path[-1].astype(np.float32)}

    def step(self, action):
        self.path.append(self.path[-1] + self.scale(action) + self.np_random.normal(size=(1, 2)))
        return self._observation(action[1]), float(len(self.path)), False, False, {}


class Nested(EzPickle):
    def __init__(self):
        EzPickle.__init__(self)


class Broken(Walk):
    """Its state is nowhere to be found."""

    count = 0

    def step(self, action):
        Broken.count += 1
        return {"last": np.int64(0), "place": np.full((1, 2), Broken.count, np.float32)}, 0.0, False, False, {}


class Faulty(Walk):
    def step(self, action):
        return self._observation(0), np.nan if len(self.path) else 0.0, False, False, {}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    names = {
        "Walk-v0": Walk,
        "Locked-v0": lambda: Walk(threading.Lock()),
        "Nested-v0": lambda: Walk(Nested()),
        "Broken-v0": Broken,
        "Faulty-v0": Faulty,
    }
    for name, entry in names.items():
        gymnasium.register(f"trimtab-test/{name}", entry_point=entry)
    yield
    for name in names:
        del gymnasium.registry[f"trimtab-test/{name}"]


def test_readings_and_reward_are_the_environments():
    task = robots.load("gymnasium:Pendulum-v1")
    assert (task.robot.dt, task.duration, task.robot.nu) == (0.05, 10.0, 1)
    np.testing.assert_array_equal(task.robot.control_limits, [[-2.0], [2.0]])
    plant, env = sim.make("gymnasium", task), gymnasium.make("Pendulum-v1")
    truth, _ = env.reset(seed=4)
    np.testing.assert_array_equal(task.robot.layout(plant.reset(4).y).observation, truth)
    for u in np.random.default_rng(0).uniform(-2, 2, (20, 1)):
        truth, reward, *_ = env.step(u.astype(np.float32))
        state = plant.step(u)
        view = task.robot.layout(state.y)
        np.testing.assert_array_equal(view.observation, truth)
        assert view.reward == reward == task.reward(state.y, u)
        np.testing.assert_allclose(task.cost(state.y, u, state.time), 1.0 - reward)
        assert not task.success(state.y)


def test_a_choice_is_the_nearest_number():
    task = robots.load("gymnasium:CartPole-v1")
    np.testing.assert_array_equal(task.robot.control_limits, [[-0.5], [1.5]])
    plant, env = sim.make("gymnasium", task), gymnasium.make("CartPole-v1")
    for u, choice in ((-0.5, 0), (0.49, 0), (0.51, 1), (1.5, 1), (7.0, 1), (-3.0, 0)):
        env.reset(seed=0)
        plant.reset(0)
        view = task.robot.layout(plant.step(np.array([u])).y)
        np.testing.assert_array_equal(view.observation, env.step(choice)[0])


def test_terminates_and_stays():
    task = robots.load("gymnasium:CartPole-v1")
    plant = sim.make("gymnasium", task)
    states = [plant.reset(0)]
    for _ in range(30):
        states.append(plant.step(np.ones(1)))
    ends = [bool(task.terminated(s.y)) for s in states]
    first = ends.index(True)
    assert 5 < first < 20
    assert all(ends[first:])
    rewards = [float(task.reward(s.y, None)) for s in states]
    assert rewards == [0.0] + [1.0] * first + [0.0] * (30 - first)
    np.testing.assert_array_equal(states[-1].y[:4], states[first].y[:4])
    assert states[-1].time == pytest.approx(30 * task.robot.dt)


def test_any_attribute_is_restored():
    task = robots.load("gymnasium:trimtab-test/Walk-v0")
    np.testing.assert_array_equal(task.robot.control_limits, [[-0.5, -1.5], [1.5, 1.5]])
    assert task.robot.layout.size == 3 + 2 + 2
    assert task.robot.dt == 1.0
    plant, dynamics = sim.make("gymnasium", task), sim.dynamics("gymnasium", task)
    plant.reset(0)
    start = plant.step(np.array([1.0, -1.0]))
    u = np.random.default_rng(0).uniform(*task.robot.control_limits, (6, 2))
    states = [start, *(plant.step(a) for a in u)]
    y = dynamics.rollout(start, np.stack([u, u[::-1], u])).y[0]
    np.testing.assert_array_equal(y[0], [s.y for s in states])
    np.testing.assert_array_equal(y[2], y[0])
    assert not np.array_equal(y[1], y[0])
    np.testing.assert_array_equal(y[0, :, -2], np.arange(2, 9))  # the path's length


@pytest.mark.parametrize(
    ("name", "why"), [("Locked", "cannot pickle"), ("Nested", "Nested"), ("Broken", "does not go on the same")]
)
def test_what_can_not_be_copied_can_not_be_planned_on(name, why):
    task = robots.load(f"gymnasium:trimtab-test/{name}-v0")
    with pytest.raises(ValueError, match=why):
        sim.dynamics("gymnasium", task)


def test_what_can_not_be_copied_still_moves():
    task = robots.load("gymnasium:trimtab-test/Locked-v0")
    plant = sim.make("gymnasium", task)
    start = plant.reset(0)
    assert start.x is None
    assert not np.array_equal(plant.step(np.ones(2)).y, start.y)
    with pytest.raises(ValueError, match="x"):
        plant.reset(0, start)


def test_not_finite_is_an_error():
    plant = sim.make("gymnasium", robots.load("gymnasium:trimtab-test/Faulty-v0"))
    plant.reset(0)
    with pytest.raises(sim.SimulationError, match="not finite"):
        plant.step(np.ones(2))
    with pytest.raises(sim.SimulationError, match="reset"):
        plant.step(np.ones(2))
    plant.reset(0)


def test_snapshots_of_an_episode_have_one_length():
    plant = sim.make("gymnasium", robots.load("gymnasium:Pendulum-v1"))
    x = [plant.reset(0).x, *(plant.step(np.ones(1)).x for _ in range(50))]
    assert np.stack(x).dtype == np.uint8


def test_a_foreign_state_is_refused():
    plant = sim.make("gymnasium", robots.load("gymnasium:Pendulum-v1"))
    start = plant.reset(0)
    for x in (np.zeros(4), np.zeros(100, np.uint8), np.frombuffer(b"not a pickle", np.uint8)):
        with pytest.raises(ValueError, match="snapshot"):
            plant.reset(0, sim.State(0.0, start.y, x))


def test_unknown_names_list_the_nearest():
    with pytest.raises(robots.UnknownName, match="did you mean 'Pendulum-v1'"):
        robots.load("gymnasium:Pendulun-v1")
    with pytest.raises(robots.UnknownName, match="Pendulum-v1"):
        robots.load("gymnasium:Pendulum-v99")
    with pytest.raises(ValueError, match="nowhere"):
        robots.load("gymnasium:nowhere:Thing-v0")
    if importlib.util.find_spec("Box2D") is None:
        with pytest.raises(ValueError, match="Box2D"):
            robots.load("gymnasium:LunarLander-v3")
    with pytest.raises(ValueError, match="gymnasium:ID"):
        sim.make("gymnasium", robots.load("cartpole-swingup"))
