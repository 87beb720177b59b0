"""PETS: plan on a learned model, gather what that leads to, learn the model anew.

    D <- episodes under random controls
    repeat: fit the model to D; an episode under MPC on the model; D <- D and the episode

so that the model learns where its plans go (aggregation, as in DAgger: Ross, Gordon and Bagnell, 2011). With members
that disagree where data are few, plans are made for all that may be true (Chua, Calandra, McAllister and Levine, Deep
reinforcement learning in a handful of trials using probabilistic dynamics models, 2018). With the ensemble replaced by
a single network it is the model-based loop of Nagabandi et al. (2018).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..controllers.episode import Episode
from ..controllers.interface import Controller, Timing
from ..controllers.loop import run
from ..controllers.mpc import MPC
from ..controllers.plan import Plan
from ..robots.plugins import UnknownName
from ..robots.task import Robot, Task
from ..sim.interface import Scene, State
from . import checkpoint
from .calibration import calibration
from .device import usable_device
from .encoding import Encoding
from .ensemble import Ensemble, EnsembleSettings
from .ensemble_dynamics import EnsembleDynamics, Propagation, check_particles
from .exploration import Bonus, InformationGain, Optimism
from .gaussian_process import GaussianProcess, GaussianProcessSettings
from .interface import Environment, Progress, TrainingError, Watch
from .learned_model import LearnedModel
from .nominal import AnalyticNominal
from .regressor import Fit, Look, Regressor
from .replay import Replay

MODEL, REPLAY, STATE = "model.safetensors", "replay.npz", "state.json"
"""Files of a checkpoint."""

Model = Literal["ensemble", "deterministic", "gaussian_process"]

_TOLD = ("propagation", "particles")
"""Settings that a checkpoint tells, by which plans are made on it."""

_STATE = {"steps": int, "episodes": int, "rng": dict, "propagation": str, "particles": int, "device": str}
"""What `state.json` says, and of which type."""

_MODEL, _FIT, _EPISODE = range(3)
"""Random streams that follow from the seed."""


@dataclass(frozen=True, kw_only=True)
class PETS:
    """Model-based reinforcement learning by planning on what has been learned.

    Attributes:
        model: `ensemble` of probabilistic networks, `deterministic` ones, or `gaussian_process`, for small data.
        network: the networks' shape and training.
        process: the Gaussian processes' kernel and training.
        nominal: analytic dynamics (`casadi`, `pinocchio`, `mujoco`) to whose prediction what is learned adds; none if
            empty.
        untold: readings, or entries of them, that the motion does not depend on and the model is not told.
        propagation: of particles along a plan: `ts1`, `tsinf`, `moments` or `mean`.
        particles: that each candidate is rolled out with; a multiple of the elites.
        random_episodes: at first, under random controls; 0 only with `data`.
        data: what to learn from before the first episode: a replay store, `F.npz`, or a Minari data set, `minari:ID`.
        hold: decisions that a random control lasts.
        optimism: standard deviations of their cost across particles by which plans are made for less; it takes at least
            2 particles, of 2 elites where these predict no noise.
        information: reward for each nat that a plan would tell of the model.
        capacity: most decisions that are kept; 0 keeps all.
        device: of the networks, as torch names it: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ValueError: a setting out of its range, named.
    """

    model: Model = "ensemble"
    network: EnsembleSettings = field(default_factory=EnsembleSettings)
    process: GaussianProcessSettings = field(default_factory=GaussianProcessSettings)
    nominal: str = ""
    untold: tuple[str, ...] = ()
    propagation: Propagation = "tsinf"
    particles: int = 5
    random_episodes: int = 1
    data: str = ""
    hold: int = 2
    optimism: float = 0.0
    information: float = 0.0
    capacity: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, kind, value in (("model", Model, self.model), ("propagation", Propagation, self.propagation)):
            if value not in get_args(kind):
                raise UnknownName(name, value, get_args(kind))
        for name, least in (("particles", 1), ("random_episodes", 0 if self.data else 1), ("hold", 1), ("capacity", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("optimism", "information"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0.0):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and at least 0")
        if self.optimism and self.information:
            raise ValueError("optimism and information are two ways of exploring: set one of them to 0")
        elites = 1 if self.model == "gaussian_process" else self.network.elites
        check_particles(self.propagation, self.particles, elites)
        if self.information and elites == 1:
            raise ValueError("information is what members disagree on: it takes a model of more than one")
        noisy = self.propagation != "mean" and self.model != "deterministic"
        if self.optimism and (self.particles if noisy else elites) < 2:
            few = "particle" if noisy else "elite"
            raise ValueError(f"optimism is for the spread of particles' costs: it takes more than one {few}")
        if self.model == "ensemble" and not self.network.probabilistic:
            raise ValueError("network.probabilistic is false: that is model = deterministic")

    def start(self, environment: Environment, seed: int) -> "PETSTraining":
        """Training from the beginning; see `LearnerSettings.start`."""
        if environment.repeat > 1 and Encoding.of(environment.task.robot).values:
            raise ValueError(
                f"{environment.task.name} reports what each control step scores, so that it is learned at its own "
                f"control period, {environment.task.robot.dt:g} s, not at {environment.period:g} s"
            )
        return PETSTraining(self, environment, seed)


class PETSTraining:
    """PETS under way; a `Learner`, whose pieces are an episode and a fit each.

    Attributes:
        steps: control steps of the plant so far.
        episodes: so far.
        model: what has been learned.
        replay: what it was learned from, one row for each decision.
    """

    def __init__(self, settings: PETS, environment: Environment, seed: int) -> None:
        self.settings = settings
        self.environment = environment
        self.steps = 0
        self.episodes = 0
        self._seed = seed
        self._task = environment.task.with_period(environment.period)
        robot = self._task.robot
        self.model = _model(settings, robot, np.random.default_rng([seed, _MODEL]))
        self.replay = Replay(robot, settings.capacity or None)
        self._refused = 0
        self._rng = np.random.default_rng([seed, _FIT])
        bonus: Bonus | None = None
        if settings.optimism:
            bonus = Optimism(settings.optimism)
        elif settings.information:
            bonus = InformationGain(settings.information)
        self._explored = EnsembleDynamics(self._task, self.model, settings.propagation, settings.particles, bonus)
        self._plant = environment.make()

    def check(self) -> None:
        """Reads the data to begin with, if it is told of any; see `Learner.check`."""
        if self.settings.data and not self.episodes and not len(self.replay):
            s = self.settings
            self.replay, self._refused = _data(s.data, self._task.robot, s.capacity or None)

    def advance(self, watch: Watch) -> Progress:
        """An episode, at random or planned on the model so far, then a fit; see `Learner.advance`."""
        if not self.episodes:
            self.check()
            if len(self.replay):
                self._fit(watch)
        explored = self.episodes < self.settings.random_episodes or self._explored.bonus is not None
        episode = self._episode(watch)
        if not len(episode):
            raise TrainingError(f"episode {self.episodes + 1} has no step: {episode.reason or episode.status}")
        self.episodes += 1
        self.steps += len(episode)
        before = self.replay.first + len(self.replay)
        rejected = self.replay.add_episode(episode, self.environment.repeat)
        if not len(self.replay):
            raise TrainingError(
                f"episode {self.episodes}: nothing to learn from{': ' + str(rejected[0]) if rejected else ''}"
            )
        foreseen = self._foreseen(before)
        begun = time.perf_counter()
        fit = self._fit(watch)
        metrics = self._metrics(episode, fit, foreseen, len(rejected), time.perf_counter() - begun)
        return Progress(self.steps, metrics, episode, score=np.nan if explored else episode.return_)

    def controller(self) -> MPC:
        """MPC on what has been learned, without a bonus for exploring."""
        s = self.settings
        return MPC(
            self.environment.planner,
            EnsembleDynamics(self._task, self.model, s.propagation, s.particles),
            self._task,
        )

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self.model.save(folder / MODEL)
        self.replay.save(folder / REPLAY)
        state = {
            "steps": self.steps,
            "episodes": self.episodes,
            "rng": checkpoint.rng_state(self._rng),
            "device": self.settings.device,
            **{name: getattr(self.settings, name) for name in _TOLD},
        }
        checkpoint.save_numbers(folder / STATE, state)

    def restore(self, folder: Path) -> None:
        """See `Learner.restore`."""
        state = read_state(folder)
        model = LearnedModel.load(folder / MODEL, self._task.robot, self.settings.device)
        self.model.refuse_other(model, str(folder / MODEL))
        replay = Replay.load(folder / REPLAY, self._task.robot)
        ours = {"capacity": self.replay.capacity, **{name: getattr(self.settings, name) for name in _TOLD}}
        theirs = {"capacity": replay.capacity, **state}
        for name, value in ours.items():
            if theirs[name] != value:
                raise ValueError(f"{folder} is of another {name}: {theirs[name]}; expected: {value}")
        rng = np.random.default_rng(0)
        checkpoint.restore_rng(rng, state["rng"])
        self.model, self.replay, self._rng = model, replay, rng
        self._explored.model = model
        self.steps, self.episodes = state["steps"], state["episodes"]

    def restore_controller(self, folder: Path) -> None:
        """See `Learner.restore_controller`."""
        model = LearnedModel.load(folder / MODEL, self._task.robot, self.settings.device)
        self.model.refuse_other(model, str(folder / MODEL))
        self.model = model

    def close(self) -> None:
        """Closes the plant."""
        self._plant.close()

    def _episode(self, watch: Watch) -> Episode:
        number, at_random = self.episodes + 1, self.episodes < self.settings.random_episodes
        controller: Controller
        if at_random:
            controller = RandomControls(self._task, self.settings.hold)
        else:
            controller = MPC(self.environment.planner, self._explored, self._task)
        seed = int(np.random.SeedSequence([self._seed, _EPISODE, self.episodes]).generate_state(1)[0])
        name = f"episode {number}{' at random' if at_random else ''}"
        episode = run(
            self._plant,
            controller,
            task=self.environment.task,
            duration=self.environment.duration,
            observers=[_Teller(watch, name)],
            seed=seed,
            safety=self.environment.safety,
        )
        if episode.status == "interrupted":
            raise KeyboardInterrupt
        if episode.status == "failed" and not episode.reason.startswith("the simulator failed"):
            raise TrainingError(f"episode {number}: {episode.reason}")
        return episode

    def _fit(self, watch: Watch) -> Fit:
        def observe(look: Look) -> None:
            watch("fitting", {"updates": look.updates, "holdout": float(np.mean(look.holdout))})

        try:
            return self.model.fit(self.replay, self._rng, observe)
        except FloatingPointError as error:
            raise TrainingError(f"fitting after episode {self.episodes}: {error}") from error

    def _foreseen(self, before: int) -> float:
        """How much of the rows from number `before` on the model's 90 % interval covers, before it learns from them."""
        rows = np.arange(max(before, self.replay.first), self.replay.first + len(self.replay))
        if not self.model.regressor.version or not len(rows):
            return np.nan
        inputs, targets = self.model.data(self.replay.rows(rows))
        elites = self.model.regressor.elites
        mean, variance = (part[elites] for part in self.model.regressor.predict(inputs))
        return calibration(mean, variance, targets).covered90

    def _metrics(self, episode: Episode, fit: Fit, foreseen: float, rejected: int, fit_s: float) -> Mapping[str, float]:
        return {
            "return": episode.return_,
            "success": float(episode.success),
            "length": float(len(episode)),
            "failed": float(episode.status == "failed"),
            "rows": float(len(self.replay)),
            "rejected": float(rejected + (self._refused if self.episodes == 1 else 0)),
            "plan_ms": float(np.median(episode.plan_ms)) if len(episode.plan_ms) else np.nan,
            "model/holdout": float(np.mean(np.sort(fit.holdout)[: len(self.model.regressor.elites)])),
            "model/coverage90": fit.calibration.covered90,
            "model/foreseen90": foreseen,
            "model/calibration_error": fit.calibration.error,
            "model/training": float(np.mean(fit.looks[-1].training)) if fit.looks else np.nan,
            "model/updates": float(fit.updates),
            "model/fit_s": fit_s,
        }


