"""The replay store against a plain list of rows, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab import robots, sim
from trimtab.controllers import loop
from trimtab.learners.replay import Replay, Signature

SIGNATURE = Signature("block", ("position", "velocity"), ("push",), 0.125)
FIELDS = ("y", "u", "y_next", "reward", "terminated", "truncated")


class Plain:
    """The same store as a list of rows, each with its segment's number."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.rows = []
        self.segment = 0
        self.last = None  # the readings that an open segment led to

    def append(self, y, u, y_next, reward, terminated, truncated):
        if not all(np.isfinite(value).all() for value in (y, u, y_next, reward)):
            self.last = None
            return
        if self.last is None or not np.array_equal(self.last, y):
            self.segment += 1
        self.rows.append((self.segment, (y, u, y_next, reward, terminated, truncated)))
        self.last = None if terminated or truncated else y_next
        if self.capacity is not None:
            self.rows = self.rows[-self.capacity :]

    def sequences(self, length):
        """The positions at which sequences begin that stay within a segment."""
        starts = range(len(self.rows) - length + 1)
        return [k for k in starts if self.rows[k][0] == self.rows[k + length - 1][0]]


def walk(kinds, rng):
    """Steps of the kinds given: `.` goes on, `x` is not finite, `t` terminates, `c` is cut off, `j` jumps."""
    y, steps = rng.normal(size=2), []
    for kind in kinds:
        if kind == "j":
            y = rng.normal(size=2)
        y_next, u, reward = rng.normal(size=2), rng.normal(size=1), rng.normal()
        if kind == "x":
            reward = np.nan
        steps.append((y, u, y_next, reward, kind == "t", kind == "c"))
        y = y_next
    return steps


def stacked(steps):
    return [np.array(column) for column in zip(*steps)] if steps else [np.empty((0, n)) for n in (2, 1, 2)] + [[]] * 3


runs = st.lists(st.text(alphabet="....xtcj", max_size=12), max_size=6)
capacities = st.one_of(st.none(), st.integers(1, 20))


def assert_same(store, plain):
    assert len(store) == len(plain.rows)
    everything = store.all()
    for name, column in zip(FIELDS, zip(*(row for _, row in plain.rows))):
        np.testing.assert_array_equal(getattr(everything, name), np.array(column))
    lengths = [len(segment) for segment in store.segments()]
    numbers = [segment for segment, _ in plain.rows]
    assert lengths == [numbers.count(n) for n in sorted(set(numbers))]


@settings(max_examples=60, deadline=None)
@given(runs, capacities, st.integers(0, 99))
def test_stores_what_a_list_would(batches, capacity, seed):
    rng = np.random.default_rng(seed)
    together, single, plain = Replay(SIGNATURE, capacity), Replay(SIGNATURE, capacity), Plain(capacity)
    for kinds in batches:
        steps = walk(kinds, rng)
        rejected = together.extend(*stacked(steps))
        assert [r.index for r in rejected] == [k for k, kind in enumerate(kinds) if kind == "x"]
        for y, u, y_next, reward, terminated, truncated in steps:
            single.append(y, u, reward, y_next, terminated=terminated, truncated=truncated)
            plain.append(y, u, y_next, reward, terminated, truncated)
    assert_same(together, plain)
    assert_same(single, plain)
    assert together.rejected == single.rejected == ({"reward": n} if (n := "".join(batches).count("x")) else {})


