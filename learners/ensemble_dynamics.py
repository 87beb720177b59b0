"""Ensembles as dynamics: what planners search where nobody wrote the model.

A prediction is a mixture: particles, each of which follows one member at a time and the noise that it predicts.
Trajectory sampling is of two kinds (Chua et al., Deep reinforcement learning in a handful of trials using probabilistic
dynamics models, 2018): TS1 draws another member for every step, TS-infinity one for the whole horizon. With `mean`, the
elites are the particles, and each follows its own mean without noise. Members' means are never averaged along a
rollout: what they disagree on is the risk that planners weigh.

All candidates meet the same draws of members and noise (common random numbers): every candidate's cost is distributed
as if its draws were its own, but a difference between two candidates is not down to luck (Ng and Jordan, PEGASUS: a
policy search method for large MDPs and POMDPs, 2000).
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..robots.plugins import UnknownName
from ..robots.task import Robot, Task
from ..sim.branching import Branches
from ..sim.interface import Rollout, State, check_candidates
from . import checkpoint
from .encoding import Encoding
from .ensemble import Ensemble, EnsembleSettings, Fit, Look, Members
from .replay import Replay, Signature, Transitions

Propagation = Literal["ts1", "tsinf", "mean"]

_ROWS = 2048
"""Rows that a network is given at once on a CPU: few enough for its layers to stay in the cache."""


class EnsembleModel:
    """How a robot's readings change, learned: an encoding and an ensemble.

    Args:
        robot: whose readings change.
        rng: draws the ensemble's first weights.
        settings: of the ensemble.
        encoding: of the readings; `Encoding.of(robot)` by default.
        device: where the networks are.
    """

    def __init__(
        self,
        robot: Robot,
        rng: np.random.Generator,
        settings: EnsembleSettings | None = None,
        encoding: Encoding | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.signature = Signature.of(robot)
        self.encoding = encoding or Encoding.of(robot)
        self.ensemble = Ensemble(self.encoding.inputs, self.encoding.outputs, rng, settings, device)

    def data(self, transitions: Transitions) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, inputs) and targets (n, outputs) of the ensemble from steps."""
        e = self.encoding
        return e.tell(transitions.y, transitions.u), e.changes(transitions.y, transitions.y_next)

    def fit(self, replay: Replay, rng: np.random.Generator, observe: Callable[[Look], None] | None = None) -> Fit:
        """Trains on, with all that `replay` holds; see `Ensemble.fit`.

        Raises:
            ValueError: nothing is stored, or another robot's data.
        """
        self.signature.refuse_other(replay.signature, "the replay store")
        return self.ensemble.fit(*self.data(replay.all()), rng, first=replay.first, observe=observe)

    def state_dict(self) -> dict[str, Any]:
        """All that training depends on but the data and the rng, for `checkpoint.save`."""
        parts = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.encoding).items()}
        return {"signature": self.signature.to_json(), "encoding": parts, "ensemble": self.ensemble.state_dict()}

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model to `path`; whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        checkpoint.save(path, "ensemble model", self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike, robot: Robot, device: str | torch.device = "cpu") -> "EnsembleModel":
        """The model saved at `path`, which must be of `robot`.

        Raises:
            OSError: it can not be read.
            ValueError: it is no ensemble model's checkpoint, not the whole of one, or another robot's.
        """
        state = checkpoint.load(path, "ensemble model", device)
        Signature.of(robot).refuse_other(Signature.from_json(state["signature"]), str(Path(path)))
        parts: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in state["encoding"].items()}
        model = cls.__new__(cls)
        model.signature = Signature.of(robot)
        model.encoding = Encoding(**parts)
        model.ensemble = Ensemble.from_state_dict(state["ensemble"], device)
        return model


