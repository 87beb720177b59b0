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


class Still:
    """A controller that does nothing."""

    def reset(self, seed):
        pass

    def control(self, state):
        return np.zeros(1)


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


@pytest.fixture
def saved(tmp_path):
    store = Replay(SIGNATURE)
    store.extend(*stacked(walk("....t..c", np.random.default_rng(0))))
    store.save(tmp_path / "replay.npz")
    return tmp_path / "replay.npz"


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


lane_counts = st.integers(2, 4)


@st.composite
def several(draw):
    """Steps of some lanes: for each call of `extend`, the kinds of each lane's; a lane's capacity, or none."""
    lanes = draw(lane_counts)
    lengths = draw(st.lists(st.integers(0, 9), max_size=6))
    kinds = [[draw(st.text("....xitcj", min_size=n, max_size=n)) for _ in range(lanes)] for n in lengths]
    return lanes, kinds, draw(st.one_of(st.none(), st.integers(1, 12)))


class Lanes:
    """Steps in a store of several lanes, and the same in a plain list for each lane."""

    def __init__(self, lanes, kinds, capacity, seed):
        self.store = Replay(SIGNATURE, None if capacity is None else capacity * lanes, lanes)
        self.plain = [Kept(capacity) for _ in range(lanes)]
        self.rng = np.random.default_rng(seed)
        self.refused = 0
        for each in kinds:
            self.extend(self.store, each)

    def extend(self, store, each, *others):
        walks = [walk(kinds, self.rng) for kinds in each]
        steps = [step for together in zip(*walks) for step in together]
        valid = np.array([kind != "i" for together in zip(*each) for kind in together], bool)
        for target in (store, *others):
            rejected = target.extend(*stacked(steps), valid=valid)
            flat = "".join("".join(together) for together in zip(*each))
            assert [r.index for r in rejected] == [k for k, kind in enumerate(flat) if kind == "x"]
        for plain, kinds, walked in zip(self.plain, each, walks):
            for kind, step in zip(kinds, walked):
                plain.append(*step, left_out=kind == "i")


class Kept(Plain):
    """A lane as a list: steps left out keep their places, under no segment."""

    def append(self, y, u, y_next, reward, terminated, truncated, left_out=False):
        if left_out or not np.isfinite(reward):
            self.last = None
            self.rows.append((None, None))
        else:
            super().append(y, u, y_next, reward, terminated, truncated)
        if self.capacity is not None:
            self.rows = self.rows[-self.capacity :]

    def segments(self):
        numbers = [segment for segment, _ in self.rows if segment is not None]
        return [[row for n, row in self.rows if n == segment] for segment in sorted(set(numbers))]

    def returns(self, k, steps, discount):
        """Of the k-th row: reward, factor, and the last row."""
        segment, row = self.rows[k]
        total, m = 0.0, 0
        while m < steps and k + m < len(self.rows) and self.rows[k + m][0] == segment:
            row = self.rows[k + m][1]
            total += discount**m * row[3]
            m += 1
        return total, discount**m, row


@settings(max_examples=100, deadline=None)
@given(several(), st.integers(0, 99))
def test_lanes_are_stores_of_their_own(case, seed):
    both = Lanes(*case, seed)
    store, expected = both.store, [segment for plain in both.plain for segment in plain.segments()]
    assert len(store) == sum(len(segment) for segment in expected)
    found = list(store.segments())
    assert [len(segment) for segment in found] == [len(segment) for segment in expected]
    for one, rows in zip(found, expected):
        for name, column in zip(FIELDS, zip(*rows)):
            np.testing.assert_array_equal(getattr(one, name), np.array(column))
    in_turn = [row for rows in zip(*(plain.rows for plain in both.plain)) for n, row in rows if n is not None]
    np.testing.assert_array_equal(store.all().reward, [row[3] for row in in_turn])
    assert store.rejected == ({"reward": n} if (n := "".join(k for each in case[1] for k in each).count("x")) else {})


@settings(max_examples=100, deadline=None)
@given(several(), st.integers(1, 5), st.integers(0, 99))
def test_sequences_stay_in_their_lane(case, length, seed):
    both = Lanes(*case, seed)
    possible = {
        plain.rows[k][1][3]: [row[3] for _, row in plain.rows[k : k + length]]
        for plain in both.plain
        for k in plain.sequences(length)
        if plain.rows[k][0] is not None
    }
    if not possible:
        with pytest.raises(ValueError, match=r"no sequence of|empty"):
            both.store.sample_sequences(3, length, both.rng)
        return
    drawn = both.store.sample_sequences(60, length, both.rng)
    for k in range(60):
        np.testing.assert_array_equal(drawn.reward[k], possible[drawn.reward[k, 0]])
    if len(possible) < 6:
        assert set(drawn.reward[:, 0]) == set(possible)
    np.testing.assert_array_equal(drawn.y[:, 1:], drawn.y_next[:, :-1])