@settings(max_examples=60, deadline=None)
@given(runs, capacities, st.integers(1, 5), st.integers(0, 99))
def test_sequences_stay_within_an_episode(batches, capacity, length, seed):
    rng = np.random.default_rng(seed)
    store, plain = Replay(SIGNATURE, capacity), Plain(capacity)
    for kinds in batches:
        for y, u, y_next, reward, terminated, truncated in walk(kinds, rng):
            store.append(y, u, reward, y_next, terminated=terminated, truncated=truncated)
            plain.append(y, u, y_next, reward, terminated, truncated)
    possible = {plain.rows[k][1][3]: k for k in plain.sequences(length)}  # by the first reward, which is unique
    if not possible:
        with pytest.raises(ValueError, match=f"no sequence of {length} rows is stored" if len(store) else "empty"):
            store.sample_sequences(3, length, rng)
        return
    drawn = store.sample_sequences(40, length, rng)
    assert drawn.y.shape == (40, length, 2)
    assert drawn.reward.shape == (40, length)
    np.testing.assert_array_equal(drawn.y[:, 1:], drawn.y_next[:, :-1])
    assert not drawn.terminated[:, :-1].any()
    assert not drawn.truncated[:, :-1].any()
    for k in range(40):
        start = possible[drawn.reward[k, 0]]
        np.testing.assert_array_equal(drawn.reward[k], [row[3] for _, row in plain.rows[start : start + length]])


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="....xtcj", min_size=1, max_size=40), capacities, st.text(alphabet="..xtcj", max_size=9))
def test_a_saved_store_goes_on_as_the_one_that_was_not(tmp_path_factory, kinds, capacity, more):
    path = tmp_path_factory.mktemp("replay") / "replay.npz"
    rng = np.random.default_rng(0)
    store = Replay(SIGNATURE, capacity)
    steps = walk(kinds + more, rng)
    store.extend(*stacked(steps[: len(kinds)]))
    store.save(path)
    loaded = Replay.load(path, SIGNATURE)
    for one in (store, loaded):
        one.extend(*stacked(steps[len(kinds) :]))
    assert (loaded.first, loaded.capacity, loaded.rejected) == (store.first, store.capacity, store.rejected)
    assert [len(s) for s in loaded.segments()] == [len(s) for s in store.segments()]
    if len(store):
        one, other = (s.sample(16, np.random.default_rng(1)) for s in (store, loaded))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [p.name for p in path.parent.iterdir()] == ["replay.npz"]


def test_draws_are_uniform():
    store = Replay(SIGNATURE)
    store.extend(*stacked(walk("...t...c.t", np.random.default_rng(0))))
    everything = store.all().reward
    drawn = store.sample(30_000, np.random.default_rng(1)).reward
    counts = np.array([np.count_nonzero(drawn == reward) for reward in everything])
    assert abs(counts / 3000 - 1).max() < 0.1  # five standard deviations
    ends = store.sample_sequences(30_000, 3, np.random.default_rng(2)).reward[:, -1]
    counts = np.array([np.count_nonzero(ends == reward) for reward in everything])
    np.testing.assert_array_equal(counts > 0, [0, 0, 1, 1, 0, 0, 1, 1, 0, 0])
    assert abs(counts[counts > 0] / 7500 - 1).max() < 0.1


def test_few_long_sequences_among_many_short_ones_are_drawn_evenly():
    store = Replay(SIGNATURE)
    store.extend(*stacked(walk("t" * 3000 + "......t", np.random.default_rng(0))))
    ends = store.sample_sequences(2000, 6, np.random.default_rng(2)).reward[:, -1]
    values, counts = np.unique(ends, return_counts=True)
    np.testing.assert_array_equal(values, np.sort(store.all().reward[-2:]))
    assert abs(counts - 1000).max() < 120


def test_rejected_steps_are_named():
    store = Replay(SIGNATURE)
    steps = stacked(walk(".....", np.random.default_rng(0)))
    steps[0][1, 1], steps[2][1, 0], steps[1][3, 0] = np.nan, np.inf, -np.inf
    rejections = store.extend(*steps)
    assert [str(r) for r in rejections] == [
        "step 1: not finite: velocity, next position",
        "step 3: not finite: push",
    ]
    assert store.rejected == {"velocity": 1, "next position": 1, "push": 1}
    assert [len(segment) for segment in store.segments()] == [1, 1, 1]


