"""The replay store as a Minari data set and back, and data sets that others recorded."""

import json
import os
import subprocess
import sys
import types

import gymnasium
import minari
import numpy as np
import pytest
import tree
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from trimtab import robots, sim
from trimtab.controllers import loop
from trimtab.learners import minari_data
from trimtab.learners.minari_data import export_minari, import_minari
from trimtab.learners.replay import Replay, Signature
from trimtab.robots import Reading, Robot, UnknownName

FIELDS = ("y", "u", "y_next", "reward", "terminated", "truncated")
BLOCK = Robot(
    name="block",
    build=None,
    readings=(Reading("position", 2), Reading("velocity", 1)),
    dt=0.125,
    limits=np.array([[-1.0, -np.inf], [1.0, np.inf]]),
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")  # of authors that are not told


@pytest.fixture(autouse=True)
def local(tmp_path, monkeypatch):
    """Minari's local folder, and nothing to ask outside it."""
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    monkeypatch.setattr(minari, "download_dataset", lambda *_: pytest.fail("a download that nobody asked for"))
    return folder


def segment(length, end, rng):
    """Columns of `length` steps that follow each other; `end` is that of the last."""
    y = rng.normal(size=(length + 1, 3))
    last = np.arange(length) == length - 1
    u, reward = rng.normal(size=(length, 2)), rng.normal(size=length)
    return y[:-1], u, y[1:], reward, last & ("t" in end), last & ("c" in end)


def filled(segments, seed=0, capacity=None):
    rng, store = np.random.default_rng(seed), Replay(BLOCK, capacity)
    for length, end in segments:
        store.end()
        store.extend(*segment(length, end, rng))
    return store


def assert_same(one, other):
    assert one.signature == other.signature
    ours, theirs = list(one.segments()), list(other.segments())
    assert [len(rows) for rows in ours] == [len(rows) for rows in theirs]
    for a, b in zip(ours, theirs):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype


def buffer(observations, actions, rewards=None, terminations=None, truncations=None):
    count = len(actions)
    return EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=np.arange(float(count)) if rewards is None else rewards,
        terminations=np.zeros(count, bool) if terminations is None else terminations,
        truncations=np.arange(count) == count - 1 if truncations is None else truncations,
        infos={},
    )


def foreign(name, episodes, observation_space, action_space, env=None):
    return minari.create_dataset_from_buffers(
        name, episodes, env=env, observation_space=observation_space, action_space=action_space
    )


def box(*shape, limit=np.inf):
    return spaces.Box(-limit, limit, shape, np.float64)


def collect(monkeypatch, env, name, actions, seed=0):
    """Steps `env` under Minari's collector; returns its observations, rewards and terminations, episode by episode.

    The collector appends to nested lists by jax's `tree_map`, which dm-tree's `map_structure_up_to` is as well.
    """
    stand_in = types.ModuleType("jax.tree_util")
    stand_in.tree_map = lambda f, first, *rest: tree.map_structure_up_to(first, f, first, *rest)
    package = types.ModuleType("jax")
    package.tree_util = stand_in
    episodes = []
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jax", package)
        patch.setitem(sys.modules, "jax.tree_util", stand_in)
        collector = minari.DataCollector(env)
        ended = True
        for action in actions:
            if ended:
                observation, _ = collector.reset(seed=seed + len(episodes))
                episodes.append([(observation, 0.0, False)])
            observation, reward, terminated, truncated, _ = collector.step(action)
            episodes[-1].append((observation, reward, terminated))
            ended = terminated or truncated
        collector.create_dataset(name)
        collector.close()
    return episodes


def test_a_data_set_is_on_the_disk_before_it_has_its_name(monkeypatch):
    told = []
    monkeypatch.setattr(minari_data, "tree_to_disk", lambda folder: told.append((folder, sorted(folder.rglob("*")))))
    monkeypatch.setattr(minari_data, "names_to_disk", lambda folder: told.append((folder, sorted(folder.iterdir()))))
    target = export_minari(filled([(4, "t")]), "block/disk-v0", BLOCK)
    (whole, there), (parent, names) = told
    assert not whole.exists()
    assert [path.relative_to(whole) for path in there] == sorted(path.relative_to(target) for path in target.rglob("*"))
    assert parent == target.parent
    assert target in names


