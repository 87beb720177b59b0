"""Exploration that lasts: noise correlated from each decision to the next.

White noise averages out before a heavy robot has moved. With power 1/f^colour along an episode, decisions near each
other push the same way, and what is tried reaches further, each single decision being distributed as before (Pinneri et
al., 2020; pink noise, colour 1, for policies: Eberhard et al., Pink noise is all you need, ICLR 2023).
"""

import numpy as np

from ..controllers import splines

_LONGEST = 1024
"""Decisions of a series, at most."""

_STREAM = 19
"""Random stream that follows from a learner's seed."""


class ExplorationNoise:
    """Series of standard normal noise, one for each episode and action, which follow from a seed.

    A series is as long as an episode and circular: its last decisions are correlated with its first. After 1024
    decisions the next ones are a series of their own.

    Args:
        colour: exponent of the noise's power 1/f^colour; 1 is pink.
        decisions: of an episode, at most.
        actions: number of them, na.
        seed: what the series follow from, with the number of the episode.

    Raises:
        ValueError: the exponent is negative or not finite.
    """

    def __init__(self, colour: float, decisions: int, actions: int, seed: int) -> None:
        self._colour, self._shape, self._seed = colour, (max(1, min(decisions, _LONGEST)), actions), seed
        self._series: dict[int, tuple[int, int, np.ndarray]] = {}
        splines.check_colour(colour)

    def at(self, episodes: np.ndarray, decisions: np.ndarray) -> np.ndarray:
        """Noise (n, na) of the n copies of a plant, at these decisions (n,) of the episodes (n,) of these numbers."""
        return np.stack([self._of(i, int(e), int(d)) for i, (e, d) in enumerate(zip(episodes, decisions, strict=True))])

    def _of(self, copy: int, episode: int, decision: int) -> np.ndarray:
        part, k = divmod(decision, self._shape[0])
        known = self._series.get(copy)
        if known is None or known[:2] != (episode, part):
            white = np.random.default_rng([self._seed, _STREAM, episode, part]).standard_normal(self._shape)
            known = self._series[copy] = (episode, part, splines.coloured(white, self._colour))
        return known[2][k]
