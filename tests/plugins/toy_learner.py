"""A learner small enough for tests that really learns: the cross-entropy method over a linear policy's gains."""

import json
from dataclasses import dataclass, field

import numpy as np
from trimtab.controllers.loop import run
from trimtab.learners.interface import Progress, TrainingError


class Linear:
    """u = K y, clipped by whoever applies it."""

    def __init__(self, gains, limits):
        self.gains, self.limits = gains, limits

    def reset(self, seed):
        pass

    def control(self, state):
        return np.clip(self.gains @ state.y, *self.limits)


@dataclass(frozen=True)
class Nested:
    units: int = 4


@dataclass(frozen=True)
class Toy:
    candidates: int = 6
    spread: float = 2.0
    fails_at: int = 0
    network: Nested = field(default_factory=Nested)

    def __post_init__(self):
        if self.candidates < 2:
            raise ValueError(f"candidates is {self.candidates}; it must be at least 2")

    def start(self, environment, seed):
        return ToyLearner(self, environment, seed)


class ToyLearner:
    def __init__(self, settings, environment, seed):
        self.settings, self.environment = settings, environment
        robot = environment.task.robot
        self.limits = robot.control_limits
        self.mean = np.zeros((robot.nu, robot.layout.size))
        self.std = np.full_like(self.mean, settings.spread)
        self.rng = np.random.default_rng(seed)
        self.steps = 0
        self.pieces = 0
        self.plant = environment.make()

    def check(self):
        pass

    def advance(self, watch):
        tried = self.mean + self.std * self.rng.standard_normal((self.settings.candidates, *self.mean.shape))
        episodes = []
        for k, gains in enumerate(tried):
            watch(f"candidate {k}", {"step": sum(map(len, episodes))})
            if self.pieces + 1 == self.settings.fails_at and k == 1:
                raise TrainingError("the robot\nran away")
            episode = run(
                self.plant,
                Linear(gains, self.limits),
                task=self.environment.task,
                duration=self.environment.duration,
                seed=int(self.rng.integers(2**32)),
            )
            if episode.status == "interrupted":
                raise KeyboardInterrupt
            self.steps += len(episode)
            episodes.append(episode)
        returns = np.array([episode.return_ for episode in episodes])
        elite = tried[np.argsort(-returns)[: max(2, len(tried) // 2)]]
        self.mean, self.std = elite.mean(axis=0), elite.std(axis=0) + 0.05
        self.pieces += 1
        metrics = {"return": returns.mean(), "model/spread": self.std.mean(), "nothing": np.nan}
        return Progress(self.steps, metrics, episodes[-1])

    def controller(self):
        return Linear(self.mean, self.limits)

    def save(self, folder):
        np.savez(folder / "gains.npz", mean=self.mean, std=self.std)
        rest = {"steps": self.steps, "pieces": self.pieces, "rng": self.rng.bit_generator.state}
        (folder / "rest.json").write_text(json.dumps(rest))

    def restore(self, folder):
        rest = json.loads((folder / "rest.json").read_text())
        try:
            with np.load(folder / "gains.npz") as gains:
                mean, std = gains["mean"], gains["std"]
        except Exception as error:
            raise ValueError(f"{folder / 'gains.npz'} was cut short: {error}") from error
        self.mean, self.std = mean, std
        self.steps, self.pieces = rest["steps"], rest["pieces"]
        self.rng.bit_generator.state = rest["rng"]

    def restore_controller(self, folder):
        self.restore(folder)

    def close(self):
        self.plant.close()
