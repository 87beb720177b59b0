"""Training: what is kept, that a run continued is the run uninterrupted, and what happens when files fail."""

import csv
import errno
import itertools
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import toy_learner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trimtab import robots
from trimtab.controllers.cem import CEM
from trimtab.controllers.episode import Episode
from trimtab.learners import evaluation, logs
from trimtab.learners.interface import Environment, TrainingError
from trimtab.learners.run_folder import About, RunFolder, Saved
from trimtab.learners.training import train
from trimtab.sim import State

ABOUT = About("some", "cartpole-balance", "toy", seed=3, period=0.01, steps=0)
PIECE = 4 * 25  # control steps


@pytest.fixture(scope="module")
def environment():
    return Environment(robots.load("cartpole-balance"), "mujoco", 0.01, 0.25, CEM())


@pytest.fixture
def begin(environment, tmp_path):
    """A learner, and a new folder or the one called `name` that there is."""
    learners = []

    def make(name="run"):
        learner = toy_learner.Toy(candidates=4, spread=20.0).start(environment, ABOUT.seed)
        learners.append(learner)
        path = tmp_path / name
        return learner, RunFolder(path) if path.exists() else RunFolder.create(path, ABOUT, "task = 'x'\n")

    yield make
    for learner in learners:
        learner.close()


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    """A run of so many pieces that nothing happened to; to be looked at only."""
    runs = {}

    def make(pieces):
        if pieces not in runs:
            learner = toy_learner.Toy(candidates=4, spread=20.0).start(environment, ABOUT.seed)
            folder = RunFolder.create(tmp_path_factory.mktemp("once") / "run", ABOUT, "task = 'x'\n")
            assert train(learner, folder, steps=pieces * PIECE).status == "done"
            runs[pieces] = learner, folder
        return runs[pieces]

    yield make
    for learner, _ in runs.values():
        learner.close()


class Witness:
    """Notes all that it is told."""

    def __init__(self):
        self.told, self.notes, self.pieces = [], [], []

    def start(self, saved, steps):
        self.told.append((saved, steps))

    def note(self, text):
        self.notes.append(text)

    def watch(self, doing, numbers):
        pass

    def piece(self, piece):
        self.pieces.append(piece)

    def end(self):
        self.told.append("end")


def breaking_off(learner, error, at, candidates=2):
    """The learner, which raises `error` once so many candidates of its piece `at` were tried."""
    advance, pieces = learner.advance, itertools.count(1)

    def broken(watch):
        piece = next(pieces)

        def watched(doing, numbers):
            if piece == at and doing == f"candidate {candidates}":
                raise error
            watch(doing, numbers)

        return advance(watched)

    learner.advance = broken
    return learner


def content(folder, name):
    """What the files of a checkpoint hold, but for the time that training took."""
    found = {}
    for path in sorted(folder.checkpoint(name).iterdir()):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {key: arrays[key].tobytes() for key in arrays}
        else:
            found[path.name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "wall_s"}
    return found


def metrics(folder):
    """The table as text, but for the time that training took."""
    rows = list(csv.reader(folder.metrics.read_text().splitlines()))
    return [row[:2] + row[3:] for row in rows]


def actions(learner):
    y = np.random.default_rng(0).normal(size=(5, learner.mean.shape[1]))
    return np.array([learner.controller().control(State(0.0, each)) for each in y])


def assert_same_run(one, other):
    (learner_a, folder_a), (learner_b, folder_b) = one, other
    assert metrics(folder_a) == metrics(folder_b)
    for name in ("last", "best"):
        assert content(folder_a, name) == content(folder_b, name)
    np.testing.assert_array_equal(actions(learner_a), actions(learner_b))
    episodes = [Episode.load(folder.path / "episode.npz") for folder in (folder_a, folder_b)]
    np.testing.assert_array_equal(episodes[0].y, episodes[1].y)


