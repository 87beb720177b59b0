"""Probabilistic ensembles: E networks, each of which predicts a normal distribution of the outputs.

A member's variance is the noise that it sees in the data; what the members disagree on is what the data leave open.
Each is trained to maximise the likelihood of its own resampling of the data,

    min  mean_i -log N(t_i; mu_e(x_i), sigma_e^2(x_i)) + w mean(l_max - l_min)

with log-variances kept within the learned bounds l_min and l_max (Chua et al., Deep reinforcement learning in a handful
of trials using probabilistic dynamics models, 2018). Resampling is Poisson(1) counts, the bootstrap of growing data
(Oza and Russell, Online bagging and boosting, 2001): what a row counts for a member, and whether it is held out,
follows from its number alone, so that training on with more data never shows a member what it was to be tested on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn

from .adam import Adam
from .backward import Backward
from .calibration import calibration
from .flat import Flat
from .fused import FusedMembers
from .networks import ACTIVATIONS, Activation, BatchedMLP, GaussianHead, gaussian_nll
from .regressor import Fit, Look, check_rows, divided, predicted, refuse_other, scales, settings_in, state_of

_POISSON = scipy.stats.poisson.cdf(np.arange(16), 1.0)


@dataclass(frozen=True)
class EnsembleSettings:
    """Shape and training of an ensemble.

    Attributes:
        members: number of networks, E.
        elites: how many of them, the best by hold-out loss, predictions should use.
        hidden: sizes of the hidden layers.
        activation: `silu`, `relu` or `tanh`.
        probabilistic: whether members predict a variance; without, they are trained by squared error.
        bootstrap: whether each member has a resampling of its own.
        learning_rate: of Adam.
        weight_decay: of the weights (L2).
        bound_weight: w, pulls the bounds of the log-variance together.
        batch: rows of a gradient step.
        epochs: most passes over the data in one fit.
        updates: fewest gradient steps between two looks at the hold-out: little data are passed over several times.
        patience: looks at the hold-out without a member improving, after which a fit ends.
        improvement: of the hold-out loss, for which a look counts as one.
        holdout: share of the rows that is held out.

    Raises:
        ValueError: a setting out of its range, named.
    """

    members: int = 5
    elites: int = 5
    hidden: tuple[int, ...] = (200, 200, 200)
    activation: Activation = "silu"
    probabilistic: bool = True
    bootstrap: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 5e-5
    bound_weight: float = 0.01
    batch: int = 256
    epochs: int = 200
    updates: int = 40
    patience: int = 5
    improvement: float = 0.005
    holdout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))  # JSON has lists only
        for name in ("members", "elites", "batch", "epochs", "updates", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not positive")
        if any(size < 1 for size in self.hidden):
            raise ValueError(f"hidden layers of {self.hidden} units")
        if self.elites > self.members:
            raise ValueError(f"{self.elites} elites of {self.members} members")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}; known: {', '.join(ACTIVATIONS)}")
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout is {self.holdout}, not within 0 and 1")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}, not positive")
        for name in ("weight_decay", "bound_weight", "improvement"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}, negative")


class Members(nn.Module):
    """The networks of an ensemble, with what normalises their inputs and outputs; all that prediction needs.

    Args:
        inputs, outputs: di and do.
        settings: shape.
        rng: draws the first weights.

    Attributes:
        flat: all that is trained: weights, biases, the lower and the upper bounds of log-variances.
    """

    input_mean: Tensor
    input_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, inputs: int, outputs: int, settings: EnsembleSettings, rng: np.random.Generator) -> None:
        super().__init__()
        width = 2 * outputs if settings.probabilistic else outputs
        sizes = (inputs, *settings.hidden, width)
        self.network = BatchedMLP(settings.members, sizes, settings.activation, rng)
        self.head = GaussianHead(settings.members, outputs) if settings.probabilistic else None
        for name, size in (("input", inputs), ("output", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self._lay_out()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Members":
        super()._apply(fn, recurse)  # to another device or another type
        self._lay_out()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of a copy, or from another process
        self._lay_out()

    def _lay_out(self) -> None:
        bounds = [] if self.head is None else [self.head.lower, self.head.upper]
        self.flat = Flat([*self.network.weights, *self.network.biases, *bounds])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (E, n, do) of the outputs of inputs (E, n, di), each member's its own."""
        mean, log_variance = self.normalised((x - self.input_mean) / self.input_scale)
        variance = torch.zeros_like(mean) if log_variance is None else torch.exp(log_variance) * self.output_scale**2
        return self.output_mean + self.output_scale * mean, variance

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means and log-variances (E, n, do) of normalised outputs of normalised inputs (E, n, di)."""
        h = self.network(x)
        return (h, None) if self.head is None else self.head(h)

    @torch.no_grad()
    def fused(self, which: np.ndarray) -> FusedMembers:
        """Some of the members (k,), in that order, as they are now, for predicting."""
        index = torch.as_tensor(which, device=self.input_mean.device)
        weights = [w[index] for w in self.network.weights]
        biases = [b[index] for b in self.network.biases]
        first = weights[0].double() / self.input_scale[:, None]
        biases[0] = (biases[0] - self.input_mean.double().expand(len(index), 1, -1) @ first).float()
        weights[0] = first.float()
        least = span = None
        scale, shift = self.output_scale, self.output_mean
        if self.head is not None:
            lower, upper = self.head.lower[index], self.head.upper[index]
            least, span = (bound.exp() * scale**2 for bound in (lower, upper))
            scale = torch.cat([scale, torch.ones_like(scale)])
            biases[-1] = torch.cat(
                [biases[-1][..., : len(shift)] * self.output_scale + shift, biases[-1][..., len(shift) :] - upper],
                dim=-1,
            )
        else:
            biases[-1] = biases[-1] * scale + shift
        weights[-1] = weights[-1] * scale
        return FusedMembers(weights, biases, least, span, self.network.activation)

    def losses(self, x: Tensor, t: Tensor) -> Tensor:
        """Each member's loss (E,) on normalised inputs and outputs (E, n, ...), its bounds' not included.

        This and `spread_of_bounds` say what is trained for; training computes it in passes of its own, `Backward`.
        """
        mean, log_variance = self.normalised(x)
        each = 0.5 * (t - mean) ** 2 if log_variance is None else gaussian_nll(mean, log_variance, t)
        return each.mean(dim=(1, 2))

    def spread_of_bounds(self) -> Tensor:
        """How far apart each member's bounds are (E,), mean over outputs; 0 where there are none."""
        if self.head is None:
            return torch.zeros(())
        return (self.head.upper - self.head.lower).mean(dim=(1, 2))