ends = st.sampled_from(["t", "c", "tc", ""])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), ends), max_size=6), st.one_of(st.none(), st.integers(1, 12)))
def test_round_trip(tmp_path_factory, segments, capacity):
    folder = tmp_path_factory.mktemp("round_trip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        store = filled(segments, capacity=capacity)
        export_minari(store, "block/random-v0", BLOCK)
        back, rejected = import_minari("block/random-v0", BLOCK)
    assert_same(back, store)
    assert rejected == []


def test_segments_that_fit_each_other_stay_apart():
    store, rng = Replay(BLOCK), np.random.default_rng(0)
    columns = segment(6, "", rng)
    for part in (slice(0, 4), slice(4, 6)):
        store.end()
        store.extend(*(column[part] for column in columns))
    export_minari(store, "block-v0", BLOCK)
    back, _ = import_minari("block-v0", BLOCK)
    assert [len(rows) for rows in back.segments()] == [4, 2]
    assert not back.all().truncated.any()


def test_minari_reads_what_was_exported(local):
    store = filled([(4, "t"), (3, ""), (2, "c")])
    folder = export_minari(store, "toys/block-v2", BLOCK, author="A. Author", description="pushed about")
    assert folder == local / "toys" / "block-v2"
    data = minari.load_dataset("toys/block-v2")
    assert (data.total_episodes, data.total_steps) == (3, 9)
    assert data.observation_space == box(3)
    assert data.action_space == spaces.Box(np.array([-1.0, -np.inf]), np.array([1.0, np.inf]), dtype=np.float64)
    for episode, rows in zip(data.iterate_episodes(), store.segments()):
        np.testing.assert_array_equal(episode.observations[:-1], rows.y)
        np.testing.assert_array_equal(episode.observations[1:], rows.y_next)
        np.testing.assert_array_equal(episode.actions, rows.u)
        np.testing.assert_array_equal(episode.rewards, rows.reward)
        np.testing.assert_array_equal(episode.terminations, rows.terminated)
        assert "episode" in repr(episode).lower()
    # For Minari's readers each episode has an end.
    assert [bool(e.truncations[-1]) for e in data.iterate_episodes()] == [False, True, True]
    listed = minari.list_local_datasets()
    assert list(listed) == ["toys/block-v2"]
    assert (listed["toys/block-v2"]["author"], listed["toys/block-v2"]["description"]) == (
        ["A. Author"],
        "pushed about",
    )
    assert listed["toys/block-v2"]["trimtab"]["signature"] == store.signature.to_json()
    assert minari.namespace.list_local_namespaces() == ["toys"]


def test_imports_by_path(tmp_path):
    store = filled([(4, "t"), (3, "c")])
    elsewhere = tmp_path / "elsewhere"
    export_minari(store, "block-v0", BLOCK).rename(elsewhere)
    for where in (elsewhere, str(elsewhere), elsewhere / "data"):
        assert_same(import_minari(where, BLOCK)[0], store)


def test_keeps_the_newest_within_the_capacity():
    export_minari(filled([(4, "t"), (5, "c")]), "block-v0", BLOCK)
    store, _ = import_minari("block-v0", BLOCK, capacity=6)
    assert (len(store), store.first) == (6, 3)


def test_an_imported_store_goes_on_with_a_new_segment():
    store = filled([(4, "")])
    export_minari(store, "block-v0", BLOCK)
    back, _ = import_minari("block-v0", BLOCK)
    back.append(back.all().y_next[-1], np.zeros(2), 0.0, np.zeros(3))
    assert [len(rows) for rows in back.segments()] == [4, 1]


def test_an_existing_data_set_is_not_overwritten():
    store = filled([(4, "t")])
    export_minari(store, "block-v1", BLOCK)
    with pytest.raises(ValueError, match=r"block-v1 already.*not overwritten.*block-v2"):
        export_minari(filled([(9, "t")]), "block-v1", BLOCK)
    assert_same(import_minari("block-v1", BLOCK)[0], store)


@pytest.mark.parametrize("name", ["block", "block v0", "../block-v0", "", "/block-v0"])
def test_malformed_names(name):
    with pytest.raises(ValueError, match=r"NAME-vVERSION|already"):
        export_minari(filled([(4, "t")]), name, BLOCK)


def test_an_interrupted_export_leaves_nothing(local, monkeypatch):
    store = filled([(4, "t"), (3, "c"), (5, "")])
    segments = store.segments()

    def interrupted():
        yield next(segments)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "segments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_minari(store, "toys/block-v0", BLOCK)
    assert list(local.rglob("*")) == []


def test_an_export_of_another_robots_store():
    with pytest.raises(ValueError, match="the replay store is of another robot: block; expected: pendulum"):
        export_minari(filled([(4, "t")]), "block-v0", robots.load("pendulum-swingup"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Signature("brick", ("position[0]", "position[1]", "velocity"), ("u0", "u1"), 0.125),
            "robot: block; expected: brick",
        ),
        (Signature("block", ("position[0]", "position[1]", "speed"), ("u0", "u1"), 0.125), "with other readings"),
        (Signature("block", ("position[0]", "position[1]", "velocity"), ("u0", "u2"), 0.125), "with other controls"),
        (Signature("block", ("position[0]", "position[1]", "velocity"), ("u0", "u1"), 0.25), "control period: 0.125 s"),
    ],
)
def test_data_of_another_robot_are_refused(other, message, monkeypatch):
    export_minari(filled([(4, "t")]), "block-v0", BLOCK)
    monkeypatch.setattr(Signature, "of", lambda robot: other)
    with pytest.raises(ValueError, match=f"the data set block-v0 is of another.*{message}"):
        import_minari("block-v0", BLOCK)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (box(4), box(2), r"observations that are a Box of shape \(4,\); expected: a Box of shape \(3,\)"),
        (box(3, 1), box(2), r"observations that are a Box of shape \(3, 1\)"),
        (
            spaces.Dict(goal=box(1), body=box(2)),
            box(2),
            r"observations that are a Dict of body \(a Box of shape \(2,\)\), goal \(a Box of shape \(1,\)\);",
        ),
        (box(3), box(3), r"actions that are a Box of shape \(3,\); expected: a Box of shape \(2,\)"),
        (box(3), spaces.Discrete(5), r"actions that are Discrete\(5\)"),
        (box(3), box(2, limit=2.0), r"actions from \[-2.0, -2.0\] to \[2.0, 2.0\]; expected: from \[-1.0, -inf\]"),
    ],
)
def test_data_of_other_kinds_or_shapes_are_refused(observations, actions, message):
    rng = np.random.default_rng(0)
    observed = (
        {k: rng.normal(size=(4, *s.shape)) for k, s in observations.items()}
        if isinstance(observations, spaces.Dict)
        else rng.normal(size=(4, *observations.shape))
    )
    acted = np.zeros((3, *actions.shape), int if isinstance(actions, spaces.Discrete) else float)
    foreign("odd-v0", [buffer(observed, acted)], observations, actions)
    with pytest.raises(ValueError, match=f"the data set odd-v0 has {message}"):
        import_minari("odd-v0", BLOCK)


