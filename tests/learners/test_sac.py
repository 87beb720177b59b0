"""Soft actor-critic in training: it goes on as if nothing had happened, and refuses what is not its own."""

import dataclasses
import math
import re

import numpy as np
import pytest
from scipy.special import ndtr
from trimtab import robots
from trimtab.controllers.cem import CEM
from trimtab.learners.collection import FILE as COLLECTION
from trimtab.learners.coloured_noise import ExplorationNoise
from trimtab.learners.evaluation import evaluate
from trimtab.learners.interface import Environment
from trimtab.learners.logs import read
from trimtab.learners.perceptrons import NetworkSettings
from trimtab.learners.run_folder import About, RunFolder
from trimtab.learners.sac import POLICY, REPLAY, SAC, STATE, Schedule
from trimtab.learners.training import train
from trimtab.robots.finite import Finite
from trimtab.robots.layout import Reading
from trimtab.robots.task import Robot, Start, Task

TASK = robots.load("pendulum-swingup")
SCHEDULE = Schedule(random_steps=24, round=4, piece=30, evaluate_every=50, episodes=2)
SMALL = SAC(network=NetworkSettings(hidden=(8, 8)), batch=8, schedule=SCHEDULE)
ABOUT = About("some", TASK.name, "sac", seed=3, period=0.04, steps=0)


def environment(task=TASK, period=0.04, duration=0.8, simulator="mujoco"):
    return Environment(task, simulator, period, duration, CEM())


def unseen(doing, numbers):
    pass


def scheduled(settings=SMALL, **changes):
    return dataclasses.replace(settings, schedule=dataclasses.replace(settings.schedule, **changes))


SETTINGS = {
    "usual": SMALL,
    "beside": scheduled(beside=True),
    "copies": scheduled(dataclasses.replace(SMALL, n_step=3), copies=3),
    "pink": scheduled(dataclasses.replace(SMALL, colour=1.0), copies=2),
    "few kept": dataclasses.replace(SMALL, capacity=21),
    "REDQ": scheduled(dataclasses.replace(SMALL, critics=4, objective="mean", actor_every=3), ratio=3.0),
    "DroQ": dataclasses.replace(SMALL, network=NetworkSettings(hidden=(8,), layer_norm=True, dropout=0.1)),
}