@settings(max_examples=100, deadline=None)
@given(several(), st.integers(1, 6), st.sampled_from([1.0, 0.9, 0.5, 0.0]), st.integers(0, 99))
def test_returns_are_those_of_a_plain_loop(case, steps, discount, seed):
    both = Lanes(*case, seed)
    if not len(both.store):
        with pytest.raises(ValueError, match="empty"):
            both.store.sample_returns(3, steps, discount, both.rng)
        return
    expected = {
        tuple(row[1][1]): plain.returns(k, steps, discount)  # by the control, which is unique
        for plain in both.plain
        for k, row in enumerate(plain.rows)
        if row[0] is not None
    }
    drawn, factors = both.store.sample_returns((5, 12), steps, discount, both.rng)
    assert drawn.y.shape == (5, 12, 2)
    assert factors.shape == drawn.reward.shape == (5, 12)
    for at in np.ndindex(5, 12):
        reward, factor, last = expected[tuple(drawn.u[at])]
        assert drawn.reward[at] == pytest.approx(reward, rel=1e-13, abs=1e-13)
        assert factors[at] == pytest.approx(factor, rel=1e-13)
        np.testing.assert_array_equal(drawn.y_next[at], last[2])
        assert (drawn.terminated[at], drawn.truncated[at]) == last[4:]


def test_returns_of_one_step_are_rows():
    store = Replay(SIGNATURE)
    store.extend(*stacked(walk("...t..c.", np.random.default_rng(0))))
    rows, factors = store.sample_returns((3, 4), 1, 0.75, np.random.default_rng(5))
    single = store.sample(12, np.random.default_rng(5))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(rows, name).reshape(getattr(single, name).shape), getattr(single, name))
    np.testing.assert_array_equal(factors, np.full((3, 4), 0.75))


@settings(max_examples=60, deadline=None)
@given(several(), st.integers(0, 99))
def test_saved_lanes_go_on_as_those_that_were_not(tmp_path_factory, case, seed):
    lanes, kinds, capacity = case
    half = len(kinds) // 2
    both = Lanes(lanes, kinds[:half], capacity, seed)
    path = tmp_path_factory.mktemp("replay") / "replay.npz"
    both.store.save(path)
    loaded = Replay.load(path, SIGNATURE)
    for each in kinds[half:]:
        both.extend(both.store, each, loaded)
    assert (loaded.lanes, len(loaded), loaded.first) == (lanes, len(both.store), both.store.first)
    one, other = (list(store.segments()) for store in (both.store, loaded))
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    if len(loaded):
        one, other = (s.sample_returns(9, 3, 0.9, np.random.default_rng(1))[0] for s in (both.store, loaded))
        np.testing.assert_array_equal(one.reward, other.reward)


def test_steps_left_out_are_never_drawn():
    store = Replay(SIGNATURE, lanes=2)
    first, second = (walk("." * 50, np.random.default_rng(k)) for k in range(2))
    steps = [step for together in zip(first, second) for step in together]
    store.extend(*stacked(steps), valid=np.arange(100) % 10 == 3)
    assert len(store) == 10
    kept = [steps[k][3] for k in range(3, 100, 10)]
    counts = np.array([np.count_nonzero(store.sample(20_000, np.random.default_rng(0)).reward == r) for r in kept])
    assert counts.sum() == 20_000
    assert abs(counts / 2000 - 1).max() < 0.12  # five standard deviations
    with pytest.raises(IndexError, match="left out"):
        store.rows(np.array([3, 4]))


def test_a_store_that_knew_no_lanes_is_read(saved):
    with np.load(saved) as content:
        arrays = dict(content)
    meta = json.loads(str(arrays["meta"]))
    assert meta.pop("lanes") == 1
    meta["begin"], meta["open"] = meta["begin"][0], meta["open"][0]
    np.savez(saved, **{**arrays, "meta": np.array(json.dumps(meta))})
    store = Replay.load(saved, SIGNATURE)
    assert store.lanes == 1
    assert [len(segment) for segment in store.segments()] == [5, 3]


def test_what_does_not_fit_the_lanes_is_refused():
    for capacity, lanes, told in ((7, 2, "capacity 7 is no multiple of 2 lanes"), (4, 0, "0 lanes")):
        with pytest.raises(ValueError, match=told):
            Replay(SIGNATURE, capacity, lanes)
    store, steps = Replay(SIGNATURE, lanes=2), stacked(walk("...", np.random.default_rng(0)))
    with pytest.raises(ValueError, match="3 steps are no multiple of 2 lanes"):
        store.extend(*steps)
    with pytest.raises(ValueError, match=r"valid has shape \(2,\), not \(3,\)"):
        store.extend(*steps, valid=np.ones(2, bool))
    assert store.first + len(store) == 0
    task = robots.load("pendulum-swingup")
    episode = loop.run(sim.make("mujoco", task), Still(), task=task, duration=0.2, seed=1)
    with pytest.raises(ValueError, match="those of 2 in turn"):
        Replay(task.robot, lanes=2).add_episode(episode)
    store = Replay(SIGNATURE)
    store.extend(*steps)
    with pytest.raises(ValueError, match="returns of 0 steps"):
        store.sample_returns(1, 0, 0.9, np.random.default_rng(0))
    for discount in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="it must be from 0 to 1"):
            store.sample_returns(1, 1, discount, np.random.default_rng(0))


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


def test_a_file_cut_short_is_refused(saved):
    whole = saved.read_bytes()
    for size in (0, 10, len(whole) // 3, len(whole) // 2, len(whole) - 10):
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"replay\.npz holds no replay store, or not the whole of one"):
            Replay.load(saved)


def test_a_damaged_file_is_refused(saved):
    whole = bytearray(saved.read_bytes())
    with np.load(saved) as content:
        whole[whole.index(content["y"].tobytes()) + 7] ^= 0xFF
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