def test_it_learns_and_keeps_what_it_did(begin):
    learner, folder = begin()
    witness = Witness()
    outcome = train(learner, folder, steps=12 * PIECE - 1, observers=[witness])
    assert (outcome.status, outcome.reason) == ("done", "")
    rows = logs.read(folder.metrics)
    assert [row["piece"] for row in rows] == list(range(1, 13))
    assert [row["steps"] for row in rows] == [k * PIECE for k in range(1, 13)]
    returns = np.array([row["return"] for row in rows])
    assert returns[-3:].mean() > returns[0] + 1.0
    assert np.isnan(rows[0]["nothing"])
    assert all(a["wall_s"] < b["wall_s"] for a, b in itertools.pairwise(rows))
    assert outcome.row == pytest.approx(rows[-1], nan_ok=True)
    assert outcome.saved == folder.saved() == Saved(12, 12 * PIECE, rows[-1]["wall_s"], returns.max())
    assert folder.saved("best").steps == (1 + returns.argmax()) * PIECE
    assert folder.about.steps == 12 * PIECE - 1
    assert RunFolder(folder.path).about == folder.about
    assert witness.told == [(Saved(), 12 * PIECE - 1), "end"]
    assert [piece.row["return"] for piece in witness.pieces] == returns.tolist()
    assert [piece.best for piece in witness.pieces] == np.maximum.accumulate(returns).tolist()
    assert len(Episode.load(folder.path / "episode.npz")) == 25
    assert not list(folder.path.glob("**/*.partial"))


@pytest.mark.parametrize("share", [0.05, np.inf])
def test_a_run_continued_is_the_run_uninterrupted(begin, uninterrupted, share):
    once = uninterrupted(6)
    train(*begin("twice"), steps=3 * PIECE, share=share)
    twice = begin("twice")
    outcome = train(*twice, steps=6 * PIECE, share=share)
    assert outcome.saved.pieces == 6
    assert_same_run(once, twice)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrainingError("ran away"), ZeroDivisionError("a bug")])
def test_a_run_broken_off_within_a_piece_and_continued_is_the_run_uninterrupted(begin, uninterrupted, error):
    once = uninterrupted(6)
    learner, folder = begin("twice")
    outcome = train(breaking_off(learner, error, at=4), folder, steps=6 * PIECE, share=np.inf)
    assert outcome.status == ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
    assert outcome.saved.pieces == 3
    assert outcome.row["piece"] == 3
    assert ("a bug" in outcome.trace) == isinstance(error, ZeroDivisionError)
    twice = begin("twice")
    assert train(*twice, steps=6 * PIECE).status == "done"
    assert_same_run(once, twice)


def test_pieces_after_the_checkpoint_are_done_anew(begin, uninterrupted):
    once = uninterrupted(12)
    returns = [row["return"] for row in logs.read(once[1].metrics)]
    worse = 1 + int(np.argmax(np.diff(returns) < 0.0))  # pieces before the first that is no new best
    assert worse < 11
    learner, folder = begin("twice")
    # A clock by which a checkpoint takes as long as a piece: a twentieth of the time is not enough for the next.
    ticks, broken = itertools.count(), breaking_off(learner, KeyboardInterrupt(), at=worse + 2)
    outcome = train(broken, folder, steps=12 * PIECE, clock=lambda: next(ticks))
    assert len(logs.read(folder.metrics)) == worse + 1
    assert outcome.saved.pieces == folder.saved().pieces == outcome.row["piece"] == worse
    twice = begin("twice")
    train(*twice, steps=12 * PIECE)
    assert_same_run(once, twice)


def test_interrupted_before_the_first_checkpoint_begins_anew(begin, uninterrupted):
    once = uninterrupted(2)
    learner, folder = begin("twice")
    outcome = train(breaking_off(learner, KeyboardInterrupt(), at=1), folder, steps=2 * PIECE)
    assert (outcome.status, outcome.saved, dict(outcome.row)) == ("interrupted", Saved(), {})
    twice = begin("twice")
    train(*twice, steps=2 * PIECE)
    assert_same_run(once, twice)


@pytest.mark.parametrize("renamed", [False, True])
def test_interrupted_while_a_checkpoint_gets_its_name(begin, uninterrupted, monkeypatch, renamed):
    learner, folder = begin("twice")
    train(learner, folder, steps=3 * PIECE, share=np.inf)
    learner, folder = begin("twice")
    renew = RunFolder._renew

    def interrupted(self, name):
        if renamed:
            renew(self, name)
        if name == "last":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "_renew", interrupted)
        outcome = train(learner, folder, steps=6 * PIECE, share=np.inf)
    assert outcome.status == "interrupted"
    assert outcome.saved.pieces == outcome.row["piece"] == (4 if renamed else 3)
    assert folder.saved() == outcome.saved
    twice = begin("twice")
    train(*twice, steps=6 * PIECE)
    assert_same_run(uninterrupted(6), twice)


