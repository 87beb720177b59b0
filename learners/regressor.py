"""What predicts the outputs of a learned model from its inputs, and what regressors of all kinds share."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .calibration import Calibration

Settings = TypeVar("Settings")

_CHUNK = 4096
"""Rows that predictions of many are cut into."""


@dataclass(frozen=True)
class Look:
    """One look at the hold-out while training.

    Attributes:
        updates: gradient steps so far in this fit.
        training: mean loss since the last look, of each member (E,).
        holdout: loss on the rows held out, of each member (E,).
    """

    updates: int
    training: np.ndarray
    holdout: np.ndarray


@dataclass(frozen=True)
class Fit:
    """What came of training.

    Losses are those of normalised outputs, means over rows and outputs: negative log-likelihood [nats], or half the
    squared error of networks that predict no variance.

    Attributes:
        rows, held_out: numbers of rows trained on and held out; where none is held out, the former stand in for them.
        updates: gradient steps, or evaluations of a likelihood.
        holdout: loss of each member's best weights, which it has now, on the rows held out (E,).
        calibration: of the elites' mixture, on the rows held out, over the outputs that vary.
        looks: how it went.
    """

    rows: int
    held_out: int
    updates: int
    holdout: np.ndarray
    calibration: Calibration
    looks: list[Look] = field(repr=False)


class Predictor(Protocol):
    """E' models ready for predicting, each its own inputs (E', n, di); torch differentiates them."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (E', n, do)."""
        ...

    def means(self, x: Tensor) -> Tensor:
        """Means alone (E', n, do)."""
        ...


class Regressor(Protocol):
    """E models, each of which predicts a normal distribution of the outputs (do,) of inputs (di,).

    Attributes:
        kind: its name in checkpoints.
        settings: a dataclass of what it was made with.
        inputs, outputs: di and do.
        elites: those of the E that predictions should use, best first.
        version: grows with whatever changes predictions.
    """

    kind: str
    settings: Any
    inputs: int
    outputs: int
    elites: np.ndarray
    version: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def elite_members(self) -> Predictor:
        """The elites as they are now."""
        ...

    def predict(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances (E, n, do) of the outputs of inputs (n, di), by all E."""
        ...

    def fit(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        rng: np.random.Generator,
        *,
        first: int = 0,
        observe: Callable[[Look], None] | None = None,
    ) -> Fit:
        """Learns from `targets` (n, do) of `inputs` (n, di), the first of which is row number `first` ever."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it is: tensors and JSON types."""
        ...


def check_rows(inputs: np.ndarray, targets: np.ndarray, widths: tuple[int, int]) -> None:
    """Raises a ValueError unless inputs and targets are n finite rows, n > 0, of these widths."""
    n, (wide, out) = len(inputs), widths
    if inputs.shape != (n, wide) or targets.shape != (n, out):
        shapes = f"inputs have shape {inputs.shape} and targets {targets.shape}"
        raise ValueError(f"{shapes}, not (n, {wide}) and (n, {out})")
    if not n:
        raise ValueError("there are no rows to train on")
    bad = np.flatnonzero(~(np.isfinite(inputs).all(axis=1) & np.isfinite(targets).all(axis=1)))
    if bad.size:
        raise ValueError(f"{bad.size} of {n} rows hold numbers that are not finite, the first of them row {bad[0]}")


def divided(held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows to train on, and of those `held` out (n,) bool: of none, where there would be no others."""
    if held.all():
        held = np.zeros_like(held)
    return np.flatnonzero(~held), np.flatnonzero(held)


def scales(inputs: np.ndarray, targets: np.ndarray, resolution: float) -> dict[str, np.ndarray]:
    """What rows are normalised by: `input_mean`, `input_scale` (di,), `output_mean`, `output_scale` (do,).

    Inputs that vary by no more than `resolution`, relative to their size, keep it, and so say nothing. An output that
    does not vary is predicted as what it is, and next to no noise.
    """
    still = inputs.std(axis=0) <= resolution * np.abs(inputs).max(axis=0)
    tiny = 1e-6 * np.maximum(np.abs(targets).max(axis=0), 1e-6)
    return {
        "input_mean": inputs.mean(axis=0),
        "input_scale": np.where(still, 1.0, inputs.std(axis=0)),
        "output_mean": targets.mean(axis=0),
        "output_scale": np.maximum(targets.std(axis=0), tiny),
    }


def predicted(
    predictor: Callable[[Tensor], tuple[Tensor, Tensor]],
    inputs: np.ndarray,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (E, n, do) in float64 of the outputs of inputs (n, di), with `shape` E and di.

    Raises:
        ValueError: inputs of another shape.
    """
    members, width = shape
    if inputs.ndim != 2 or inputs.shape[1] != width:
        raise ValueError(f"inputs have shape {inputs.shape}, not (n, {width})")
    parts = []
    with torch.inference_mode():
        for start in range(0, max(len(inputs), 1), _CHUNK):
            x = torch.as_tensor(inputs[start : start + _CHUNK], dtype=dtype, device=device)
            parts.append([part.cpu().double().numpy() for part in predictor(x.expand(members, -1, -1))])
    means, variances = zip(*parts)
    return np.concatenate(means, axis=1), np.concatenate(variances, axis=1)


def state_of(regressor: Any) -> dict[str, Any]:
    """What every regressor's state begins with: its shape and its settings."""
    return {"inputs": regressor.inputs, "outputs": regressor.outputs, "settings": asdict(regressor.settings)}


def refuse_other(regressor: Any, state: Mapping[str, Any]) -> None:
    """Raises a ValueError that names in what a state is not of a regressor of this shape and these settings."""
    theirs = asdict(settings_in(type(regressor.settings), state))
    ours = {"inputs": regressor.inputs, "outputs": regressor.outputs, **asdict(regressor.settings)}
    theirs |= {"inputs": state["inputs"], "outputs": state["outputs"]}
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(f"{name} of the {regressor.kind} saved is {theirs[name]}, of this one {value}")


def settings_in(kind: Callable[..., Settings], state: Mapping[str, Any]) -> Settings:
    """The settings, a dataclass `kind`, in a regressor's state.

    Raises:
        ValueError: settings that are not known here.
    """
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(state["settings"]) - known):
        raise ValueError(f"the model saved has settings unknown here: {', '.join(unknown)}")
    return kind(**state["settings"])
