"""A policy and its values as a robot uses them: from readings to controls, and to what is to be expected.

What the networks are told are the readings as `encoding.py` has them, angles as sine and cosine, and the task's own
observation of them, less their mean and over their standard deviation in all that was experienced. Controls lie between
-1 and 1 where the networks are, and within the robot's limits here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr

from ..controllers.policy import PolicyController
from ..robots.task import Task
from . import checkpoint
from .actor_critic import ActorCriticSettings, DiscreteSoftActorCritic, SoftActorCritic
from .encoding import Encoding
from .perceptrons import NetworkSettings
from .replay import Signature

_KIND = "learned policy"

_AT_ONCE = 4096
"""Most rows that are valued at once."""

FARTHEST = 10.0
"""Standard deviations from the mean beyond which what is told is cut off."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of rows (n, width) that come bit by bit (Chan, Golub and LeVeque, 1983).

    Attributes:
        mean: (width,).
        squares: sums of squared differences from it (width,).
        count: of rows.
    """

    mean: np.ndarray
    squares: np.ndarray
    count: int = 0

    def with_rows(self, rows: np.ndarray) -> "Statistics":
        """Those of `rows` (n, width) too."""
        if not len(rows):
            return self
        mean, count = rows.mean(axis=0), self.count + len(rows)
        apart = mean - self.mean
        within = ((rows - mean) ** 2).sum(axis=0)
        squares = self.squares + within + apart**2 * (self.count * len(rows) / count)
        return Statistics(self.mean + apart * (len(rows) / count), squares, count)

    @cached_property
    def deviation(self) -> np.ndarray:
        """Standard deviation (width,); 1 where there is none."""
        deviation = np.sqrt(self.squares / max(self.count, 1))
        return np.where(deviation > 1e-6, deviation, 1.0)


class Snapshot:
    """A policy as it was at some time, whatever is learned later: readings (..., ny) to controls (..., nu).

    Args:
        policy: to be asked.
    """

    def __init__(self, policy: "LearnedPolicy") -> None:
        self._of, self._statistics, self._network = policy, policy.statistics, policy.learned.policy()

    def __call__(
        self, y: np.ndarray, rng: np.random.Generator | None = None, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Controls: the policy's mean, or its likeliest choice; drawn from it if there is an `rng`, or by `noise`."""
        seen = self._of.seen(y, self._statistics)
        actions = self._network(seen.reshape(-1, seen.shape[-1]), rng, noise)
        return self._of.controls(actions).reshape(*seen.shape[:-1], -1)