@pytest.mark.parametrize("harm", ["cut progress", "no progress", "cut gains", "gone"])
def test_the_checkpoint_before_stands_in_for_one_cut_short(begin, uninterrupted, harm):
    once = uninterrupted(6)
    learner, folder = begin("twice")
    train(learner, folder, steps=4 * PIECE, share=np.inf)
    last = folder.checkpoint("last")
    if harm == "gone":  # as when the machine stopped between the renamings
        shutil.rmtree(last)
    elif harm == "no progress":
        (last / "progress.json").unlink()
    else:
        file = last / ("gains.npz" if harm == "cut gains" else "progress.json")
        file.write_bytes(file.read_bytes()[:-20])
    twice = begin("twice")
    witness = Witness()
    outcome = train(*twice, steps=6 * PIECE, observers=[witness])
    assert witness.told[0][0].pieces == 3
    assert outcome.saved.pieces == 6
    if harm != "gone":
        (note,) = witness.notes
        assert "checkpoint 'last'" in note
        assert "the one before it is used, of 300 steps" in note
    assert_same_run(once, twice)


@pytest.mark.parametrize("harmed", ["progress.json", "gains.npz"])
def test_a_checkpoint_refused_does_not_cost_the_one_before(begin, uninterrupted, harmed):
    learner, folder = begin("twice")
    train(learner, folder, steps=3 * PIECE, share=np.inf)
    refused = folder.checkpoint("last.refused")

    def harm():
        file = folder.checkpoint("last") / harmed
        file.write_bytes(file.read_bytes()[:-20])
        return file.read_bytes()

    left = harm()
    learner, folder = begin("twice")
    witness = Witness()
    # Interrupted before there is a new checkpoint: what is left is the one before.
    outcome = train(breaking_off(learner, KeyboardInterrupt(), at=1), folder, steps=4 * PIECE, observers=[witness])
    assert outcome.saved.pieces == outcome.row["piece"] == 2
    assert "is kept as 'last.refused'" in witness.notes[0]
    assert (refused / harmed).read_bytes() == left
    assert train(*begin("twice"), steps=3 * PIECE).saved.pieces == 3  # saves once
    harm()
    twice = begin("twice")
    witness = Witness()
    assert train(*twice, steps=6 * PIECE, observers=[witness]).status == "done"
    assert witness.told[0][0].pieces == 2
    assert_same_run(uninterrupted(6), twice)


def test_looking_at_a_run_changes_nothing_in_it(begin):
    learner, folder = begin()
    train(learner, folder, steps=2 * PIECE, share=np.inf)
    (folder.checkpoint("last") / "gains.npz").write_bytes(b"")
    before = sorted(folder.path.rglob("*"))
    assert folder.restore(begin()[0])[0].pieces == 1
    assert sorted(folder.path.rglob("*")) == before


def test_no_checkpoint_that_can_be_used(begin):
    learner, folder = begin()
    train(learner, folder, steps=2 * PIECE, share=np.inf)
    for name in ("last", "previous"):
        (folder.checkpoint(name) / "progress.json").write_text("{")
    before = folder.metrics.read_bytes()
    with pytest.raises(ValueError, match=r"'last' of .* no JSON, or not the whole of it; checkpoint 'previous' of"):
        train(*begin(), steps=3 * PIECE)
    assert folder.metrics.read_bytes() == before
    assert folder.checkpoint("last").exists()


@pytest.mark.parametrize("broken", ["files", "disk", "renaming"])
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint(begin, uninterrupted, monkeypatch, broken):
    learner, folder = begin()
    train(learner, folder, steps=2 * PIECE, share=np.inf)
    kept = content(folder, "last")
    learner, folder = begin()

    class Full(Witness):
        def start(self, saved, steps):
            def fail(*args, **kwargs):
                raise OSError(errno.ENOSPC, "No space left on device", "some/file")

            target = {"files": (learner, "save"), "disk": (os, "fsync"), "renaming": (RunFolder, "_renew")}
            monkeypatch.setattr(*target[broken], fail)

    outcome = train(learner, folder, steps=4 * PIECE, share=np.inf, observers=[Full()])
    monkeypatch.undo()
    assert outcome.status == "failed"
    assert outcome.reason == "can not write 'some/file': No space left on device"
    assert outcome.saved.pieces == 2
    assert content(folder, "last") == kept
    assert not list(folder.path.glob("**/*.partial"))
    twice = begin()
    assert train(*twice, steps=6 * PIECE).status == "done"
    assert_same_run(uninterrupted(6), twice)