def test_data_without_a_signature_count_if_they_fit():
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(5, 3)), rng.normal(size=(4, 2))
    foreign("plain-v0", [buffer(y, u)], box(3), box(2))
    store, rejected = import_minari("plain-v0", BLOCK)
    rows = store.all()
    np.testing.assert_array_equal(rows.y, y[:-1])
    np.testing.assert_array_equal(rows.y_next, y[1:])
    np.testing.assert_array_equal(rows.u, u)
    assert rows.truncated.tolist() == [False, False, False, True]
    assert rejected == []


def test_steps_that_are_not_finite_are_named():
    rng = np.random.default_rng(0)
    episodes = [buffer(rng.normal(size=(6, 3)), rng.normal(size=(5, 2))) for _ in range(3)]
    episodes[1].observations[2, 1] = np.nan
    episodes[2].rewards[0] = np.inf
    foreign("holes-v0", episodes, box(3), box(2))
    store, rejected = import_minari("holes-v0", BLOCK)
    assert [str(r) for r in rejected] == [
        "episode 1, step 1: not finite: next position[1]",
        "episode 1, step 2: not finite: position[1]",
        "episode 2, step 0: not finite: reward",
    ]
    assert [len(rows) for rows in store.segments()] == [5, 1, 2, 4]
    assert store.rejected == {"position[1]": 1, "next position[1]": 1, "reward": 1}