class LearnedPolicy:
    """What soft actor-critic has learned of a task; a `Guide` for planners.

    Args:
        task: what is to be done.
        period: of decisions [s].
        settings: of learning.
        rng: draws the first weights.
        untold: readings, or entries of them, that the networks are not told.
        normalised: whether they are told readings less their mean and over their standard deviation.
        device: where the networks are.

    Raises:
        ValueError: an unknown reading is not to be told, or none is left, or no policy has the entropy asked for.

    Attributes:
        task: what it is of.
        encoding: of the readings.
        statistics: of what was told.
        learned: the networks.
    """

    def __init__(
        self,
        task: Task,
        period: float,
        settings: ActorCriticSettings,
        rng: np.random.Generator,
        untold: Sequence[str] = (),
        normalised: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.period, self.untold, self.normalised = period, tuple(untold), normalised
        self.task, robot = task, task.robot
        self.signature = Signature.of(robot)
        self.encoding = Encoding.of(robot, untold=untold, parameters=True)
        width = self.features(np.zeros((1, robot.layout.size))).shape[-1]
        if not width:
            raise ValueError(f"untold names all readings of {robot.name}: there is nothing left to decide on")
        self.statistics = Statistics(np.zeros(width), np.zeros(width))
        low, high = robot.bounded_limits
        self._low, self._half = low, 0.5 * (high - low)
        self.choices = robot.choices
        kind = DiscreteSoftActorCritic if self.choices else SoftActorCritic
        self.learned = kind(width, self.choices or robot.nu, settings, rng, device)
        self._snapshot: tuple[int, Statistics, Snapshot] | None = None

    @property
    def discount(self) -> float:
        """Of what comes a decision later."""
        return self.learned.settings.discount

    @property
    def dt(self) -> float:
        """Control period of the plant [s] for each of which there was a reward."""
        return self.signature.dt

    def features(self, y: np.ndarray) -> np.ndarray:
        """What the networks are told of readings (..., ny), before it is normalised: (..., no)."""
        told = self.encoding.tell(y, y[..., :0])
        if self.task.observation is None:
            return told
        return np.concatenate([told, self.task.observation(self.task.robot.layout(y))], axis=-1)

    def seen(self, y: np.ndarray, statistics: Statistics | None = None) -> np.ndarray:
        """What the networks are told of readings (..., ny): (..., no), float32; by the statistics now, or these."""
        told = self.features(y)
        if self.normalised:
            by = statistics or self.statistics
            told = np.minimum(np.maximum((told - by.mean) / by.deviation, -FARTHEST), FARTHEST)
        return told.astype(np.float32)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """Controls (..., nu) of the networks' actions, between -1 and 1 or numbers of choices."""
        if self.choices:
            return self._low + 0.5 + actions
        return self._low + self._half * (np.asarray(actions) + 1.0)

    def actions(self, u: np.ndarray) -> np.ndarray:
        """Actions of the networks that are controls (..., nu)."""
        if self.choices:
            return np.clip(np.round(u - self._low - 0.5), 0, self.choices - 1)
        return np.clip((u - self._low) / self._half - 1.0, -1.0, 1.0)

    def random_controls(self, count: int, rng: np.random.Generator, noise: np.ndarray | None = None) -> np.ndarray:
        """Controls (count, nu), as likely as any others within limits; by standard normal `noise` if there is any."""
        if self.choices:
            return self.controls(rng.integers(self.choices, size=(count, 1)))
        if noise is not None:
            return self.controls(2.0 * ndtr(noise) - 1.0)
        return self.controls(rng.uniform(-1.0, 1.0, (count, len(self._low))))

    def learn_statistics(self, y: np.ndarray) -> None:
        """Takes account of readings (n, ny) that were experienced."""
        if self.normalised:
            self.statistics = self.statistics.with_rows(self.features(y))

    def action(self, y: np.ndarray) -> np.ndarray:
        """Controls (..., nu) on readings (..., ny): the policy's mean, or its likeliest choice."""
        now = self.learned.updates, self.statistics
        if self._snapshot is None or self._snapshot[0] != now[0] or self._snapshot[1] is not now[1]:
            self._snapshot = (*now, self.snapshot())
        return self._snapshot[2](y)

    def snapshot(self) -> Snapshot:
        """The policy as it is now."""
        return Snapshot(self)

    def value(self, y: np.ndarray) -> np.ndarray:
        """Expected discounted sum (...) of rewards, summed per decision, from readings (..., ny) on.

        It is the soft value: the entropies to come count too (where targets are of several steps, those after them),
        times alpha, which is small where much was learned.
        """
        seen = self.seen(y)
        rows = torch.as_tensor(seen.reshape(-1, seen.shape[-1])).to(self.learned.device)
        values = [self.learned.value(part) for part in rows.split(_AT_ONCE)]
        return torch.cat(values).cpu().numpy().astype(float).reshape(seen.shape[:-1])

    def controller(self, task: Task) -> PolicyController:
        """Drives `task` by the policy's mean as it is now."""
        return PolicyController(self.snapshot(), task, self.period)

    def refuse_other(self, other: "LearnedPolicy", where: str) -> None:
        """Raises a ValueError that says in what `other`, saved at `where`, is not to go on where this one is."""
        self.signature.refuse_other(other.signature, where)
        for name in ("period", "untold", "normalised"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"{where} is of another {name}: {theirs}; expected: {ours}")
        settings, others = self.learned.settings, other.learned.settings
        for f in fields(ActorCriticSettings):
            ours, theirs = getattr(settings, f.name), getattr(others, f.name)
            if ours != theirs:
                raise ValueError(f"{where} is of another {f.name}: {theirs}; expected: {ours}")

    def save(self, path: str | os.PathLike) -> None:
        """Writes all of it to `path`, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        s = self.learned.settings
        settings = {f.name: getattr(s, f.name) for f in fields(ActorCriticSettings)}
        content = {
            "task": self.task.name,
            "signature": self.signature.to_json(),
            "period": self.period,
            "settings": {**settings, "network": asdict(s.network)},
            "untold": [*self.untold],
            "normalised": self.normalised,
            "choices": self.choices,
            "statistics": {
                "mean": torch.from_numpy(self.statistics.mean),
                "squares": torch.from_numpy(self.statistics.squares),
                "count": self.statistics.count,
            },
            "learned": self.learned.state_dict(),
        }
        checkpoint.save(path, _KIND, content)

    @classmethod
    def load(cls, path: str | os.PathLike, task: Task, device: torch.device | str = "cpu") -> "LearnedPolicy":
        """What was saved at `path`, for `task`, at whatever control period its robot is simulated.

        Raises:
            OSError: it can not be read.
            ValueError: it is none, was cut short, or is another robot's.
        """
        return cls.from_state_dict(cls.read(path), task, device, str(path))

    @staticmethod
    def read(path: str | os.PathLike) -> dict[str, Any]:
        """What was saved at `path`, whatever the robot.

        Raises:
            OSError: it can not be read.
            ValueError: it is none, or was cut short.
        """
        return checkpoint.load(path, _KIND)

    @classmethod
    def from_state_dict(
        cls, content: Mapping[str, Any], task: Task, device: torch.device | str, where: str
    ) -> "LearnedPolicy":
        """What `read` found, for `task`; messages call it `where`.

        Raises:
            ValueError: it is another robot's, or does not say all.
        """
        robot = task.robot
        try:
            signature = Signature.from_json(content["signature"])
            replace(Signature.of(robot), dt=signature.dt).refuse_other(signature, where)
            settings = dict(content["settings"])
            network = dict(settings.pop("network"))
            network["hidden"] = tuple(network["hidden"])
            made = ActorCriticSettings(network=NetworkSettings(**network), **settings)
            untold, normalised = tuple(content["untold"]), bool(content["normalised"])
            if content["choices"] != robot.choices:
                raise ValueError(f"{where} is of {content['choices']} choices; expected: {robot.choices}")
            rng = np.random.default_rng(0)
            policy = cls(task, float(content["period"]), made, rng, untold, normalised, device)
            policy.signature = signature
            told = content["statistics"]
            found = Statistics(told["mean"].numpy(), told["squares"].numpy(), int(told["count"]))
            if found.mean.shape != policy.statistics.mean.shape:
                raise ValueError(f"{where} is of readings told otherwise")
            policy.learned.load_state_dict(content["learned"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} does not say all that makes a learned policy: {error!r}") from error
        policy.statistics = found
        return policy