def test_a_full_disk_under_the_table(begin, monkeypatch):
    learner, folder = begin()
    train(learner, folder, steps=2 * PIECE)

    class Full:
        def writerow(self, row):
            raise OSError(errno.ENOSPC, "No space left on device")

        def writerows(self, rows):
            list(rows)

    learner, folder = begin()
    with monkeypatch.context() as patched:
        patched.setattr(logs.csv, "writer", lambda file: Full())
        with pytest.raises(TrainingError, match=r"can not write '.*metrics.csv': No space left"):
            train(learner, folder, steps=4 * PIECE)
    assert len(logs.read(folder.metrics)) == 2


def test_a_piece_without_a_step_ends_the_run(begin):
    learner, folder = begin()
    advance, pieces = learner.advance, itertools.count(1)

    def idle(watch):
        return advance(watch) if next(pieces) < 3 else replace(advance(watch), steps=2 * PIECE)

    learner.advance = idle
    outcome = train(learner, folder, steps=4 * PIECE, share=np.inf)
    assert (outcome.status, outcome.reason) == ("failed", f"a piece of training gained no step beyond {2 * PIECE}")
    assert outcome.saved.pieces == 2


@pytest.mark.parametrize("method", ["start", "note", "watch", "piece", "end"])
def test_an_observer_that_fails_ends_nothing(begin, method):
    learner, folder = begin()
    train(learner, folder, steps=2 * PIECE, share=np.inf)
    (folder.checkpoint("last") / "progress.json").write_text("{")  # so that there is something to note

    class Broken(Witness):
        pass

    def fail(self, *args):
        raise ZeroDivisionError("a bug")

    setattr(Broken, method, fail)
    broken, before, after = Broken(), Witness(), Witness()
    outcome = train(*begin(), steps=4 * PIECE, observers=[before, broken, after])
    assert (outcome.status, outcome.saved.pieces) == ("done", 4)
    for witness in (before, after):
        assert [piece.row["piece"] for piece in witness.pieces] == [2, 3, 4]
        assert len(witness.told) == 2
        assert witness.told[-1] == "end"
        assert [note for note in witness.notes if "checkpoint 'last'" not in note] == [
            "Broken: ZeroDivisionError: a bug"
        ]
    assert ("Broken: ZeroDivisionError: a bug" in broken.notes) == (method != "note")


@pytest.mark.parametrize("method", ["piece", "end"])
def test_training_ends_where_nobody_looks_any_more(begin, method):
    class Gone(Witness):
        pass

    def fail(self, *args):
        raise BrokenPipeError

    setattr(Gone, method, fail)
    learner, folder = begin()
    after = Witness()
    with pytest.raises(BrokenPipeError):
        train(learner, folder, steps=2 * PIECE, observers=[Gone(), after])
    assert after.told[-1] == "end"
    assert folder.saved().pieces == (1 if method == "piece" else 2)


def test_tensorboard_forgets_what_was_done_anew(begin):
    learner, folder = begin()
    train(learner, folder, steps=4 * PIECE, share=np.inf)
    shutil.rmtree(folder.checkpoint("last"))
    train(*begin(), steps=5 * PIECE)
    assert len(list(folder.path.glob("events.out.tfevents.*"))) == 2
    events = EventAccumulator(str(folder.path))
    events.Reload()
    rows = logs.read(folder.metrics)
    shown = events.Scalars("return")
    assert [event.step for event in shown] == [row["steps"] for row in rows]
    assert [event.value for event in shown] == pytest.approx([row["return"] for row in rows], rel=1e-6)
    assert set(events.Tags()["scalars"]) == {"return", "model/spread", "nothing"}


def test_a_row_cut_short_is_none(begin):
    learner, folder = begin()
    train(learner, folder, steps=3 * PIECE)
    text = folder.metrics.read_text()
    folder.metrics.write_text(text[:-5])
    assert len(logs.read(folder.metrics)) == 2
    folder.metrics.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of metrics: it does not begin with piece, steps, wall_s"):
        logs.read(folder.metrics)
    folder.metrics.write_text("piece,steps,wall_s\n1,2\n")
    with pytest.raises(ValueError, match="not every row has 3 numbers"):
        logs.read(folder.metrics)
    assert logs.read(folder.path / "none.csv") == []