@pytest.mark.parametrize("field", range(6))
def test_shapes_are_checked_and_nothing_is_stored(field):
    store = Replay(SIGNATURE)
    steps = stacked(walk("...", np.random.default_rng(0)))
    steps[field] = np.concatenate([steps[field], steps[field]], axis=-1)
    with pytest.raises(ValueError, match=rf"{FIELDS[field]} has shape"):
        store.extend(*steps)
    assert len(store) == 0


def test_an_episode_ends_as_the_run_did():
    task = robots.load("pendulum-swingup")

    class Still:
        def reset(self, seed):
            pass

        def control(self, state):
            return np.zeros(1)

    store = Replay(task.robot)
    episode = loop.run(sim.make("mujoco", task), Still(), task=task, duration=0.2, seed=1)
    store.add_episode(episode)
    store.add_episode(replace(episode, status="terminated"))
    one, other = store.segments()
    np.testing.assert_array_equal(one.y, episode.y[:-1])
    np.testing.assert_array_equal(one.y_next, episode.y[1:])
    np.testing.assert_array_equal(one.reward, episode.reward)
    assert not one.terminated.any()
    assert not other.truncated.any()
    np.testing.assert_array_equal(one.truncated, np.arange(10) == 9)
    np.testing.assert_array_equal(other.terminated, np.arange(10) == 9)


def test_growing_takes_few_copies(monkeypatch):
    store, copies = Replay(SIGNATURE), []
    monkeypatch.setattr(store, "_allocate", lambda size, f=store._allocate: (copies.append(size), f(size))[1])
    for _ in range(1000):
        store.extend(*stacked(walk("..........", np.random.default_rng(0))))
    assert len(store) == 10_000
    assert len(copies) <= np.log2(10_000)


@pytest.fixture
def saved(tmp_path):
    store = Replay(SIGNATURE)
    store.extend(*stacked(walk("....t..c", np.random.default_rng(0))))
    store.save(tmp_path / "replay.npz")
    return tmp_path / "replay.npz"


def test_a_file_cut_short_is_refused(saved):
    whole = saved.read_bytes()
    for size in (0, 10, len(whole) // 3, len(whole) // 2, len(whole) - 10):
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"replay\.npz holds no replay store, or not the whole of one"):
            Replay.load(saved)


def test_a_damaged_file_is_refused(saved):
    whole = bytearray(saved.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    saved.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="holds no replay store"):
        Replay.load(saved)


def test_rows_that_do_not_fit_are_refused(saved):
    with np.load(saved) as content:
        arrays = dict(content)
    np.savez(saved, **{**arrays, "u": arrays["u"][:-1]})
    with pytest.raises(ValueError, match=r"holds u of shape \(7, 1\), not \(8, 1\)"):
        Replay.load(saved)
    meta = json.loads(str(arrays["meta"])) | {"format": 0}
    np.savez(saved, **{**arrays, "meta": np.array(json.dumps(meta))})
    with pytest.raises(ValueError, match="another format"):
        Replay.load(saved)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"robot": "brick"}, "another robot: block; expected: brick"),
        ({"readings": ("position", "speed")}, "with other readings: position, velocity; expected: position, speed"),
        ({"controls": ()}, "with other controls: push; expected: none"),
        ({"dt": 0.1}, r"another control period: 0\.125 s; expected: 0\.1 s"),
    ],
)
def test_another_robots_data_are_refused(saved, change, told):
    with pytest.raises(ValueError, match=told):
        Replay.load(saved, replace(SIGNATURE, **change))


def test_bad_questions():
    store = Replay(SIGNATURE, 4)
    for ask in (lambda: store.sample(1, np.random.default_rng(0)), lambda: Replay(SIGNATURE, 0)):
        with pytest.raises(ValueError, match=r"empty|capacity"):
            ask()
    store.extend(*stacked(walk("......", np.random.default_rng(0))))
    with pytest.raises(ValueError, match="sequences of 0 rows"):
        store.sample_sequences(1, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="the longest has 4"):
        store.sample_sequences(1, 5, np.random.default_rng(0))
    for row in (1, 6, -1):
        with pytest.raises(IndexError, match="rows 2 to 5 are stored"):
            store.rows(np.array([row]))