class EnsembleDynamics:
    """An ensemble model as dynamics; also `Branching`, for tree search. It needs a state's readings only.

    What it predicts follows the model's weights, also when these are trained on.

    Args:
        task: whose robot is predicted.
        model: of that robot.
        propagation: `ts1`, `tsinf` or `mean`.
        particles: E, as many for each elite; with `mean` it is the number of elites instead.

    Raises:
        ValueError: an unknown propagation, particles that the elites do not divide, or another robot's model.
    """

    stochastic = True
    choices: np.ndarray | None = None

    def __init__(
        self, task: Task, model: EnsembleModel, propagation: Propagation = "tsinf", particles: int = 20
    ) -> None:
        if propagation not in get_args(Propagation):
            raise UnknownName("propagation", propagation, get_args(Propagation))
        Signature.of(task.robot).refuse_other(model.signature, "the model")
        elites = model.ensemble.settings.elites
        if propagation != "mean" and (particles < 1 or particles % elites):
            raise ValueError(f"{particles} particles are not a multiple of the {elites} elites")
        self.dt = task.robot.dt
        self.model = model
        self.propagation = propagation
        self.particles = elites if propagation == "mean" else particles

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator) -> Rollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu); E is the number of particles.

        Raises:
            ValueError: `controls` of another shape.
        """
        encoding = self.model.encoding
        candidates = check_candidates(controls, encoding.nu)
        n, horizon, _ = candidates.shape
        order, noise = self._draw(horizon, rng)
        out = np.empty((self.particles, n, horizon + 1, encoding.ny))
        out[:, :, 0] = state.y
        members = self.model.ensemble.elite_members()
        size = n if self.model.ensemble.device.type != "cpu" else max(1, _ROWS // self.particles)
        with torch.inference_mode():
            begin = self._tensor(state.y)
            for start in range(0, n, size):
                u = self._tensor(candidates[start : start + size])
                y = begin.expand(self.particles, len(u), -1)
                steps = [y := self._step(members, y, u[:, k], order[k], noise[k]) for k in range(horizon)]
                out[:, start : start + size, 1:] = torch.stack(steps, dim=2).cpu().numpy()
        return Rollout(out, np.asarray(np.isfinite(out).all(axis=(2, 3))))

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The state expected after `controls` (k, nu): at every step the mean of the mixture, which has no noise."""
        y, encoding = np.array(state.y, dtype=float), self.model.encoding
        for u in controls:
            mean, _ = self.model.ensemble.predict(encoding.tell(y, u)[None])
            y = encoding.advance(y, mean[self.model.ensemble.elites, 0].mean(axis=0))
        return State(state.time + len(controls) * self.dt, y)

    def root(self, state: State) -> np.ndarray:
        """See `Branching.root`: a row is the readings."""
        return np.array(state.y, dtype=float)

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `Branching.branch`: an elite is drawn for each row, with `ts1` anew at every step."""
        encoding, elites = self.model.encoding, self.model.ensemble.elites
        n, steps = controls.shape[:2]
        drawn = elites[rng.integers(len(elites), size=(steps, n))]
        if self.propagation != "ts1":
            drawn[:] = drawn[0]
        noise = rng.standard_normal((steps, n, encoding.outputs)) * (self.propagation != "mean")
        out, y = np.empty((n, steps, encoding.ny)), rows
        for k in range(steps):
            mean, variance = self.model.ensemble.predict(encoding.tell(y, controls[:, k]))
            mine = drawn[k], np.arange(n)
            out[:, k] = y = encoding.advance(y, mean[mine] + np.sqrt(variance[mine]) * noise[k])
        valid = np.logical_and.accumulate(np.isfinite(out).all(axis=2), axis=1)
        return Branches(out[:, at - 1].copy(), out, valid)

    def close(self) -> None:
        """Nothing is held."""

    def _draw(self, horizon: int, rng: np.random.Generator) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """For each step the order (E,) in which particles are dealt to the elites, and their noise (E, 1, outputs)."""
        if self.propagation == "mean":
            return [None] * horizon, [None] * horizon
        normal = rng.standard_normal((horizon, self.particles, 1, self.model.encoding.outputs))
        noise: list[Tensor | None] = [*self._tensor(normal)]
        if self.propagation == "tsinf":
            return [None] * horizon, noise
        orders = rng.permuted(np.tile(np.arange(self.particles), (horizon, 1)), axis=1)
        return [*torch.as_tensor(orders, device=self.model.ensemble.device)], noise

    def _step(self, members: Members, y: Tensor, u: Tensor, order: Tensor | None, noise: Tensor | None) -> Tensor:
        """Readings (E, n, ny) after one step from `y` under controls (n, nu)."""
        encoding = self.model.encoding
        told = encoding.tell(y, u.expand(self.particles, -1, -1))
        if order is not None:
            told = told[order]
        of_elites = told.reshape(len(self.model.ensemble.elites), -1, encoding.inputs)
        mean, variance = (z.reshape(*y.shape[:2], -1) for z in members(of_elites))
        if noise is not None:
            mean = mean + variance.sqrt() * noise
        if order is not None:
            mean = mean[torch.argsort(order)]
        return encoding.advance(y, mean)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=self.model.ensemble.device)