def test_other_metrics_than_before_end_the_run(begin):
    learner, folder = begin()
    train(learner, folder, steps=PIECE)
    learner, folder = begin()
    advance = learner.advance

    def other(watch):
        progress = advance(watch)
        return replace(progress, metrics={**progress.metrics, "new": 1.0})

    learner.advance = other
    outcome = train(learner, folder, steps=2 * PIECE)
    assert (outcome.status, outcome.reason) == ("failed", "piece 2 has other metrics than those before: new")
    assert outcome.saved.pieces == 1


def test_two_processes_do_not_train_in_one_folder(begin):
    learner, folder = begin()
    with folder.claimed(), pytest.raises(ValueError, match="another process is training in"):
        train(learner, folder, steps=PIECE)
    assert train(learner, folder, steps=PIECE).status == "done"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no training run: run.json is missing"),
        ('{"format": 1, "scena', "is no JSON, or not the whole of it"),
        ("[1]", "is none of trimtab's"),
        ('{"format": 2}', "is of format 2; this version of trimtab reads format 1"),
        ('{"format": 1, "scenario": "x", "task": "y", "learner": "z", "seed": 0}', "does not say: period, steps"),
    ],
)
def test_folders_that_are_no_run(tmp_path, text, said):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        RunFolder(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        RunFolder(tmp_path / "none")


def test_a_new_run_overwrites_nothing(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something already"):
        RunFolder.create(tmp_path, ABOUT, "")
    with pytest.raises(ValueError, match="holds something already"):
        RunFolder.create(tmp_path / "thesis.txt", ABOUT, "")
    with pytest.raises(TrainingError, match="can not write '/proc/none'"):
        RunFolder.create("/proc/none/x", ABOUT, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_evaluation_repeats_and_has_starts_of_its_own(environment):
    controller = toy_learner.Linear(np.zeros((1, environment.task.robot.layout.size)), np.array([[-1.0], [1.0]]))
    seen = []
    one = evaluation.evaluate(
        controller, environment, episodes=4, seed=3, observe=lambda k, episode: seen.append((k, episode.seed))
    )
    two = evaluation.evaluate(controller, environment, episodes=2, seed=3)
    np.testing.assert_array_equal(one.returns[:2], two.returns)
    assert seen == list(enumerate(one.seeds.tolist(), 1))
    assert len(set(one.returns)) == 4
    assert one.lengths.tolist() == [25] * 4
    assert one.successes.dtype == bool
    assert one.failures == ()
    assert not set(one.seeds) & set(evaluation.seeds(4, 4))
    assert not set(one.seeds) & set(np.random.SeedSequence(3).generate_state(100))
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluation.evaluate(controller, environment, episodes=0, seed=0)


def test_evaluation_counts_episodes_that_break_off(environment):
    class Raises(toy_learner.Linear):
        def control(self, state):
            raise ZeroDivisionError("a bug")

    found = evaluation.evaluate(Raises(None, None), environment, episodes=2, seed=0)
    assert len(found.failures) == 2
    assert "a bug" in found.failures[0]
    assert found.lengths.tolist() == [0, 0]


def test_returns_in_numbers():
    returns = np.array([1000.0, 5.0, 1.0, 2.0, 4.0, 3.0, 6.0, -700.0])
    found = evaluation.summary(returns)
    assert found.iqm == np.mean([2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.std) == (returns.mean(), pytest.approx(returns.std(ddof=1)))
    assert found.low < found.iqm < found.high
    assert found == evaluation.summary(returns)
    normal = np.random.default_rng(0).normal(size=400)
    # The interquartile mean of a normal distribution has the variance 1.19 / n (Stuart and Ord, trimmed means).
    wide = evaluation.summary(normal)
    half = scipy.stats.norm.ppf(0.975) * np.sqrt(1.19 / 400)
    assert (wide.high - wide.low) / 2.0 == pytest.approx(half, rel=0.15)
    single = evaluation.summary(np.array([7.0]))
    assert (single.mean, single.std, single.iqm) == (7.0, 0.0, 7.0)
    assert np.isnan(single.low)
    with pytest.raises(ValueError, match="no returns"):
        evaluation.summary(np.array([]))