class RandomControls:
    """A controller that draws controls uniformly within limits, and holds each for some decisions of `task`."""

    def __init__(self, task: Task, hold: int) -> None:
        self._limits = task.robot.bounded_limits
        self._last = hold * task.robot.dt
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begins an episode."""
        self._rng = np.random.default_rng(seed)
        self._drawn = -1
        self._u = np.zeros_like(self._limits[0])

    def control(self, state: State) -> np.ndarray:
        """The control (nu,) in force at the state's time."""
        now = int(state.time / self._last + 1e-6)
        while self._drawn < now:
            self._u = self._rng.uniform(*self._limits)
            self._drawn += 1
        return self._u


class _Teller:
    """Tells how an episode goes; an observer of the loop."""

    draws = False
    period = 0.2

    def __init__(self, watch: Watch, name: str) -> None:
        self._watch, self._name = watch, name
        self._told = 0.0

    def start(self, scene: Scene | None, task: Task) -> None:
        """An episode begins."""
        self._watch(self._name, {})

    def step(self, state: State, u: np.ndarray, plan: Plan | None, timing: Timing) -> None:
        """A step was taken."""
        if (now := time.monotonic()) - self._told > self.period:
            self._told = now
            self._watch(self._name, {"step": timing.step})

    def end(self, episode: Any) -> None:
        """The episode is over."""


