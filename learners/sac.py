"""Soft actor-critic in training: gather experience, learn from all that there is, look how good the policy is.

    repeat: decisions of the policy in every copy of the plant -> replay; updates on what is drawn from replay

What is learned, and why, is in `actor_critic.py`. Here decisions and updates take turns, or go on beside each other:
then each round is gathered by the policy as it was when the round before had been learned from, in a thread of its own,
and numbers depend on the threads' timing no more than before.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..controllers.episode import Episode
from ..controllers.policy import PolicyController
from ..controllers.splines import check_colour
from . import checkpoint, passes
from .actor_critic import ActorCriticSettings, Batches
from .collection import Collector, Finished, Steps
from .coloured_noise import ExplorationNoise
from .device import usable_device
from .evaluation import evaluate
from .interface import Environment, Progress, TrainingError, Watch
from .learned_policy import LearnedPolicy, Snapshot
from .replay import Replay

POLICY, REPLAY, STATE = "policy.safetensors", "replay.npz", "state.json"
"""Files of a checkpoint, besides the collector's."""

_STATE = {"updates_due": float, "evaluated": int, "collect_rng": dict, "draw_rng": dict}
"""What `state.json` says, and of which type."""

_NETWORKS, _ACTIONS, _DRAWS = 16, 17, 18
"""Random streams that follow from the seed; the episodes' is the collector's."""

_DRAWN = 64
"""Most updates whose batches are drawn at once."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What happens when.

    Attributes:
        copies: of the plant that are stepped together, 1 to 256.
        random_steps: control steps under random controls at first, all copies together.
        round: decisions of each copy between updates.
        ratio: updates for each decision.
        beside: whether a round is gathered while the one before is learned from.
        piece: control steps of a piece of training, at least, all copies together.
        evaluate_every: control steps from one evaluation to the next, at least.
        episodes: of an evaluation.

    Raises:
        ValueError: a setting out of its range, named.
    """

    copies: int = 1
    random_steps: int = 2000
    round: int = 10
    ratio: float = 1.0
    beside: bool = False
    piece: int = 1000
    evaluate_every: int = 5000
    episodes: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 256:
            raise ValueError(f"copies is {self.copies}; it must be from 1 to 256")
        for name in ("random_steps", "round", "piece", "evaluate_every", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.ratio) and self.ratio > 0.0):
            raise ValueError(f"ratio is {self.ratio}; it must be finite and above 0")


