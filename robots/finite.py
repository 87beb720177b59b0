"""Finite problems: states and controls that can be counted, and a table that says where each control may lead.

A control is one number, rounded to the nearest choice 0 .. A - 1, as for Gymnasium's discrete actions. Readings are
those of the state, then `reward` (of the step that led here) and `terminated` (0 or 1); an episode that has terminated
stays where it is, at reward 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np


@dataclass(frozen=True, eq=False)
class Finite:
    """A Markov decision process of S states and A controls, each with at most O outcomes.

    Attributes:
        states: readings of each state (S, k), no two alike.
        next: the state that an outcome is (S, A, O).
        probability: of an outcome (S, A, O); those of each control sum to one.
        reward: (S, A, O).
        ends: whether an outcome ends the episode (S, A, O).
        drawing: makes a fresh MuJoCo spec to draw it, whose positions are a state's first readings.

    Raises:
        ValueError: arrays that do not fit each other, probabilities that do not sum to one, or states alike.
    """

    states: np.ndarray
    next: np.ndarray
    probability: np.ndarray
    reward: np.ndarray
    ends: np.ndarray
    drawing: Callable[[], mujoco.MjSpec] | None = None

    def __post_init__(self) -> None:
        shape = self.next.shape
        if len(shape) != 3 or len(self.states) != shape[0]:
            raise ValueError(f"{len(self.states)} states do not fit a table of next states {shape}, not (S, A, O)")
        for name in ("probability", "reward", "ends"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
        if self.next.min() < 0 or self.next.max() >= shape[0]:
            raise ValueError(f"next states must lie between 0 and {shape[0] - 1}")
        if self.probability.min() < 0.0 or not np.allclose(self.probability.sum(-1), 1.0, atol=1e-9):
            raise ValueError("probabilities of a control's outcomes must be at least 0 and sum to one")
        if len(np.unique(self.states, axis=0)) < shape[0]:
            raise ValueError("two states have the same readings")

    @property
    def controls(self) -> int:
        """A."""
        return self.next.shape[1]

    @property
    def limits(self) -> np.ndarray:
        """Control limits (2, 1): half a number beyond the first choice and the last."""
        return np.array([[-0.5], [self.controls - 0.5]])

    @property
    def stochastic(self) -> bool:
        """Whether a control may have more than one outcome."""
        return bool(((self.probability > 0.0).sum(-1) > 1).any())

    @classmethod
    def of_table(
        cls, table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]], states: np.ndarray
    ) -> "Finite":
        """The problem that `table[state][control]` lists as (probability, next state, reward, ends).

        Args:
            table: as Gymnasium's toy-text environments have it.
            states: readings (S, k).
        """
        count, controls = len(table), max(len(row) for row in table.values())
        most = max(len(outcomes) for row in table.values() for outcomes in row.values())
        arrays: dict[str, Any] = {
            "next": np.zeros((count, controls, most), int),
            "probability": np.zeros((count, controls, most)),
            "reward": np.zeros((count, controls, most)),
            "ends": np.zeros((count, controls, most), bool),
        }
        for s, row in table.items():
            for a, outcomes in row.items():
                for o, (p, after, reward, ends) in enumerate(outcomes):
                    for name, value in zip(("probability", "next", "reward", "ends"), (p, after, reward, ends)):
                        arrays[name][s, a, o] = value
        return cls(states=states, **arrays)

    def values(self, discount: float, tolerance: float = 1e-10) -> np.ndarray:
        """V (S,), the greatest expected sum of discounted rewards, by value iteration (Bellman, 1957).

        Args:
            discount: of a step, below 1.
            tolerance: largest error.
        """
        v = np.zeros(len(self.states))
        while True:
            q = (self.probability * (self.reward + discount * np.where(self.ends, 0.0, v[self.next]))).sum(-1)
            change = float(np.abs(q.max(-1) - v).max())
            v = q.max(-1)
            if change * discount <= tolerance * (1.0 - discount):
                return v