def numbers(folder):
    """The metrics that do not tell of time."""
    timed = ("wall_s", "collect_s", "update_s", "train/updates_per_s")
    return [{name: value for name, value in row.items() if name not in timed} for row in read(folder.metrics)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_halves_are_a_whole(name, tmp_path, begin):
    settings, runs = SETTINGS[name], []
    for stops in ((60, 120), (120,)):
        folder = RunFolder.create(tmp_path / str(len(stops)), ABOUT, "")
        for steps in stops:
            learner = begin(settings)
            assert train(learner, folder, steps=steps).status == "done"
        runs.append((numbers(folder), learner))
    (halves, one), (whole, other) = runs
    assert len(whole) > 2
    np.testing.assert_equal(halves, whole)
    for name, tensor in one.policy.learned._changing().items():
        assert (tensor == other.policy.learned._changing()[name]).all(), name
    np.testing.assert_array_equal(one.replay.all().y_next, other.replay.all().y_next)


def test_another_seed_is_another_run(begin):
    learners = [begin(seed=seed) for seed in (0, 1, 0)]
    for learner in learners:
        learner.advance(unseen)
    one, other, same = (learner.replay.all().u for learner in learners)
    np.testing.assert_array_equal(one, same)
    assert not np.isin(other, one).any()


def test_exploration_is_as_coloured_as_was_asked(begin, monkeypatch):
    learner = begin(scheduled(dataclasses.replace(SMALL, colour=1.0), copies=2, random_steps=40, piece=90))
    noise, asked = ExplorationNoise(1.0, 20, 1, ABOUT.seed), []
    collector = learner._collector
    step = collector.step

    def record(u):
        asked.append((collector.steps, noise.at(*collector.under_way()), collector.y, learner.policy.snapshot(), u))
        return step(u)

    monkeypatch.setattr(collector, "step", record)
    learner.advance(unseen)
    assert {int(e) for e in collector.under_way()[0]} == {3, 4}  # episodes of 20 decisions
    for steps, e, y, policy, u in asked:
        wanted = learner.policy.controls(2.0 * ndtr(e) - 1.0) if steps < 40 else policy(y, noise=e)
        np.testing.assert_allclose(u, wanted, rtol=1e-12)
    assert {steps < 40 for steps, *_ in asked} == {True, False}


@pytest.mark.parametrize("file", [POLICY, REPLAY, STATE, COLLECTION])
def test_a_file_cut_short_is_refused_and_changes_nothing(file, tmp_path, begin):
    learner, other = begin(), begin()
    learner.advance(unseen)
    learner.save(tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    other.advance(unseen)
    before, rows, steps = other.policy.learned.actor.flat.clone(), len(other.replay), other.steps
    with pytest.raises(ValueError, match=file):
        other.restore(tmp_path)
    assert (other.policy.learned.actor.flat == before).all()
    assert (len(other.replay), other.steps) == (rows, steps)
    (tmp_path / file).write_bytes(content)
    other.restore(tmp_path)
    assert other.steps == learner.steps


def test_a_controller_needs_neither_plants_nor_replay(tmp_path, begin):
    learner, other = begin(), begin()
    learner.advance(unseen)
    learner.save(tmp_path)
    for file in (REPLAY, COLLECTION, STATE):
        (tmp_path / file).unlink()
    other.restore_controller(tmp_path)
    assert other._gathering is None
    y = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(other.policy.action(y), learner.policy.action(y))


@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        (SMALL, environment(robots.load("cartpole-swingup")), "another robot: pendulum; expected: cartpole"),
        (SMALL, environment(period=0.02), "another period: 0.04; expected: 0.02"),
        (dataclasses.replace(SMALL, discount=0.9), None, "another discount: 0.99; expected: 0.9"),
        (dataclasses.replace(SMALL, untold=("pole_velocity",)), None, "another untold"),
        (dataclasses.replace(SMALL, capacity=9), None, "another number of capacity: 1000000; expected: 9"),
        (scheduled(copies=2), None, "another number of lanes: 1; expected: 2"),
    ],
)
def test_what_another_learner_saved_is_refused(settings, where, message, tmp_path, begin):
    learner = begin()
    learner.advance(unseen)
    learner.save(tmp_path)
    with pytest.raises(ValueError, match=message):
        begin(settings, where).restore(tmp_path)


def test_decisions_earn_updates(begin):
    learner = begin(scheduled(ratio=0.5, random_steps=40, piece=80))
    found = learner.advance(unseen).metrics
    # 80 control steps are 40 decisions, of which the first rounds are random ones.
    assert found["rows"] == 40
    assert learner.policy.learned.updates == found["updates"] == (40 - 20) * 0.5


def test_evaluations_are_of_the_mean_on_starts_of_their_own(begin):
    learner = begin()
    first, second = learner.advance(unseen), learner.advance(unseen)
    assert math.isnan(first.metrics["return"])
    found = evaluate(learner.controller(), learner.environment, episodes=2, seed=ABOUT.seed, in_training=True)
    assert second.metrics["return"] == pytest.approx(float(found.returns.mean()))
    assert len(second.episode) == 40
    apart = evaluate(learner.controller(), learner.environment, episodes=2, seed=ABOUT.seed)
    assert not set(found.seeds) & set(apart.seeds)


def test_a_controller_is_not_moved_by_what_is_learned_later(begin):
    learner = begin()
    learner.advance(unseen)
    state = learner.environment.make().reset(0)
    controller = learner.controller()
    before = controller.control(state)
    learner.advance(unseen)
    learner.advance(unseen)
    controller.reset(0)
    np.testing.assert_array_equal(controller.control(state), before)
    assert not np.array_equal(learner.controller().control(state), before)