class Ensemble:
    """E networks from inputs (di,) to outputs (do,), normalised by the data's mean and standard deviation.

    Args:
        inputs, outputs: di and do.
        rng: draws the first weights and the resampling.
        settings: shape and training.
        device: where the networks are.

    Attributes:
        members: the networks.
        elites: the best members by hold-out loss, best first (elites,).
        version: grows with whatever changes predictions.
    """

    kind = "ensemble"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        settings: EnsembleSettings | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings = s = settings or EnsembleSettings()
        self.inputs, self.outputs = inputs, outputs
        self._key = int(rng.integers(2**63))  # of the resampling
        self.members = Members(inputs, outputs, s, rng).to(device)
        self.elites = np.arange(s.elites)
        self.version = 0
        self._fused: tuple[int, FusedMembers] | None = None
        flat = self.members.flat
        decayed = flat.places[len(s.hidden) + 1].start
        self._adam = Adam(flat.values, flat.grad, s.learning_rate, s.weight_decay, decayed)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state_dict, (self.state_dict(), str(self.device))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.members.input_mean.device

    def elite_members(self) -> FusedMembers:
        """The networks of the elites as they are now, for predicting; made once after each change of theirs."""
        if self._fused is None or self._fused[0] != self.version:
            self._fused = self.version, self.members.fused(self.elites)
        return self._fused[1]

    def predict(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances (E, n, do) of the outputs of inputs (n, di), by all members.

        Raises:
            ValueError: inputs of another shape.
        """
        shape = self.settings.members, self.inputs
        return predicted(self.members, inputs, shape, torch.float32, self.device)

    def held_out(self, rows: int, first: int = 0) -> np.ndarray:
        """Which of so many rows, numbered from `first`, are held out, (rows,) bool."""
        return self._roles(rows, first)[0]

    def fit(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        rng: np.random.Generator,
        *,
        first: int = 0,
        observe: Callable[[Look], None] | None = None,
    ) -> Fit:
        """Trains on, from the weights that there are, and stops once the hold-out loss no longer improves.

        Every member keeps the weights with which its own hold-out loss was best in this fit.

        Args:
            inputs: (n, di).
            targets: the outputs to predict (n, do).
            rng: shuffles.
            first: number of the first row: rows that were trained on before keep theirs, see `Replay.first`.
            observe: called after each look at the hold-out.

        Raises:
            ValueError: other shapes, no rows, or numbers that are not finite; nothing has changed then.
            FloatingPointError: the loss is no longer finite.
            BaseException: what `observe` raises, or an interrupt. In both cases the weights are those of the best look
                before, and Adam begins anew.
        """
        check_rows(inputs, targets, (self.inputs, self.outputs))
        s = self.settings
        held, counts = self._roles(len(inputs), first)
        train, apart = divided(held)
        test = apart if len(apart) else train
        own = [np.repeat(train, counts[train, e]) for e in range(s.members)]
        own = [rows if len(rows) else train for rows in own]
        # What varies by less than float32 tells apart says nothing.
        for name, scale in scales(inputs[train], targets[train], 1e-5).items():
            getattr(self.members, name).copy_(torch.as_tensor(scale))
        x, t = self._normalised(inputs, targets)
        held_out = [z[torch.as_tensor(test, device=self.device)] for z in (x, t)]
        batches = max(1, round(len(train) / s.batch))
        passes = -(-s.updates // batches)
        backward = Backward(self.members, s.bound_weight, -(-len(train) // batches), self._adam)
        best, best_loss = self.members.flat.values.clone(), backward.losses(*held_out).cpu().numpy()
        mark, since = best_loss, 0
        looks: list[Look] = []
        try:
            for k in range(1, -(-s.epochs // passes) + 1):
                losses = [self._pass(backward, x, t, own, len(train), batches, rng) for _ in range(passes)]
                training = np.mean(losses, axis=0)
                look = Look(k * passes * batches, training, backward.losses(*held_out).cpu().numpy())
                if not np.isfinite(training).all():
                    raise FloatingPointError(f"the loss is not finite after {look.updates} updates: {training}")
                looks.append(look)
                if observe is not None:
                    observe(look)
                better = look.holdout < best_loss
                best_loss = np.where(better, look.holdout, best_loss)
                for e in np.flatnonzero(better):
                    best[e] = self.members.flat.values[e]
                leap = self._nats(look.holdout) < self._nats(mark) - s.improvement
                mark, since = np.where(leap, look.holdout, mark), 0 if leap.any() else since + 1
                if since >= s.patience:
                    break
        except BaseException:  # members may have taken a different number of steps
            self._restore(best)
            self._adam.forget()
            raise
        self._restore(best)
        self.elites = np.argsort(best_loss, kind="stable")[: s.elites]
        means, variances = self.predict(inputs[test])
        covered = calibration(means[self.elites], variances[self.elites], targets[test])
        return Fit(len(train), len(apart), looks[-1].updates, best_loss, covered, looks)

    def state_dict(self) -> dict[str, Any]:
        """All that a fit depends on but the data and the rng: tensors, and JSON types, for `checkpoint.save`."""
        flat, adam = self.members.flat, self._adam
        moments = zip(flat.views(adam.means), flat.views(adam.squares))
        members = self.members.state_dict()
        return {
            **state_of(self),
            "key": self._key,
            "elites": self.elites.tolist(),
            "members": {name: _copy(tensor) for name, tensor in members.items()},
            "optimizer": {
                str(k): {"step": _copy(adam.count), "exp_avg": _copy(mean), "exp_avg_sq": _copy(square)}
                for k, (mean, square) in enumerate(moments)
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave, of an ensemble of the same shape and settings.

        Raises:
            ValueError: it is of another shape or other settings, named; nothing has changed then.
        """
        refuse_other(self, state)
        self.members.load_state_dict(state["members"])
        adam = self._adam
        adam.forget()  # earlier versions saved nothing of what was never trained
        for k, (mean, square) in enumerate(
            zip(self.members.flat.views(adam.means), self.members.flat.views(adam.squares))
        ):
            if theirs := state["optimizer"].get(str(k)):
                mean.copy_(theirs["exp_avg"])
                square.copy_(theirs["exp_avg_sq"])
                adam.count.copy_(theirs["step"])
        self.version += 1
        self._key = int(state["key"])
        self.elites = np.array(state["elites"], dtype=int)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: str | torch.device = "cpu") -> "Ensemble":
        """The ensemble that `state_dict` was taken of, on `device`."""
        ensemble = cls(
            state["inputs"], state["outputs"], np.random.default_rng(0), settings_in(EnsembleSettings, state), device
        )
        ensemble.load_state_dict(state)
        return ensemble

    def _roles(self, rows: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are held out (rows,), and how often each counts for each member (rows, E)."""
        s = self.settings
        blocks = -(-(1 + s.members) // 4)  # Philox counts in blocks of four numbers, so that rows begin at a block
        stream = np.random.Generator(np.random.Philox(key=self._key).advance(first * blocks))
        uniform = stream.random((rows, 4 * blocks))
        counts = np.searchsorted(_POISSON, uniform[:, 1 : 1 + s.members], side="right")
        return uniform[:, 0] < s.holdout, counts if s.bootstrap else np.ones_like(counts)

    def _normalised(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        """Data as the networks see them, in float32 only after normalising: a mean may be far larger than a scale."""
        m = self.members
        x, t = (torch.as_tensor(z, dtype=torch.float64, device=self.device) for z in (inputs, targets))
        normalised = (x - m.input_mean) / m.input_scale, (t - m.output_mean) / m.output_scale
        x, t = (z.float().contiguous() for z in normalised)
        return x, t

    def _pass(
        self,
        backward: Backward,
        x: Tensor,
        t: Tensor,
        own: list[np.ndarray],
        rows: int,
        batches: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """One pass over the data, every member over its own; the mean of each member's losses (E,)."""
        # Members' shares of the data differ a little in size, their numbers of steps must not.
        order = np.stack([np.resize(rng.permutation(rows_of), rows) for rows_of in own])
        parts = torch.as_tensor(order, device=self.device).tensor_split(batches, dim=1)
        return backward(x, t, parts).cpu().double().numpy()

    def _nats(self, losses: np.ndarray) -> np.ndarray:
        """Losses on the scale of log-likelihoods, on which an improvement means the same for small and large ones."""
        return losses if self.settings.probabilistic else 0.5 * np.log(np.maximum(losses, 1e-30))

    def _restore(self, best: Tensor) -> None:
        self.members.flat.values.copy_(best)
        self.version += 1


def _copy(tensor: Tensor) -> Tensor:
    """A tensor by itself, for a state."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