def _model(settings: PETS, robot: Robot, rng: np.random.Generator) -> LearnedModel:
    """The model that the settings ask for, untrained."""
    encoding, device = Encoding.of(robot, untold=settings.untold), usable_device(settings.device)
    nominal = AnalyticNominal(robot, settings.nominal) if settings.nominal else None
    regressor: Regressor
    if settings.model == "gaussian_process":
        regressor = GaussianProcess(encoding.inputs, encoding.outputs, rng, settings.process, device)
    else:
        network = replace(settings.network, probabilistic=settings.model == "ensemble")
        regressor = Ensemble(encoding.inputs, encoding.outputs, rng, network, device)
    return LearnedModel(robot, encoding, regressor, nominal)


def _data(source: str, robot: Robot, capacity: int | None) -> tuple[Replay, int]:
    """A replay store with what lies at `source`, and how many steps were refused.

    Raises:
        ValueError: there is nothing of the kind, or it is another robot's.
    """
    kind, _, name = source.partition(":")
    if kind == "minari":
        from .minari_data import import_minari

        store, rejections = import_minari(name, robot, capacity=capacity)
        return store, len(rejections)
    try:
        found = Replay.load(source, robot)
    except OSError as error:
        raise ValueError(f"can not read data {source!r}: {error.strerror or error}") from error
    store = Replay(robot, capacity)
    for rows in found.segments():
        store.end()
        store.extend(rows.y, rows.u, rows.y_next, rows.reward, rows.terminated, rows.truncated)
    return store, 0


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint's `state.json` says.

    Raises:
        OSError: it can not be read.
        ValueError: it was cut short, or says too little.
    """
    return checkpoint.load_numbers(folder / STATE, _STATE, "state of PETS")