def test_a_reward_that_is_not_finite_ends_training_and_is_placed(tmp_path, begin):
    def breaks(y, u):
        return np.where(np.asarray(y.pole_velocity) > 5.0, np.nan, 1.0)

    where = environment(dataclasses.replace(TASK, score=breaks), duration=10.0)
    folder = RunFolder.create(tmp_path / "run", ABOUT, "")
    outcome = train(begin(where=where), folder, steps=100_000)
    assert outcome.status == "failed"
    assert re.fullmatch(r"control step \d+ of episode \d+ \(copy 0\): not finite: reward", outcome.reason)
    assert outcome.saved.pieces > 0
    assert folder.saved("last") == outcome.saved


def corridor(cells=7):
    """Left or right, from the middle; the right end is worth 1, and the left end nothing."""
    here = np.arange(cells)
    after = np.stack([np.maximum(here - 1, 0), np.minimum(here + 1, cells - 1)], axis=1)[:, :, None]
    ends = (after == 0) | (after == cells - 1)
    table = Finite(here[:, None].astype(float), after, np.ones(after.shape), (after == cells - 1).astype(float), ends)
    robot = Robot(
        name="corridor",
        build=None,
        readings=(Reading("cell", 1), Reading("reward", 1), Reading("terminated", 1)),
        dt=1.0,
        limits=table.limits,
        finite=lambda: table,
        choices=2,
    )
    return Task(
        name="corridor-right",
        robot=robot,
        score=lambda y, u: y.reward,
        terms=(),
        start=lambda seed: Start(np.array([cells // 2]), np.zeros(0)),
        duration=50.0,
        goal=lambda y: y.cell == cells - 1,
        end=lambda y: y.terminated > 0.5,
    )


def test_choices_are_learned(begin):
    settings = scheduled(
        SAC(network=NetworkSettings(hidden=(32,)), batch=64, discount=0.9, learning_rate=3e-3, averaging=0.02),
        random_steps=200,
        piece=600,
        evaluate_every=600,
    )
    learner = begin(settings, environment(corridor(), period=1.0, duration=50.0, simulator="finite"))
    assert learner.policy.choices == 2
    found = learner.advance(unseen)
    assert (found.metrics["success"], found.metrics["length"]) == (1.0, 3.0)
    assert {0.0, 1.0} == set(np.unique(learner.replay.all().u))
    y = np.array([[cell, 0.0, 0.0] for cell in range(1, 6)])
    np.testing.assert_allclose(learner.policy.value(y), 0.9 ** np.arange(4, -1, -1), atol=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SAC(n_step=0), "n_step is 0"),
        (lambda: SAC(capacity=0), "capacity is 0"),
        (lambda: SAC(colour=-1.0), "colour is -1.0; it must be finite and at least 0"),
        (
            lambda: SAC(colour=1.0).start(environment(corridor(), 1.0, 50.0, "finite"), 0),
            "colour is 1.0; exploration among choices is white",
        ),
        (lambda: SAC(capacity=3, schedule=Schedule(copies=4)), "capacity is 3; it must be at least copies, 4"),
        (lambda: Schedule(copies=257), "copies is 257; it must be from 1 to 256"),
        (lambda: Schedule(ratio=0.0), "ratio is 0.0"),
        (lambda: Schedule(piece=0), "piece is 0"),
        (
            lambda: dataclasses.replace(SMALL, device="warp").start(environment(), 0),
            "warp",
        ),
        (lambda: dataclasses.replace(SMALL, untold=("tail",)).start(environment(), 0), "unknown reading 'tail'"),
        (
            lambda: dataclasses.replace(SMALL, untold=("pole", "pole_velocity")).start(environment(), 0),
            "untold names all readings of pendulum",
        ),
        (lambda: dataclasses.replace(SMALL, device="meta").start(environment(), 0), "device 'meta' can not be used"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
