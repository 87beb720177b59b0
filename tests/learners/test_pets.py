"""PETS: that it goes on as if nothing had happened, refuses what is not its own, and gets over what a plant may do."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors
from trimtab import robots, sim
from trimtab.controllers.cem import CEM
from trimtab.controllers.ilqr import ILQR
from trimtab.learners.ensemble import EnsembleSettings
from trimtab.learners.gaussian_process import GaussianProcessSettings
from trimtab.learners.interface import Environment, TrainingError
from trimtab.learners.logs import read
from trimtab.learners.pets import MODEL, PETS, REPLAY, STATE, RandomControls
from trimtab.learners.replay import Replay
from trimtab.learners.run_folder import About, RunFolder
from trimtab.learners.training import train
from trimtab.sim import SimulationError, State

TASK = robots.load("pendulum-swingup")
PLANNER = CEM(horizon=4, samples=6, iterations=1, knots=2, replan=1)
NETWORK = EnsembleSettings(members=2, elites=2, hidden=(8,), batch=16, epochs=4, updates=4)
PROCESS = GaussianProcessSettings(most_rows=20, iterations=5)
ONE = EnsembleSettings(members=1, elites=1)
SMALL = PETS(network=NETWORK, process=PROCESS, particles=2)
ABOUT = About("some", TASK.name, "pets", seed=3, period=0.04, steps=0)
PIECE = 20  # control steps of an episode, of 10 decisions

SETTINGS = {
    "ensemble": SMALL,
    "deterministic": dataclasses.replace(SMALL, model="deterministic", propagation="mean"),
    "gaussian_process": dataclasses.replace(SMALL, model="gaussian_process"),
    "capacity": dataclasses.replace(SMALL, capacity=17),
    "optimism": dataclasses.replace(SMALL, optimism=3.0),
    "information": dataclasses.replace(SMALL, information=0.5),
}


def environment(task=TASK, period=0.04, planner=PLANNER):
    return Environment(task, "mujoco", period, 0.4, planner)


def unseen(doing, numbers):
    pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder where a learner of two episodes is saved; to be copied."""
    folder = tmp_path_factory.mktemp("kept")
    learner = SMALL.start(environment(), ABOUT.seed)
    for _ in range(2):
        learner.advance(unseen)
    learner.save(folder)
    learner.close()
    return folder