def test_an_episode_of_other_lengths_is_refused():
    good = buffer(np.zeros((5, 3)), np.zeros((4, 2)))
    foreign("short-v0", [good, buffer(np.zeros((4, 3)), np.zeros((4, 2)))], box(3), box(2))
    with pytest.raises(ValueError, match=r"short-v0, episode 1: observations make up an array \(4, 3\), not \(5, 3\)"):
        import_minari("short-v0", BLOCK)


def test_an_unknown_data_set():
    with pytest.raises(UnknownName, match=r"unknown Minari data set 'block-v0'. Known: none"):
        import_minari("block-v0", BLOCK)
    for name in ("toys/block-v0", "other-v3"):
        export_minari(filled([(4, "t")]), name, BLOCK)
    with pytest.raises(UnknownName, match=r"did you mean 'toys/block-v0'.*Known: other-v3, toys/block-v0"):
        import_minari("toys/blok-v0", BLOCK)


def test_a_folder_without_a_data_set(tmp_path):
    with pytest.raises(ValueError, match="not the folder of a Minari data set"):
        import_minari(tmp_path, BLOCK)


def test_downloads_when_asked_to(monkeypatch):
    store = filled([(4, "t")])
    monkeypatch.setattr(minari, "download_dataset", lambda name: export_minari(store, name, BLOCK))
    with pytest.raises(UnknownName):
        import_minari("block-v0", BLOCK)
    assert_same(import_minari("block-v0", BLOCK, download=True)[0], store)
    monkeypatch.setattr(minari, "download_dataset", lambda name: pytest.fail("it is there"))
    assert_same(import_minari("block-v0", BLOCK, download=True)[0], store)


def cut_short(folder):
    path = folder / "main_data.hdf5"
    os.truncate(path, path.stat().st_size // 2)


def without_an_episode(folder):
    rewrite(folder, total_episodes=9)


def rewrite(folder, **entries):
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "can not be read as a Minari data set"),
        (without_an_episode, "can not be read as a Minari data set: KeyError"),
        (lambda folder: (folder / "metadata.json").write_text("{"), "can not be read as a Minari data set: JSON"),
        (lambda folder: rewrite(folder, minari_version="0.0.1"), "can not be read.*0.0.1"),
        (lambda folder: rewrite(folder, trimtab={"format": 99}), "another format than 1"),
        (lambda folder: rewrite(folder, trimtab={"format": 1, "signature": {}, "unended": []}), "whose data"),
    ],
)
def test_damaged_data_sets(damage, message):
    damage(export_minari(filled([(4, "t"), (300, "c")]), "block-v0", BLOCK) / "data")
    with pytest.raises(ValueError, match=message):
        import_minari("block-v0", BLOCK)


class Push:
    """Controls drawn at random."""

    def __init__(self, task, size=1.0):
        self.task, self.size = task, size

    def reset(self, seed):
        self.rng = np.random.default_rng(seed)

    def control(self, state):
        low, high = self.task.robot.control_limits
        return self.size * self.rng.uniform(low, high)


def test_a_run_of_the_pendulum():
    task = robots.load("pendulum-swingup")
    store = Replay(task.robot)
    for seed in range(2):
        store.add_episode(
            loop.run(sim.make("mujoco", task), Push(task), task=task, duration=10 * task.robot.dt, seed=seed)
        )
    export_minari(store, "pendulum/random-v0", task)
    back, rejected = import_minari("pendulum/random-v0", task)
    assert_same(back, store)
    assert rejected == []
    # The environment that Minari recovers is the task's: it scores what the store says it scores.
    env = minari.load_dataset("pendulum/random-v0").recover_environment()
    assert env.unwrapped.task.name == task.name
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.zeros(1, np.float32))
    assert reward == float(task.reward(observation, np.zeros(1)))
    env.close()


