"""What the collector gathers, against the control loop and against itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers import loop
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.controllers.safety import Safety
from trimtab.learners.collection import FILE, Collector
from trimtab.learners.interface import Environment, TrainingError
from trimtab.robots import plugins
from trimtab.robots.layout import Reading
from trimtab.sim.interface import SimulationError, State

FIELDS = ("y", "u", "y_next", "reward", "terminated", "truncated", "valid")


def environment(name, repeat=2, decisions=5, simulator="mujoco", **changes):
    task = robots.load(name)
    period = repeat * task.robot.dt
    return Environment(task, simulator, period, decisions * period, RandomShooting(), **changes)


def decide(rng, collector):
    """Controls, some beyond the limits."""
    low, high = np.nan_to_num(collector.environment.task.robot.control_limits, posinf=1.0, neginf=-1.0)
    return rng.uniform(1.3 * low, 1.3 * high, (len(collector.y), len(low)))


def assert_same(one, other):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.finished == other.finished


class Replayed:
    """Decides what it is given, each for some control steps."""

    def __init__(self, controls, hold):
        self.controls, self.hold = controls, hold

    def reset(self, seed):
        self.step = -1

    def control(self, state):
        self.step += 1
        return self.controls[self.step // self.hold]


class Counter:
    """A plant of two readings: control steps since the seed, and the sum of the controls.

    It fails, and what it reports is not finite, as the sum tells it to.
    """

    def __init__(self, task):
        self.dt, self.y = task.robot.dt, np.zeros(2)

    def reset(self, seed, state=None):
        self.y = np.array([0.0, seed % 7.0]) if state is None else state.x.copy()
        return State(self.y[0] * self.dt, self.y.copy(), self.y.copy())

    def step(self, u):
        self.y = self.y + np.append(1.0, u)
        if self.y[1] >= 30.0:
            raise SimulationError("too much of it")
        y = self.y.copy()
        if self.y[1] <= -30.0:
            y[1] = np.inf
        return State(self.y[0] * self.dt, y, self.y.copy())

    def scene(self):
        return None

    def close(self):
        pass


@pytest.fixture
def counter(monkeypatch):
    find = plugins.find
    monkeypatch.setattr(plugins, "find", lambda group, name: Counter if name == "counter" else find(group, name))
    task = robots.load("pendulum-swingup")
    readings = (Reading("count", 1), Reading("sum", 1))
    robot = replace(task.robot, readings=readings, build=None, limits=np.array([[-40.0], [40.0]]), dt=0.1)
    return replace(
        task,
        robot=robot,
        score=lambda view, u: view.sum + 0.5 * u[..., 0] + np.where(view.count == 40.0, np.nan, 0.0),
        end=lambda view: (view.sum > 19.0) & (view.sum < 21.0),
        goal=lambda view: view.sum > 19.5,
    )


@pytest.mark.parametrize(
    ("name", "simulator", "repeat"),
    [
        ("cheetah-run", "mujoco", 2),
        ("cartpole-swingup", "mujoco", 3),
        ("reacher-easy", "mujoco", 2),
        ("humanoid-walk", "mujoco", 1),
        ("gymnasium:InvertedPendulum-v5", "gymnasium", 1),
    ],
)
@pytest.mark.parametrize("rate", [None, 3.0])
def test_gathers_what_the_loop_would(name, simulator, repeat, rate):
    env = environment(name, repeat, 20, simulator, safety=Safety(rate=rate))
    collector, rng = Collector(env, 3, 4), np.random.default_rng(0)
    seeds = [np.random.SeedSequence([4, 2, k]).generate_state(1)[0] for k in range(6)]
    asked, gathered, finished = [], [], []
    for _ in range(20):
        asked.append(decide(rng, collector))
        gathered.append(collector.step(asked[-1]))
        finished += gathered[-1].finished
    assert finished
    for copy in range(3):
        done = next(f for f in finished if f.copy == copy)
        assert done.number == copy + 1
        controls = [u[copy] for u in asked]
        plant = env.make()
        episode = loop.run(
            plant,
            Replayed(controls, repeat),
            task=env.task,
            duration=env.duration,
            seed=int(seeds[copy]),
            safety=env.safety,
        )
        plant.close()
        rows = -(-len(episode) // repeat)
        assert done.length == len(episode)
        assert done.success == episode.success
        assert done.return_ == pytest.approx(episode.return_, rel=1e-12, abs=1e-12)
        for k in range(rows):
            row = gathered[k]
            part = slice(k * repeat, min((k + 1) * repeat, len(episode)))
            np.testing.assert_array_equal(row.y[copy], episode.y[part.start])
            np.testing.assert_array_equal(row.y_next[copy], episode.y[part.stop])
            np.testing.assert_allclose(row.u[copy], episode.u[part].mean(axis=0), rtol=0, atol=1e-15)
            np.testing.assert_allclose(row.reward[copy], episode.reward[part].sum(), rtol=1e-14, atol=1e-15)
            assert row.valid[copy]
            assert row.terminated[copy] == (k == rows - 1 and episode.status == "terminated")
            assert row.truncated[copy] == (k == rows - 1 and episode.status == "done")
    assert collector.episodes == len(finished)
    collector.close()


class Plainly:
    """The same collector, a copy and a control step at a time."""

    def __init__(self, env, copies, seed):
        self.env, self.seed, self.begun, self.steps = env, seed, 0, 0
        self.longest = round(env.duration / env.period) * env.repeat
        self.plants = [env.make() for _ in range(copies)]
        self.at = [self.begin(plant) for plant in self.plants]

    def begin(self, plant):
        self.begun += 1
        seed = np.random.SeedSequence([self.seed, 2, self.begun - 1]).generate_state(1)[0]
        return {"y": plant.reset(int(seed)).y, "number": self.begun, "length": 0, "return": 0.0}

    def step(self, u):
        task, rows, finished = self.env.task, [], []
        for i, (plant, at) in enumerate(zip(self.plants, self.at)):
            v = np.clip(u[i], *task.robot.control_limits)
            before, reward, terminated, failed = at["y"], 0.0, False, ""
            for _ in range(self.env.repeat):
                try:
                    at["y"] = plant.step(v).y
                except SimulationError as error:
                    failed = str(error)
                    break
                at["length"] += 1
                self.steps += 1
                reward += float(task.reward(at["y"], v))
                terminated = bool(task.terminated(at["y"]))
                if terminated:
                    break
            at["return"] += reward
            over = bool(terminated or failed or at["length"] >= self.longest)
            row = (before, v, before, 0.0) if failed else (before, v, at["y"], reward)
            rows.append((*row, terminated, over and not terminated, not failed))
            if over:
                told = (bool(task.success(at["y"])), failed)
                finished.append((i, at["number"], at["return"], at["length"], *told))
        for i, *_ in finished:
            self.at[i] = self.begin(self.plants[i])
        return [np.array(column) for column in zip(*rows)], finished


@pytest.mark.parametrize("repeat", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_episodes_end_and_begin_as_they_would_one_at_a_time(counter, repeat, seed):
    env = Environment(counter, "counter", repeat * 0.1, 12 * repeat * 0.1, RandomShooting())
    collector, plainly, rng = Collector(env, 4, seed), Plainly(env, 4, seed), np.random.default_rng(seed)
    told = []
    for _ in range(60):
        u = rng.normal(3.0 / repeat, 6.0 / repeat, (4, 1))
        before = collector.y
        gathered = collector.step(u)
        assert gathered.y is before
        rows, finished = plainly.step(u)
        for name, column in zip(FIELDS, rows, strict=True):
            np.testing.assert_array_equal(getattr(gathered, name), column)
        given = [(f.copy, f.number, f.return_, f.length, f.success, f.failed) for f in gathered.finished]
        assert given == finished
        np.testing.assert_array_equal(collector.y, [at["y"] for at in plainly.at])
        assert collector.steps == plainly.steps
        of, decisions = collector.under_way()
        assert [*of] == [at["number"] for at in plainly.at]
        assert [*decisions] == [at["length"] // repeat for at in plainly.at]
        told += given
    assert collector.episodes == len(told)
    ends = {(bool(failed), length == 12 * repeat) for *_, length, _, failed in told}
    assert ends == {(False, False), (True, False), (False, True)}  # terminated, failed, cut off


@pytest.mark.parametrize(("simulator", "name"), [("mujoco", "reacher-easy"), ("counter", "")])
@pytest.mark.parametrize("rate", [None, 2.0])
def test_a_restored_collector_goes_on_to_the_last_bit(tmp_path, counter, simulator, name, rate):
    task = robots.load(name) if name else counter
    period = 2 * task.robot.dt
    env = Environment(task, simulator, period, 4 * period, RandomShooting(), Safety(rate=rate))
    collector, rng = Collector(env, 3, 1), np.random.default_rng(0)
    for _ in range(6):
        collector.step(decide(rng, collector) / 40.0)
    collector.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    other = Collector(env, 3, 1, threads=1)
    other.step(decide(rng, other) / 40.0)
    other.restore(tmp_path)
    for _ in range(7):
        u = decide(rng, collector) / 40.0
        assert_same(collector.step(u), other.step(u))
        np.testing.assert_array_equal(collector.y, other.y)
        assert (collector.steps, collector.episodes) == (other.steps, other.episodes)
    for one, two in zip(collector.state(), other.state(), strict=True):
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])


def test_the_seed_decides_where_episodes_begin():
    env = environment("reacher-easy")
    starts = [Collector(env, 2, seed).y for seed in (3, 3, 4)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
    assert not np.array_equal(starts[0][0], starts[0][1])


def test_what_is_not_finite_stops_it(counter):
    env = Environment(counter, "counter", 0.2, 10.0, RandomShooting())
    collector = Collector(env, 2, 0)
    for _ in range(19):
        collector.step(np.zeros((2, 1)))
    why = r"control step 40 of episode 1 \(copy 0\): not finite: reward"
    for _ in range(2):
        with pytest.raises(TrainingError, match=why):
            collector.step(np.zeros((2, 1)))
    with pytest.raises(TrainingError, match=why):
        collector.state()
    collector = Collector(env, 2, 0)
    with pytest.raises(TrainingError, match=r"control step 1 of episode 2 \(copy 1\): not finite: sum, reward"):
        collector.step(np.array([[0.0], [-39.0]]))
    collector = Collector(env, 2, 0)
    with pytest.raises(TrainingError, match=r"episode 2 \(copy 1\): the control \[nan\] is not finite"):
        collector.step(np.array([[0.0], [np.nan]]))


def test_what_comes_after_the_end_is_not_looked_at(counter):
    endless = replace(counter, score=lambda view, u: np.where(view.sum > 21.0, np.nan, 1.0))
    collector = Collector(Environment(endless, "counter", 0.2, 10.0, RandomShooting()), 1, 0)
    gathered = collector.step(20.0 - collector.y[:, 1:])  # the sum is then 20, where the task ends, and 34 or more
    assert gathered.terminated.all()
    assert gathered.reward == 1.0
    assert gathered.valid.all()
    assert gathered.finished[0].length == 1


def test_a_reward_may_be_the_same_everywhere(counter):
    task = replace(counter, score=lambda view, u: 0.5, end=lambda view: False)
    gathered = Collector(Environment(task, "counter", 0.2, 10.0, RandomShooting()), 3, 0).step(np.zeros((3, 1)))
    np.testing.assert_array_equal(gathered.reward, np.ones(3))
    assert not gathered.terminated.any()


def test_restoring_mends_a_collector_that_had_to_stop(tmp_path, counter):
    collector = Collector(Environment(counter, "counter", 0.2, 10.0, RandomShooting()), 2, 0)
    collector.save(tmp_path)
    with pytest.raises(TrainingError):
        collector.step(np.array([[0.0], [-39.0]]))
    collector.restore(tmp_path)
    expected = Collector(collector.environment, 2, 0).step(np.ones((2, 1)))
    assert_same(collector.step(np.ones((2, 1))), expected)


def test_plants_that_never_get_going_are_an_error(counter, monkeypatch):
    env = Environment(counter, "counter", 0.2, 1.0, RandomShooting())
    collector = Collector(env, 1, 0)
    with pytest.raises(TrainingError, match=r"control step 1 of episode 1.*before there was anything.*too much of it"):
        collector.step(np.array([[39.0]]))
    monkeypatch.setattr(Counter, "reset", lambda self, seed: Counter.nowhere())
    monkeypatch.setattr(Counter, "nowhere", nowhere, raising=False)
    with pytest.raises(TrainingError, match=r"episode 1 \(copy 0\) can not begin: nowhere to begin"):
        Collector(env, 1, 0)


def nowhere():
    raise SimulationError("nowhere to begin")


def test_files_cut_short_damaged_or_of_others_are_refused(tmp_path):
    env = environment("cartpole-swingup")
    collector, rng = Collector(env, 2, 0), np.random.default_rng(0)
    collector.save(tmp_path)
    file = tmp_path / FILE
    whole = file.read_bytes()
    collector.step(decide(rng, collector))
    before = collector.state()

    def refused(told):
        with pytest.raises(ValueError, match=told):
            collector.restore(tmp_path)
        for one, two in zip(collector.state(), before, strict=True):
            for key in one:
                np.testing.assert_array_equal(one[key], two[key])

    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:size])
        refused("holds no collector's state, or not the whole of one")
    for other, told in (
        (Collector(env, 3, 0), "another copies: 3; expected: 2"),
        (Collector(env, 2, 1), "another seed: 1; expected: 0"),
        (Collector(environment("cartpole-swingup", repeat=4), 2, 0), "another repeat: 4; expected: 2"),
        (Collector(environment("cartpole-balance"), 2, 0), "another task: cartpole-balance; expected: cartpole-sw"),
        (Collector(environment("cartpole-swingup", simulator="casadi"), 2, 0), "another simulator: casadi"),
    ):
        other.save(tmp_path)
        refused(told)
    collector.save(tmp_path)
    with np.load(file) as content:
        arrays = dict(content)
    for name, value, told in (
        ("x1", arrays["x1"][:-1], "states that these plants can not be at"),
        ("y", arrays["y"][:, :-1], "y of shape"),
        ("meta", np.array(json.dumps(json.loads(str(arrays["meta"])) | {"format": 0})), "another format"),
        ("meta", np.array("[]"), "holds no collector's state"),
    ):
        np.savez(file, **{**arrays, name: value})
        refused(told)
    with pytest.raises(FileNotFoundError):
        collector.restore(tmp_path / "nowhere")


def test_bad_questions():
    env = environment("cartpole-swingup")
    with pytest.raises(ValueError, match="0 copies; there can be 1 to 256"):
        Collector(env, 0, 0)
    with pytest.raises(ValueError, match="beyond their limits are clipped"):
        Collector(replace(env, safety=Safety(fallbacks={"limits": "hold"})), 1, 0)
    with pytest.raises(ValueError, match=r"shape \(1,\); these copies take \(1, 1\)"):
        Collector(env, 1, 0).step(np.zeros(1))
    with pytest.raises(ValueError, match="dm_control"):
        Collector(replace(env, simulator="dm_controll"), 1, 0)