@pytest.fixture
def saved(kept, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(kept, tmp_path / "saved")


def content(folder):
    """All that a checkpoint holds, as bytes by name."""
    found = {STATE: (folder / STATE).read_bytes()}
    with np.load(folder / REPLAY) as arrays:
        found |= {f"replay {key}": arrays[key].tobytes() for key in arrays}
    with safetensors.safe_open(folder / MODEL, framework="np") as file:
        found |= {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        found["header"] = json.dumps(file.metadata(), sort_keys=True).encode()
    return found


def timeless(row):
    """Metrics but for times, NaN equal to itself."""
    return {name: repr(float(value)) for name, value in row.items() if not name.endswith(("_s", "_ms"))}


def controls(controller, count=3):
    """What a controller does in states that it has not seen."""
    controller.reset(11)
    y = np.random.default_rng(0).normal(size=(count, TASK.robot.layout.size))
    return np.array([controller.control(State(0.04 * k, each)) for k, each in enumerate(y)])


# Continued --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_continued_is_the_run_uninterrupted(begin, tmp_path, name):
    settings = SETTINGS[name]
    once, folder = begin(settings), RunFolder.create(tmp_path / "once", ABOUT, "")
    assert train(once, folder, steps=4 * PIECE).status == "done"
    pause = RunFolder.create(tmp_path / "twice", ABOUT, "")
    train(begin(settings), pause, steps=2 * PIECE)
    twice = begin(settings)
    outcome = train(twice, pause, steps=4 * PIECE)
    assert (outcome.status, outcome.saved.pieces, twice.episodes) == ("done", 4, 4)
    one, two = (content(each.checkpoint("last")) for each in (folder, pause))
    assert one.keys() == two.keys()
    assert [key for key in one if one[key] != two[key]] == []
    rows = [[timeless(row) for row in read(each.metrics)] for each in (folder, pause)]
    assert rows[0] == rows[1]
    assert len({row["model/holdout"] for row in rows[0]}) == 4
    first, second = controls(once.controller()), controls(twice.controller())
    np.testing.assert_array_equal(first, second)
    assert np.ptp(first) > 0.0
    if settings.capacity:
        assert (len(twice.replay), twice.replay.first) == (17, 40 - 17)
    if name == "ensemble":
        assert any(key.startswith("regressor/optimizer/") for key in one)


def test_another_seed_is_another_run(begin):
    learners = [begin(seed=seed) for seed in (1, 2)]
    for learner in learners:
        learner.advance(unseen)
    one, two = (learner.replay.all() for learner in learners)
    assert not np.array_equal(one.u, two.u)
    assert not np.array_equal(*(controls(learner.controller()) for learner in learners))


@pytest.mark.parametrize("name", ["optimism", "information"])
def test_a_restored_learner_explores_with_the_model_restored(begin, tmp_path, name):
    settings = dataclasses.replace(SETTINGS[name], random_episodes=2)
    learner, folder = begin(settings), tmp_path / "saved"
    learner.advance(unseen)
    folder.mkdir()
    learner.save(folder)
    other = begin(settings, seed=8)
    fresh, untrained = other._explored, other.model
    other.restore(folder)
    assert other.model is not untrained
    # What is explored with is the very object that was made at the start: it must not hold on to the first model.
    state, U = State(0.0, np.array([0.3, -0.5])), np.random.default_rng(2).uniform(-1, 1, (5, 4, 1))
    planned = TASK.with_period(0.04)
    times = 0.04 * np.arange(1, 5)
    costs = [
        each._explored.rollout(state, U, np.random.default_rng(1)).costs(planned, U, times) for each in (learner, other)
    ]
    np.testing.assert_array_equal(*costs)
    fresh.model = untrained
    before = fresh.rollout(state, U, np.random.default_rng(1)).costs(planned, U, times)
    assert np.abs(before - costs[0]).max() > 1e-3
    # Evaluation has no bonus: its costs are another's.
    plain = other.controller().dynamics.rollout(state, U, np.random.default_rng(1)).costs(planned, U, times)
    assert np.abs(plain - costs[0]).max() > 1e-6


# Refused ----------------------------------------------------------------------------------------------------------


OTHERS = {
    "another robot": lambda: (SMALL, environment(robots.load("cartpole-swingup"))),
    "another control period: 0.04 s; expected: 0.02 s": lambda: (SMALL, environment(period=0.02)),
    "another hidden: (8,); expected: (9,)": lambda: (
        dataclasses.replace(SMALL, network=dataclasses.replace(NETWORK, hidden=(9,))),
        environment(),
    ),
    "another batch: 16; expected: 17": lambda: (
        dataclasses.replace(SMALL, network=dataclasses.replace(NETWORK, batch=17)),
        environment(),
    ),
    "another probabilistic: True; expected: False": lambda: (
        dataclasses.replace(SMALL, model="deterministic"),
        environment(),
    ),
    "another kind of model: ensemble; expected: gaussian_process": lambda: (
        SETTINGS["gaussian_process"],
        environment(),
    ),
    "another nominal model: None": lambda: (dataclasses.replace(SMALL, nominal="casadi"), environment()),
    "another told": lambda: (dataclasses.replace(SMALL, untold=("pole_velocity",)), environment()),
    "another capacity: None; expected: 17": lambda: (SETTINGS["capacity"], environment()),
    "another particles: 2; expected: 4": lambda: (dataclasses.replace(SMALL, particles=4), environment()),
    "another propagation: tsinf; expected: ts1": lambda: (
        dataclasses.replace(SMALL, propagation="ts1"),
        environment(),
    ),
}


@pytest.mark.parametrize("said", OTHERS)
def test_what_is_of_other_settings_is_refused(begin, saved, tmp_path, said):
    other = begin(*OTHERS[said]())
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    other.save(tmp_path / "before")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is asserted below
        other.restore(saved)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    other.save(tmp_path / "after")
    assert content(tmp_path / "before") == content(tmp_path / "after")


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def told(path, **other):
    path.write_text(json.dumps(json.loads(path.read_text()) | other))


SPOILT = {
    "model cut": lambda folder: cut(folder / MODEL),
    "model empty": lambda folder: cut(folder / MODEL, 0.0),
    "model gone": lambda folder: (folder / MODEL).unlink(),
    "replay cut": lambda folder: cut(folder / REPLAY),
    "replay empty": lambda folder: cut(folder / REPLAY, 0.0),
    "replay gone": lambda folder: (folder / REPLAY).unlink(),
    "replay is the model": lambda folder: shutil.copy(folder / MODEL, folder / REPLAY),
    "state cut": lambda folder: cut(folder / STATE),
    "state gone": lambda folder: (folder / STATE).unlink(),
    "state is binary": lambda folder: (folder / STATE).write_bytes(b"\xff\xfe\x00"),
    "state is a list": lambda folder: (folder / STATE).write_text("[1, 2]"),
    "state is null": lambda folder: (folder / STATE).write_text("null"),
    "steps are text": lambda folder: told(folder / STATE, steps="many"),
    "episodes are true": lambda folder: told(folder / STATE, episodes=True),
    "rng is text": lambda folder: told(folder / STATE, rng="PCG64"),
    "rng is another": lambda folder: told(folder / STATE, rng={"bit_generator": "MT19937"}),
    "rng is empty": lambda folder: told(folder / STATE, rng={"bit_generator": "PCG64"}),
    "rng holds junk": lambda folder: told(
        folder / STATE,
        rng={"bit_generator": "PCG64", "state": {"state": "x", "inc": -1}, "has_uint32": 0, "uinteger": 0},
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_files_are_refused_and_nothing_has_changed(begin, saved, how):
    # Another seed: had anything been taken over, what comes next would be another.
    SPOILT[how](saved)
    longer = dataclasses.replace(SMALL, random_episodes=9)
    learner, undisturbed = begin(longer, seed=5), begin(longer, seed=5)
    undisturbed.advance(unseen)
    with pytest.raises((ValueError, OSError)) as caught:
        learner.restore(saved)
    assert not isinstance(caught.value, UnicodeDecodeError | json.JSONDecodeError)
    assert "is of another" not in str(caught.value)
    metrics = learner.advance(unseen).metrics
    assert (learner.steps, learner.episodes) == (PIECE, 1)
    np.testing.assert_array_equal(learner.replay.all().u, undisturbed.replay.all().u)
    np.testing.assert_array_equal(controls(learner.controller()), controls(undisturbed.controller()))
    assert metrics["rows"] == 10


def test_the_checkpoint_before_is_used_where_the_last_is_cut(begin, tmp_path):
    folder = RunFolder.create(tmp_path / "run", ABOUT, "")
    train(begin(), folder, steps=2 * PIECE, share=np.inf)
    cut(folder.checkpoint("last") / MODEL)
    learner = begin()
    saved, note = folder.restore(learner)
    assert (saved.pieces, learner.episodes, len(learner.replay)) == (1, 1, 10)
    assert "checkpoint 'last'" in note
    assert "is no checkpoint, or not the whole of one" in note


# What a plant may do ----------------------------------------------------------------------------------------------


class Troubled:
    """A plant that in some steps of some episodes does something else; `trouble(episode, step, state)` may raise."""

    def __init__(self, plant, trouble):
        self._plant, self._trouble = plant, trouble
        self.dt, self.episode, self.k = plant.dt, 0, 0

    def reset(self, seed, state=None):
        self.episode, self.k = self.episode + 1, 0
        return self._plant.reset(seed, state)

    def step(self, u):
        after = self._plant.step(u)
        self.k += 1
        return self._trouble(self.episode, self.k, after) or after

    def scene(self):
        return self._plant.scene()

    def close(self):
        self._plant.close()


@pytest.fixture
def troubled(begin, monkeypatch):
    """A learner whose plant is troubled."""

    def make(trouble, settings=SMALL, **rest):
        monkeypatch.setattr(Environment, "make", lambda self: Troubled(sim.make(self.simulator, self.task), trouble))
        return begin(settings, environment(**rest))

    return make


def test_readings_that_are_not_finite_are_left_out_and_named(troubled):
    def trouble(episode, k, state):
        if k == 8:  # what decision 4 leads to, and decision 5 begins from
            return State(state.time, np.array([state.y[0], np.nan]), state.x)
        return None

    learner = troubled(trouble)
    metrics = learner.advance(unseen).metrics
    assert (metrics["rejected"], metrics["rows"], metrics["length"]) == (2.0, 8.0, 20.0)
    label = TASK.robot.layout.labels[1]
    assert learner.replay.rejected == {label: 1, f"next {label}": 1}
    assert np.isfinite(learner.replay.all().y_next).all()
    assert np.isfinite(metrics["model/holdout"])


def test_a_planner_gets_over_readings_that_are_not_finite(troubled):
    learner = troubled(lambda e, k, s: State(s.time, s.y * np.nan, s.x) if (e, k) == (2, 8) else None)
    for _ in range(3):
        progress = learner.advance(unseen)
    assert (learner.episodes, len(learner.replay), progress.episode.status) == (3, 28, "done")
    assert np.isfinite(progress.episode.u).all()


def test_a_run_without_one_good_step_says_what_is_wrong(troubled):
    learner = troubled(lambda e, k, s: State(s.time, s.y * np.nan, s.x))
    with pytest.raises(TrainingError, match=r"episode 1: nothing to learn from: step 0: not finite: next ") as caught:
        learner.advance(unseen)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("at", "rows"), [(13, 16), (2, 11)])
def test_a_plant_that_diverges_leaves_what_was_gathered(troubled, at, rows):
    """Step `at` of episode 2 diverges: at - 1 steps were made, two to a decision."""

    def trouble(episode, k, state):
        if (episode, k) == (2, at):
            raise SimulationError("it flew apart")

    learner = troubled(trouble)
    done = learner.advance(unseen)
    assert done.metrics["failed"] == 0.0
    cut_short = learner.advance(unseen)
    assert (cut_short.metrics["failed"], cut_short.metrics["length"]) == (1.0, at - 1)
    assert (len(learner.replay), learner.steps) == (10 + (at - 1) // 2, PIECE + at - 1)
    assert rows - len(learner.replay) in (0, 1)
    assert not learner.replay.all().terminated.any()
    on = learner.advance(unseen)
    assert (on.metrics["failed"], on.metrics["length"], learner.episodes) == (0.0, 20.0, 3)
    assert len(learner.replay) == 20 + (at - 1) // 2


def test_a_plant_that_fails_at_once_ends_training(troubled):
    """An episode without a step would be followed by the like for ever."""

    def trouble(episode, k, state):
        if (episode, k) == (2, 1):
            raise SimulationError("it flew apart")

    learner = troubled(trouble)
    learner.advance(unseen)
    with pytest.raises(TrainingError, match="episode 2 has no step: the simulator failed"):
        learner.advance(unseen)


def test_returns_of_random_controls_are_not_compared(troubled):
    learner = troubled(lambda *_: None)
    assert np.isnan(learner.advance(unseen).score)
    planned = learner.advance(unseen)
    assert planned.score == planned.metrics["return"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "gaussian_process", "information": 1.0}, "members disagree on"),
        ({"model": "gaussian_process", "optimism": 1.0, "particles": 1}, "takes more than one particle"),
        ({"model": "gaussian_process", "optimism": 1.0, "propagation": "mean"}, "takes more than one elite"),
        ({"model": "deterministic", "optimism": 1.0, "network": ONE}, "takes more than one elite"),
        ({"optimism": 1.0, "particles": 1, "network": ONE}, "takes more than one particle"),
        ({"network": EnsembleSettings(probabilistic=False)}, "model = deterministic"),
        ({"propagation": "moments", "particles": 1, "network": ONE}, "at least 2"),
        ({"random_episodes": 0}, "random_episodes is 0; it must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other(settings, said):
    with pytest.raises(ValueError, match=said):
        PETS(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"model": "gaussian_process", "particles": 2}, {"particles": 2, "network": ONE}, {"propagation": "mean"}],
)
def test_optimism_where_particles_differ(settings):
    assert PETS(optimism=1.0, **settings).optimism == 1.0


class Stubborn(CEM):
    def plan(self, problem, warm, rng):
        raise OverflowError("no more")


def test_a_planner_that_raises_ends_training_with_one_line(begin, tmp_path):
    planner = Stubborn(**{f.name: getattr(PLANNER, f.name) for f in dataclasses.fields(PLANNER) if f.init})
    folder = RunFolder.create(tmp_path / "run", ABOUT, "")
    outcome = train(begin(SMALL, environment(planner=planner)), folder, steps=99)
    assert outcome.status == "failed"
    assert outcome.reason == "episode 2: the controller raised OverflowError: no more, at 0 s"
    assert (outcome.trace, outcome.saved.pieces) == ("", 1)


def test_a_fit_that_diverges_ends_training_with_one_line(begin, tmp_path):
    wild = dataclasses.replace(SMALL, network=dataclasses.replace(NETWORK, learning_rate=1e30, updates=50))
    folder = RunFolder.create(tmp_path / "run", ABOUT, "")
    outcome = train(begin(wild), folder, steps=99)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("fitting after episode 1: the loss is not finite")
    assert "\n" not in outcome.reason


def test_ctrl_c_within_an_episode_interrupts_training(troubled, tmp_path):
    def trouble(episode, k, state):
        if (episode, k) == (2, 5):
            raise KeyboardInterrupt

    folder = RunFolder.create(tmp_path / "run", ABOUT, "")
    outcome = train(troubled(trouble), folder, steps=99)
    assert (outcome.status, outcome.saved.pieces, outcome.trace) == ("interrupted", 1, "")


# Episodes ---------------------------------------------------------------------------------------------------------


def test_random_controls_are_held_and_cover_their_range():
    planned = TASK.with_period(0.04)
    controller = RandomControls(planned, hold=3)
    controller.reset(4)
    y = np.zeros(TASK.robot.layout.size)
    # The loop asks every 0.02 s, by a clock that adds up steps: a control lasts 3 decisions of 2 steps.
    time, u = 0.0, []
    for _ in range(1200):
        u.append(controller.control(State(time, y))[0])
        time += 0.02
    blocks = np.reshape(u, (-1, 6))
    assert (blocks == blocks[:, :1]).all()
    drawn = blocks[:, 0]
    assert len(set(drawn)) == 200
    low, high = TASK.robot.control_limits[:, 0]
    assert low <= drawn.min() < 0.9 * low
    assert 0.9 * high < drawn.max() <= high
    controller.reset(4)
    np.testing.assert_array_equal([controller.control(State(0.12 * k + 0.01, y))[0] for k in range(200)], drawn)


def test_random_controls_with_a_single_limit_cover_a_range():
    robot = dataclasses.replace(TASK.robot, limits=np.array([[2.0], [np.inf]]))
    controller = RandomControls(dataclasses.replace(TASK, robot=robot), hold=1)
    drawn = np.array([controller.control(State(robot.dt * k, np.zeros(2)))[0] for k in range(200)])
    assert 2.0 <= drawn.min() < 2.1
    assert 2.9 < drawn.max() <= 3.0


def test_a_row_is_a_decision(begin):
    """A row holds the readings before and after a decision's two steps, the control held, and both rewards."""
    learner = begin()
    episode = learner.advance(unseen).episode
    rows = learner.replay.all()
    np.testing.assert_array_equal(rows.y, episode.y[0:20:2])
    np.testing.assert_array_equal(rows.y_next, episode.y[2:21:2])
    np.testing.assert_array_equal(rows.u, episode.u[0::2])
    np.testing.assert_array_equal(episode.u[0::2], episode.u[1::2])
    np.testing.assert_allclose(rows.reward, episode.reward[0::2] + episode.reward[1::2], rtol=1e-15)
    np.testing.assert_array_equal(rows.truncated, np.arange(10) == 9)
    on = learner.advance(unseen).episode
    np.testing.assert_array_equal(on.u[0::2], on.u[1::2])  # plans are held as long
    assert not np.array_equal(on.u, episode.u)


@pytest.mark.parametrize(("steps", "status", "terminated"), [(7, "terminated", False), (8, "terminated", True)])
def test_an_end_between_decisions_is_no_end_of_a_row(begin, steps, status, terminated):
    """Two whole decisions of three steps, and what is over: the end is told only where a row ends with it."""
    learner = begin()
    episode = learner.advance(unseen).episode
    part = dataclasses.replace(
        episode,
        **{name: getattr(episode, name)[: steps + 1] for name in ("time", "y", "x")},
        **{name: getattr(episode, name)[:steps] for name in ("u", "reward", "cost", "plan_age")},
        status=status,
    )
    replay = Replay(TASK.with_period(0.08).robot)
    replay.add_episode(part, 4)
    rows = replay.all()
    assert len(rows) == steps // 4
    assert rows.terminated[-1] == terminated
    assert rows.truncated[-1] != terminated
    np.testing.assert_allclose(rows.u[0], episode.u[:4].mean(axis=0), rtol=1e-15)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_less_than_a_decision_is_nothing(begin, steps):
    episode = begin().advance(unseen).episode
    part = dataclasses.replace(
        episode,
        **{name: getattr(episode, name)[: steps + 1] for name in ("time", "y", "x")},
        **{name: getattr(episode, name)[:steps] for name in ("u", "reward", "cost", "plan_age")},
    )
    replay = Replay(TASK.with_period(0.08).robot)
    assert replay.add_episode(part, 4) == []
    assert len(replay) == 0


def test_a_planner_by_derivatives_learns_too(begin):
    learner = begin(SETTINGS["deterministic"], environment(planner=ILQR(horizon=5, knots=3, replan=1)))
    for _ in range(2):
        metrics = learner.advance(unseen).metrics
    assert (metrics["rows"], metrics["failed"]) == (20.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "ensembel"}, "did you mean 'ensemble'?"),
        ({"propagation": "ts2"}, "did you mean 'ts1'?"),
        ({"particles": 3}, "3 particles are not a multiple of the 2 elites"),
        ({"particles": 0}, "particles is 0; it must be at least 1"),
        ({"hold": 0}, "hold is 0"),
        ({"random_episodes": 0}, "random_episodes is 0"),
        ({"capacity": -1}, "capacity is -1"),
        ({"optimism": np.nan}, "optimism is nan"),
        ({"information": -1.0}, "information is -1.0"),
        ({"optimism": 1.0, "information": 1.0}, "two ways of exploring"),
        ({"model": "gaussian_process", "particles": 1, "propagation": "moments"}, "at least 2 particles"),
    ],
)
def test_settings_that_are_wrong(settings, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is asserted below
        dataclasses.replace(SMALL, **settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "quantum"}, "device 'quantum' can not be used"),
        ({"nominal": "casadii"}, "did you mean 'casadi'?"),
        ({"untold": ("pole_velocty",)}, "did you mean 'pole_velocity'?"),
    ],
)
def test_settings_that_do_not_fit_the_task(settings, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is asserted below
        dataclasses.replace(SMALL, **settings).start(environment(), 0)
    assert said in str(caught.value)


# Learning ---------------------------------------------------------------------------------------------------------


def test_a_reward_that_only_the_simulator_knows_is_learned(begin):
    """Of Gymnasium's pendulum: what is predicted of held-out episodes' rewards is close to what they were."""
    task = robots.load("gymnasium:Pendulum-v1")
    where = Environment(task, "gymnasium", task.robot.dt, 40 * task.robot.dt, PLANNER)
    process = GaussianProcessSettings(most_rows=120, iterations=20)
    settings = PETS(model="gaussian_process", process=process, particles=2, random_episodes=5, hold=3)
    learner = begin(settings, where)
    for _ in range(6):
        planned = learner.advance(unseen).episode
    assert (planned.status, learner.episodes, np.isfinite(planned.plan_cost).all()) == ("done", 6, True)
    other = dataclasses.replace(settings, process=PROCESS)
    episode = begin(other, where, seed=77).advance(unseen).episode
    expected = learner.model.expected(episode.y[:-1], episode.u)
    layout = task.robot.layout
    reward = layout(expected).reward
    assert np.ptp(episode.reward) > 2.0
    error = np.sqrt(np.mean((reward - episode.reward) ** 2))
    assert error < 0.25 * episode.reward.std()
    # Planning maximises it: a candidate's cost is 1 - reward, summed over what is predicted.
    rng, U = np.random.default_rng(0), np.random.default_rng(1).uniform(-2, 2, (3, 4, 1))
    rollout = learner.controller().dynamics.rollout(State(0.0, episode.y[0]), U, rng)
    times = task.robot.dt * np.arange(1, 5)
    found = rollout.costs(task, U, times)
    if found is None:
        found = (1.0 - layout(rollout.y[:, :, 1:]).reward).sum(-1)
    np.testing.assert_allclose(found, (1.0 - layout(rollout.y[:, :, 1:]).reward).sum(-1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pendulum_swings_up_within_four_episodes(begin):
    from trimtab.launch.scenario import find, resolve

    setup = resolve(find("pendulum-swingup"), learner="pets")
    where = Environment(setup.task, setup.simulator, setup.period, setup.duration, setup.planner)
    learner = begin(setup.learner, where, seed=0)
    returns = [learner.advance(unseen).metrics["return"] for _ in range(4)]
    assert max(returns) >= 700.0