def test_a_run_of_gymnasiums_own(monkeypatch):
    task = robots.load("gymnasium:InvertedPendulum-v5")
    store = Replay(task.robot)
    episode = loop.run(sim.make("gymnasium", task), Push(task), task=task, duration=2.0, seed=0)
    store.add_episode(episode)
    assert episode.status == "terminated"
    export_minari(store, "inverted-v0", task)
    assert_same(import_minari("inverted-v0", task)[0], store)
    env = minari.load_dataset("inverted-v0").recover_environment()
    assert env.observation_space.shape == (task.robot.layout.size,)
    env.close()


def test_a_recording_of_our_environment_tells_its_robot(monkeypatch):
    env = gymnasium.make("trimtab.sim.gymnasium_env:trimtab/pendulum-swingup-v0")
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 1)).astype(np.float32)
    (episode,) = collect(monkeypatch, env, "recorded-v0", actions)
    store, _ = import_minari("recorded-v0", robots.load("pendulum-swingup").robot)
    rows = store.all()
    np.testing.assert_array_equal(np.vstack([rows.y, rows.y_next[-1:]]), [y for y, _, _ in episode])
    np.testing.assert_array_equal(rows.u, actions)
    with pytest.raises(ValueError, match="recorded-v0 is of another robot: pendulum; expected: acrobot"):
        import_minari("recorded-v0", robots.load("acrobot-swingup"))


@pytest.mark.parametrize("name", ["Pendulum-v1", "InvertedPendulum-v5", "CartPole-v1"])
def test_a_recording_of_gymnasiums_environment(name, monkeypatch):
    task = robots.load(f"gymnasium:{name}")
    env = gymnasium.make(name, max_episode_steps=12)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(40)]
    episodes = collect(monkeypatch, env, "recorded-v0", actions)
    store, rejected = import_minari("recorded-v0", task)
    assert rejected == []
    segments = list(store.segments())
    assert [len(rows) for rows in segments] == [len(episode) - 1 for episode in episodes]
    for rows, episode in zip(segments, episodes):
        observed, reward, terminated = (np.array(column) for column in zip(*episode))
        readings = np.column_stack([observed, reward, terminated])
        np.testing.assert_array_equal(rows.y, readings[:-1])
        np.testing.assert_array_equal(rows.y_next, readings[1:])
        np.testing.assert_array_equal(rows.reward, task.reward(rows.y_next, rows.u))
        np.testing.assert_array_equal(rows.terminated, task.terminated(rows.y_next))
    np.testing.assert_array_equal(store.all().u, np.reshape(actions, (40, 1)))


def test_a_recording_is_what_our_simulator_reports(monkeypatch):
    task = robots.load("gymnasium:InvertedPendulum-v5")
    actions = np.random.default_rng(0).uniform(-3, 3, (8, 1)).astype(np.float32)
    collect(monkeypatch, gymnasium.make("InvertedPendulum-v5"), "recorded-v0", actions, seed=3)
    store, _ = import_minari("recorded-v0", task)
    simulator = sim.make("gymnasium", task)
    state = simulator.reset(3)
    for rows in store.segments():
        for y, u, y_next in zip(rows.y, rows.u, rows.y_next):
            np.testing.assert_array_equal(state.y, y)
            state = simulator.step(u)
            np.testing.assert_array_equal(state.y, y_next)
        break
    simulator.close()


