"""Whether predicted uncertainty is right: how often what happened lies where the prediction said it would.

The prediction is the mixture of the members, each a normal distribution for each output. What is looked at is the
probability u that the mixture gives to less than what happened: of a calibrated model u is uniform, so that an interval
of probability p, from (1 - p) / 2 to (1 + p) / 2, covers a share p of what happens (Kuleshov et al., Accurate
uncertainties for deep learning using calibrated regression, 2018).
"""

from dataclasses import dataclass

import numpy as np
import scipy.special

LEVELS = np.linspace(0.05, 0.95, 19)
"""Probabilities of the intervals that the expected calibration error looks at."""


@dataclass(frozen=True)
class Calibration:
    """How well predictions cover what happened.

    Attributes:
        levels: probabilities of central intervals (k,).
        covered: share of what happened within each (k,).
        covered90: the share within the interval of probability 0.9.
        error: expected calibration error: mean over the levels of |covered - level|.
    """

    levels: np.ndarray
    covered: np.ndarray
    covered90: float
    error: float


def percentiles(mean: np.ndarray, variance: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The probability that the members' mixture gives to less than `target`, (n, d).

    Args:
        mean: of each member (E, n, d).
        variance: of each member (E, n, d); where it is 0, a member is certain of its mean.
        target: what happened (n, d).
    """
    error, deviation = target - mean, np.sqrt(variance)
    certain = deviation == 0.0
    score = error / np.where(certain, 1.0, deviation)
    sure = np.where(error > 0.0, np.inf, np.where(error < 0.0, -np.inf, 0.0))
    return scipy.special.ndtr(np.where(certain, sure, score)).mean(axis=0)


def calibration(mean: np.ndarray, variance: np.ndarray, target: np.ndarray) -> Calibration:
    """How well the members' mixture covers `target`, over all rows; shapes as for `percentiles`.

    Outputs that never vary are left out, unless none does: what always stays the same is covered by any interval.

    Raises:
        ValueError: no rows, or shapes that do not fit each other.
    """
    if mean.shape != variance.shape or mean.shape[1:] != target.shape or not target.size:
        raise ValueError(f"means {mean.shape}, variances {variance.shape} and targets {target.shape} do not fit")
    varying = np.ptp(target, axis=0) > 0.0
    if varying.any():
        mean, variance, target = mean[..., varying], variance[..., varying], target[..., varying]
    off_centre = np.sort(2.0 * np.abs(percentiles(mean, variance, target).ravel() - 0.5))
    covered = np.searchsorted(off_centre, LEVELS, side="right") / off_centre.size
    covered90 = float(np.searchsorted(off_centre, 0.9, side="right") / off_centre.size)
    return Calibration(LEVELS, covered, covered90, float(np.abs(covered - LEVELS).mean()))