@dataclass(frozen=True, kw_only=True)
class SAC(ActorCriticSettings):
    """Soft actor-critic: model-free, off-policy, maximum entropy.

    Attributes:
        n_step: decisions whose rewards a target sums up before it asks the critics; the policy's entropies on the way
            do not count then.
        capacity: most decisions that are kept, oldest replaced.
        colour: exponent of the power 1/f^colour that exploration has along an episode, random controls at first
            included: 0 is white, as published, 1 pink. Not for choices.
        normalised: whether networks are told readings less their mean and over their standard deviation.
        untold: readings, or entries of them, that networks are not told: how far a robot has walked, for one.
        schedule: what happens when.
        device: of the networks, as torch names it: `cpu`, `cuda`, `cuda:1`.

    Raises:
        ValueError: a setting out of its range, named.
    """

    n_step: int = 1
    capacity: int = 1_000_000
    colour: float = 0.0
    normalised: bool = True
    untold: tuple[str, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_step", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_colour(self.colour)
        if self.capacity < self.schedule.copies:
            raise ValueError(f"capacity is {self.capacity}; it must be at least copies, {self.schedule.copies}")

    def start(self, environment: Environment, seed: int) -> "SACTraining":
        """Training from the beginning; see `LearnerSettings.start`."""
        return SACTraining(self, environment, seed)


class SACTraining:
    """Soft actor-critic under way; a `Learner`, whose pieces are some control steps and the updates that go with them.

    Attributes:
        policy: what has been learned.
        replay: what it was learned from, one row for each decision.
    """

    def __init__(self, settings: SAC, environment: Environment, seed: int) -> None:
        self.settings, self.environment = settings, environment
        self._seed = seed
        device = usable_device(settings.device)
        self.policy = LearnedPolicy(
            environment.task,
            environment.period,
            settings,
            np.random.default_rng([seed, _NETWORKS]),
            settings.untold,
            settings.normalised,
            device,
        )
        if device.type == "cpu":
            passes.prepare()
        if settings.colour and self.policy.choices:
            raise ValueError(f"colour is {settings.colour}; exploration among choices is white: 0")
        decided = environment.task.with_period(environment.period).robot
        copies = settings.schedule.copies
        self.replay = Replay(decided, settings.capacity // copies * copies, lanes=copies)
        self._actions = np.random.default_rng([seed, _ACTIONS])
        self._draws = np.random.default_rng([seed, _DRAWS])
        self._due = 0.0  # updates that decisions have earned
        self._evaluated = 0  # control steps at the last evaluation
        self._gathering: Collector | None = None
        self._noise: ExplorationNoise | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def steps(self) -> int:
        """Control steps of the plants so far, those of all copies together."""
        return 0 if self._gathering is None else self._gathering.steps

    @property
    def _collector(self) -> Collector:
        # Made when it is needed: a controller does not need plants.
        if self._gathering is None:
            self._gathering = Collector(self.environment, self.settings.schedule.copies, self._seed)
            if self.settings.colour:
                actions, decisions = self.policy.learned.actions, self._gathering.longest
                self._noise = ExplorationNoise(self.settings.colour, decisions, actions, self._seed)
        return self._gathering

    def check(self) -> None:
        """Begins the first episodes.

        Raises:
            ValueError: the plant can not simulate the task.
        """
        _ = self._collector

    def advance(self, watch: Watch) -> Progress:
        """Some control steps and their updates, and an evaluation if one is due; see `Learner.advance`."""
        schedule, collector = self.settings.schedule, self._collector
        begun, counts = collector.steps, _Piece()
        while collector.steps - begun < schedule.piece:
            self._round(counts)
            watch("learning", counts.shown(collector.steps - begun))
        evaluation: dict[str, float] = {"return": math.nan, "success": math.nan, "length": math.nan}
        episode: Episode | None = None
        if collector.steps - self._evaluated >= schedule.evaluate_every:
            self._evaluated = collector.steps
            evaluation, episode = self._evaluate(watch, counts)
        metrics = {**evaluation, **counts.metrics(), "rows": float(len(self.replay))}
        return Progress(collector.steps, metrics, episode)

    def controller(self) -> PolicyController:
        """Drives the task by the policy's mean."""
        return self.policy.controller(self.environment.task)

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self.policy.save(folder / POLICY)
        self.replay.save(folder / REPLAY)
        self._collector.save(folder)
        state = {
            "updates_due": self._due,
            "evaluated": self._evaluated,
            "collect_rng": checkpoint.rng_state(self._actions),
            "draw_rng": checkpoint.rng_state(self._draws),
        }
        checkpoint.save_numbers(folder / STATE, state)

    def restore_controller(self, folder: Path) -> None:
        """See `Learner.restore_controller`."""
        policy = LearnedPolicy.load(folder / POLICY, self.environment.task, self.policy.learned.device)
        self.policy.refuse_other(policy, str(folder / POLICY))
        self.policy = policy

    def restore(self, folder: Path) -> None:
        """See `Learner.restore`."""
        state = checkpoint.load_numbers(folder / STATE, _STATE, "state of soft actor-critic")
        policy = LearnedPolicy.load(folder / POLICY, self.environment.task, self.policy.learned.device)
        self.policy.refuse_other(policy, str(folder / POLICY))
        replay = Replay.load(folder / REPLAY, self.replay.signature)
        for name in ("capacity", "lanes"):
            ours, theirs = getattr(self.replay, name), getattr(replay, name)
            if ours != theirs:
                raise ValueError(f"{folder} is of another number of {name}: {theirs}; expected: {ours}")
        streams = [np.random.default_rng(0) for _ in range(2)]
        for stream, name in zip(streams, ("collect_rng", "draw_rng")):
            checkpoint.restore_rng(stream, state[name])
        self._collector.restore(folder)
        self.policy, self.replay = policy, replay
        self._actions, self._draws = streams
        self._due, self._evaluated = state["updates_due"], state["evaluated"]

    def close(self) -> None:
        """Frees the plants."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._gathering is not None:
            self._gathering.close()

    def _round(self, counts: "_Piece") -> None:
        """A round of decisions, and the updates that are due."""
        policy = self.policy.snapshot()
        if self.settings.schedule.beside and self._due >= 1.0:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="collecting")
            gathering = self._thread.submit(self._gather, policy)
            try:
                self._learn(counts)
            finally:
                gathered = gathering.result()
        else:
            gathered = self._gather(policy)
        rounds, took = gathered
        counts.collect_s += took
        for steps in rounds:
            self._store(steps, counts)
        if self._collector.steps > self.settings.schedule.random_steps:
            self._due += sum(int(steps.valid.sum()) for steps in rounds) * self.settings.schedule.ratio
        if not self.settings.schedule.beside:
            self._learn(counts)

    def _gather(self, policy: Snapshot) -> tuple[list[Steps], float]:
        """Decisions of a round, and the time [s] that they took."""
        begun, collector, rounds = time.perf_counter(), self._collector, []
        for _ in range(self.settings.schedule.round):
            noise = None if self._noise is None else self._noise.at(*collector.under_way())
            if collector.steps < self.settings.schedule.random_steps:
                controls = self.policy.random_controls(len(collector.y), self._actions, noise)
            else:
                controls = policy(collector.y, self._actions, noise)
            rounds.append(collector.step(controls))
        return rounds, time.perf_counter() - begun

    def _store(self, steps: Steps, counts: "_Piece") -> None:
        rejected = self.replay.extend(
            steps.y, steps.u, steps.y_next, steps.reward, steps.terminated, steps.truncated, valid=steps.valid
        )
        if rejected:
            raise TrainingError(f"after {self._collector.steps} control steps, {rejected[0]}")
        self.policy.learn_statistics(steps.y[steps.valid])
        counts.finished += steps.finished

    def _learn(self, counts: "_Piece") -> None:
        """The updates that are due."""
        begun, due = time.perf_counter(), int(self._due)
        self._due -= due
        while due and len(self.replay):
            count = min(due, _DRAWN)
            due -= count
            counts.add(count, self._update(count))
        counts.update_s += time.perf_counter() - begun

    def _update(self, count: int) -> dict[str, float]:
        s, policy = self.settings, self.policy
        rows, discounts = self.replay.sample_returns((count, s.batch), s.n_step, s.discount, self._draws)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32).to(policy.learned.device)

        found = policy.learned.update(
            Batches(
                seen=tensor(policy.seen(rows.y)),
                action=tensor(policy.actions(rows.u)),
                reward=tensor(rows.reward),
                seen_next=tensor(policy.seen(rows.y_next)),
                # Where time was up, what would have come has a value; where the task ended, nothing comes.
                discount=tensor(np.where(rows.terminated, 0.0, discounts)),
            )
        )
        if not all(math.isfinite(found[name]) for name in ("critic", "value", "temperature")):
            raise TrainingError(
                f"after {self._collector.steps} control steps and {policy.learned.updates} updates, values are no "
                "longer finite: a lower learning rate, or layer_norm, may help"
            )
        return found

    def _evaluate(self, watch: Watch, counts: "_Piece") -> tuple[dict[str, float], Episode]:
        """What the policy's mean scores, on starts of their own, and the last episode; NaN if one of them failed."""
        last: list[Episode] = []

        def observe(k: int, episode: Episode) -> None:
            watch("evaluating", {"episode": k})
            last[:] = [episode]

        found = evaluate(
            self.controller(),
            self.environment,
            episodes=self.settings.schedule.episodes,
            seed=self._seed,
            observe=observe,
            in_training=True,
        )
        means = float(found.returns.mean()), float(found.successes.mean()), float(found.lengths.mean())
        if found.failures:
            counts.failed += len(found.failures)
            means = (math.nan, *means[1:])
        return dict(zip(("return", "success", "length"), means)), last[0]


@dataclass
class _Piece:
    """What happens in a piece of training."""

    finished: tuple[Finished, ...] = ()
    updates: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    collect_s: float = 0.0
    update_s: float = 0.0
    failed: int = 0  # evaluations

    def add(self, updates: int, found: dict[str, float]) -> None:
        """Counts so many updates, with what they came to on average."""
        self.updates += updates
        for name, value in found.items():
            if math.isfinite(value):
                self.sums[name] = self.sums.get(name, 0.0) + updates * value
                self.weights[name] = self.weights.get(name, 0) + updates

    def mean(self, name: str) -> float:
        """The mean of that over the updates; NaN where there is none."""
        return self.sums[name] / self.weights[name] if name in self.sums else math.nan

    def shown(self, steps: int) -> dict[str, float]:
        """What to show while it goes on."""
        return {"step": float(steps), "updates": float(self.updates), "value": self.mean("value")}

    def metrics(self) -> dict[str, float]:
        """What it came to."""
        returns = [episode.return_ for episode in self.finished if not episode.failed]
        return {
            "train/explored": float(np.mean(returns)) if returns else math.nan,
            "train/value": self.mean("value"),
            "train/critic": self.mean("critic"),
            "train/entropy": self.mean("entropy"),
            "train/temperature": self.mean("temperature"),
            "train/updates_per_s": self.updates / self.update_s if self.updates else math.nan,
            "episodes": float(len(self.finished)),
            "failed": float(self.failed + sum(bool(episode.failed) for episode in self.finished)),
            "updates": float(self.updates),
            "collect_s": self.collect_s,
            "update_s": self.update_s,
        }