class Nested(gymnasium.Env):
    """Observes a dictionary, in an order that is not the alphabet's, of a place, a choice and a pair."""

    observation_space = spaces.Dict(
        [
            ("place", box(2, 2)),
            ("choice", spaces.Discrete(3)),
            ("a pair", spaces.Tuple([box(1), spaces.MultiBinary(2)])),
        ]
    )
    action_space = spaces.MultiDiscrete([3, 4], start=[1, 0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(action.sum()), bool(action[0] == 3), False, {}


@pytest.fixture
def nested():
    gymnasium.register("Nested-v0", f"{__name__}:Nested")
    yield "Nested-v0"
    del gymnasium.registry["Nested-v0"]


def test_nested_observations_are_flattened_as_gymnasium_does(nested, monkeypatch):
    task = robots.load(f"gymnasium:{nested}")
    env = gymnasium.make(nested)
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(9)]
    episodes = collect(monkeypatch, env, "nested-v0", actions)
    store, _ = import_minari("nested-v0", task)
    assert len(store) == 9
    assert len(episodes) > 1
    flat = [
        [np.append(spaces.flatten(env.observation_space, o), [reward, terminated]) for o, reward, terminated in episode]
        for episode in episodes
    ]
    np.testing.assert_array_equal(store.all().y, np.concatenate([y[:-1] for y in flat]))
    np.testing.assert_array_equal(store.all().y_next, np.concatenate([y[1:] for y in flat]))
    np.testing.assert_array_equal(store.all().u, actions)


def test_recordings_of_other_environments_are_refused(nested, monkeypatch):
    collect(monkeypatch, gymnasium.make("Pendulum-v1"), "recorded-v0", np.zeros((3, 1), np.float32))
    for task, message in [
        ("gymnasium:InvertedPendulum-v5", "another environment: Pendulum-v1; expected: InvertedPendulum-v5"),
        (f"gymnasium:{nested}", "another environment: Pendulum-v1; expected: Nested-v0"),
        ("pendulum-swingup", "another robot: Gymnasium's Pendulum-v1; expected: pendulum"),
    ]:
        with pytest.raises(ValueError, match=f"the data set recorded-v0 is of {message}"):
            import_minari("recorded-v0", robots.load(task))


def test_observations_with_other_keys_are_refused(nested):
    parts = {**Nested.observation_space.spaces, "more": box(1)}
    observed = {"place": np.zeros((4, 2, 2)), "choice": np.zeros(4, int), "more": np.zeros((4, 1))}
    observed["a pair"] = (np.zeros((4, 1)), np.zeros((4, 2), np.int8))
    episode = buffer(observed, np.ones((3, 2), int))
    foreign("more-v0", [episode], spaces.Dict(parts), Nested.action_space)
    with pytest.raises(
        ValueError, match=r"more-v0 has observations that are a Dict of .*more \(a Box of shape \(1,\)\)"
    ):
        import_minari("more-v0", robots.load(f"gymnasium:{nested}"))


@pytest.mark.parametrize(
    ("name", "observations", "actions", "message"),
    [
        (
            "Pendulum-v1",
            box(5),
            box(1),
            r"observations that are a Box of shape \(5,\); expected: a Box of shape \(3,\)",
        ),
        ("Pendulum-v1", box(3), box(1, limit=1.0), r"actions from \[-1.0\] to \[1.0\]; expected: from \[-2.0\]"),
        ("Pendulum-v1", box(3), spaces.Discrete(3), r"actions that are Discrete\(3\); expected: a Box of shape \(1,\)"),
        ("CartPole-v1", box(4), spaces.Discrete(3), r"actions that are Discrete\(3\); expected: Discrete\(2\)"),
    ],
)
def test_what_does_not_fit_the_environment_is_refused(name, observations, actions, message):
    acted = np.zeros((3, *actions.shape), int if isinstance(actions, spaces.Discrete) else float)
    foreign("odd-v0", [buffer(np.zeros((4, *observations.shape)), acted)], observations, actions)
    with pytest.raises(ValueError, match=f"the data set odd-v0 has {message}"):
        import_minari("odd-v0", robots.load(f"gymnasium:{name}"))


def test_minari_is_not_needed_before_it_is_used():
    code = (
        "import sys; sys.modules['minari'] = None; import trimtab.learners.minari_data as d\n"
        "try: d.import_minari('block-v0', None)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'trimtab[data]'" in done.stdout
