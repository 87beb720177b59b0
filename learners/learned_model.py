"""What is learned of how a robot's readings change: an encoding of them, and a regressor that predicts from it.

With y the readings, u the control, g the regressor, and f a nominal model (by default: nothing moves),

    y' = advance(f(y, u), g(tell(y, u)))

so that with an analytic model for f only what that gets wrong is left to learn (residual physics; Ajay et al.,
Augmenting physical simulators with stochastic neural networks, 2018).
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..robots.plugins import UnknownName
from ..robots.task import Robot
from . import checkpoint
from .encoding import Encoding
from .ensemble import Ensemble, EnsembleSettings
from .gaussian_process import GaussianProcess
from .nominal import AnalyticNominal
from .regressor import Fit, Look, Regressor
from .replay import Replay, Signature, Transitions

_KIND = "learned model"


class Nominal(Protocol):
    """An analytic model to whose prediction a learned one adds."""

    def __call__(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Readings (n, ny) one control period after `y` (n, ny) under controls `u` (n, nu); clocks do not move."""
        ...

    def jacobian(self, y: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Its derivatives (n, ny, ny) by readings and (n, ny, nu) by controls."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What it takes to make it again."""
        ...


class LearnedModel:
    """How a robot's readings change, learned.

    Args:
        robot: whose readings change.
        encoding: of the readings.
        regressor: what predicts, of as many inputs and outputs as the encoding has.
        nominal: what it adds to.

    Raises:
        ValueError: the regressor is of other inputs or outputs.
    """

    def __init__(self, robot: Robot, encoding: Encoding, regressor: Regressor, nominal: Nominal | None = None) -> None:
        theirs, ours = (regressor.inputs, regressor.outputs), (encoding.inputs, encoding.outputs)
        if theirs != ours:
            raise ValueError(f"the regressor is of {theirs} inputs and outputs; the encoding has {ours}")
        self.signature = Signature.of(robot)
        self.encoding = encoding
        self.regressor = regressor
        self.nominal = nominal

    @classmethod
    def of_ensemble(
        cls,
        robot: Robot,
        rng: np.random.Generator,
        settings: EnsembleSettings | None = None,
        *,
        encoding: Encoding | None = None,
        nominal: Nominal | None = None,
        device: str | torch.device = "cpu",
    ) -> "LearnedModel":
        """The model by an ensemble of networks.

        Args:
            robot: whose readings change.
            rng: draws the first weights.
            settings: of the ensemble.
            encoding: of the readings; `Encoding.of(robot)` by default.
            nominal: what it adds to.
            device: where the networks are.
        """
        e = encoding or Encoding.of(robot)
        return cls(robot, e, Ensemble(e.inputs, e.outputs, rng, settings, device), nominal)

    def data(self, transitions: Transitions) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, inputs) and targets (n, outputs) of the regressor from steps."""
        y, u = transitions.y, transitions.u
        return self.encoding.tell(y, u), self.encoding.changes(self.before(y, u), transitions.y_next)

    def before(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """What predictions add to (n, ny): where the nominal model leads; `y` where it diverges, or there is none."""
        if self.nominal is None:
            return y
        there = self.nominal(y, u)
        return np.where(np.isfinite(there).all(axis=-1, keepdims=True), there, y)

    def fit(self, replay: Replay, rng: np.random.Generator, observe: Callable[[Look], None] | None = None) -> Fit:
        """Trains on, with all that `replay` holds; see `Ensemble.fit`.

        Raises:
            ValueError: nothing is stored, or another robot's data.
        """
        self.signature.refuse_other(replay.signature, "the replay store")
        return self.regressor.fit(*self.data(replay.all()), rng, first=replay.first, observe=observe)

    def expected(self, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Readings (n, ny) expected one step after `y` (n, ny) under `u` (n, nu): the mean of the elites' mixture."""
        mean, _ = self.regressor.predict(self.encoding.tell(y, u))
        return self.encoding.advance(self.before(y, u), mean[self.regressor.elites].mean(axis=0))

    def refuse_other(self, other: "LearnedModel", what: str) -> None:
        """Raises a ValueError that says in what `other`, called `what`, was made unlike this model."""
        self.signature.refuse_other(other.signature, what)
        ours, theirs = self._made(), other._made()
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(f"{what} is of another {name}: {theirs.get(name)}; expected: {value}")

    def _made(self) -> dict[str, Any]:
        """All by which models of a robot differ before they are trained, by name."""
        nominal = None if self.nominal is None else self.nominal.to_json()
        kinds = {"kind of model": self.regressor.kind, "nominal model": nominal}
        return kinds | asdict(self.encoding) | asdict(self.regressor.settings)

    def state_dict(self) -> dict[str, Any]:
        """All that training depends on but the data and the rng, for `checkpoint.save`."""
        parts = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.encoding).items()}
        return {
            "signature": self.signature.to_json(),
            "encoding": parts,
            "nominal": None if self.nominal is None else self.nominal.to_json(),
            "kind": self.regressor.kind,
            "regressor": self.regressor.state_dict(),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model to `path`; whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        checkpoint.save(path, _KIND, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike, robot: Robot, device: str | torch.device = "cpu") -> "LearnedModel":
        """The model saved at `path`, which must be of `robot`.

        Raises:
            OSError: it can not be read.
            ValueError: it is no learned model's checkpoint, not the whole of one, or another robot's.
        """
        return cls.from_state_dict(cls.read(path, device), robot, device, str(Path(path)))

    @staticmethod
    def read(path: str | os.PathLike, device: str | torch.device = "cpu") -> dict[str, Any]:
        """What `state_dict` gave of the model saved at `path`, whatever robot it is of.

        Raises:
            OSError: it can not be read.
            ValueError: it is no learned model's checkpoint, or not the whole of one.
        """
        return checkpoint.load(path, _KIND, device)

    @classmethod
    def from_state_dict(
        cls, state: dict[str, Any], robot: Robot, device: str | torch.device = "cpu", what: str = "the model"
    ) -> "LearnedModel":
        """The model that `state_dict` was taken of, on `device`.

        Raises:
            ValueError: it, called `what`, is another robot's.
        """
        Signature.of(robot).refuse_other(Signature.from_json(state["signature"]), what)
        parts: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in state["encoding"].items()}
        regressor = _regressor(state["kind"], state["regressor"], device)
        return cls(robot, Encoding(**parts), regressor, _nominal(state["nominal"], robot))


def _regressor(kind: str, state: dict[str, Any], device: str | torch.device) -> Regressor:
    kinds: dict[str, Any] = {"ensemble": Ensemble, "gaussian_process": GaussianProcess}
    if kind not in kinds:
        raise UnknownName("kind of model", kind, kinds)
    return kinds[kind].from_state_dict(state, device)


def _nominal(content: dict[str, Any] | None, robot: Robot) -> Nominal | None:
    return None if content is None else AnalyticNominal.from_json(content, robot)
