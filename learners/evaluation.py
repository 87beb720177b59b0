"""How good what was learned is: episodes without exploration, on starts that training has not seen.

Returns of few episodes are summed up by their interquartile mean, with a 95 % interval by the percentile bootstrap
(Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice, 2021).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from ..controllers.episode import Episode
from ..controllers.interface import Controller
from ..controllers.loop import run
from .interface import Environment

RESAMPLES = 10_000
_STREAM = 0x6576616C  # apart from the streams that learners draw from the same seed


@dataclass(frozen=True)
class Summary:
    """Returns in numbers.

    Attributes:
        mean, std: mean and standard deviation (n - 1; 0 for a single return).
        iqm: interquartile mean: of the returns without the lowest and the highest quarter.
        low, high: ends of its 95 % bootstrap interval; NaN for a single return.
    """

    mean: float
    std: float
    iqm: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What `n` episodes came to.

    Attributes:
        seeds: of the episodes (n,).
        returns: sums of rewards (n,).
        lengths: control steps (n,).
        successes: whether each ended at the task's goal (n,) bool.
        failures: reasons, one for each episode that the plant or the controller broke off; its return is up to there.
        wall_s: time that they took [s].
    """

    seeds: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray
    failures: tuple[str, ...]
    wall_s: float


def seeds(seed: int, episodes: int, in_training: bool = False) -> np.ndarray:
    """Seeds (episodes,) of starts to evaluate on, for training with `seed`; more episodes begin with the same ones.

    While training goes on they are others: by those the best checkpoint is chosen.
    """
    return np.random.SeedSequence(seed, spawn_key=(_STREAM, 1) if in_training else (_STREAM,)).generate_state(episodes)


def evaluate(
    controller: Controller,
    environment: Environment,
    *,
    episodes: int,
    seed: int,
    observe: Callable[[int, Episode], None] | None = None,
    in_training: bool = False,
) -> Evaluation:
    """Runs `controller` for some episodes.

    Args:
        controller: decides.
        environment: where, and for how long.
        episodes: how many.
        seed: that training had; the episodes' own follow from it.
        observe: told the number of episodes so far and the last, after each.
        in_training: whether training goes on, for which there are other starts.

    Raises:
        ValueError: not a positive number of episodes.
        KeyboardInterrupt: it was told to stop.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be at least 1")
    chosen, ran = seeds(seed, episodes, in_training), []
    begun = time.monotonic()
    plant = environment.make()
    try:
        for k, start in enumerate(chosen, 1):
            episode = run(
                plant,
                controller,
                task=environment.task,
                duration=environment.duration,
                seed=int(start),
                safety=environment.safety,
            )
            if episode.status == "interrupted":
                raise KeyboardInterrupt
            ran.append(episode)
            if observe is not None:
                observe(k, episode)
    finally:
        plant.close()
    return Evaluation(
        seeds=chosen,
        returns=np.array([episode.return_ for episode in ran]),
        lengths=np.array([len(episode) for episode in ran]),
        successes=np.array([episode.success for episode in ran]),
        failures=tuple(episode.reason for episode in ran if episode.status == "failed"),
        wall_s=time.monotonic() - begun,
    )


def summary(returns: np.ndarray) -> Summary:
    """`returns` (n,) in numbers; the bootstrap's draws are always the same.

    Raises:
        ValueError: there are none.
    """
    if not len(returns):
        raise ValueError("there are no returns to sum up")
    low = high = math.nan
    if len(returns) > 1:
        interval = scipy.stats.bootstrap(
            (returns,), _iqm, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    std = float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0
    return Summary(float(np.mean(returns)), std, float(_iqm(returns)), low, high)


def _iqm(returns: np.ndarray, axis: int = -1) -> np.ndarray:
    return scipy.stats.trim_mean(returns, 0.25, axis=axis)
