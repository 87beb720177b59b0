"""Gaussian processes: exact regression for little data, one process for each output.

With K_ij = k(x_i, x_j) over the rows, t the targets of one output and s_n^2 the variance of its noise,

    mean(x) = k(x)' (K + s_n^2 I)^-1 t,    variance(x) = k(x, x) - k(x)' (K + s_n^2 I)^-1 k(x) + s_n^2

where k has a length scale for each input (automatic relevance determination). Hyperparameters minimise the negative log
marginal likelihood t' (K + s_n^2 I)^-1 t / 2 + log |K + s_n^2 I| / 2, whose gradient is in closed form (Rasmussen and
Williams, Gaussian processes for machine learning, 2006, equations 2.25, 2.26, 5.8 and 5.9). As models of dynamics they
learn from a few hundred steps what networks take thousands for (Deisenroth and Rasmussen, PILCO: a model-based and
data-efficient approach to policy search, 2011).

The search is SciPy's L-BFGS-B over a likelihood of our own: on steps of a cartpole it ends in the optima that
scikit-learn's finds in less than half the time, and gradient steps on GPyTorch's likelihood had not got there in four
times as long; and it runs where the tensors are.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ..robots.plugins import UnknownName
from .calibration import calibration
from .regressor import Fit, Look, check_rows, divided, predicted, refuse_other, scales, settings_in, state_of

Kernel = Literal["squared_exponential", "matern52"]

_LENGTHS = 1e-2, 1e5
_SIGNALS = 1e-2, 1e2
_NEXT_TO_NOTHING = 1e-24
"""Least squared distance, so that a square root has a slope there: 0, as the kernels have."""


@dataclass(frozen=True)
class GaussianProcessSettings:
    """Shape and training of Gaussian processes.

    Attributes:
        kernel: `squared_exponential`, for what is smooth, or `matern52`, for what is twice differentiable.
        most_rows: of the data that are kept. Of more, those are that lie farthest from each other: beginning with the
            row nearest to the mean, the one farthest from all before, in normalised inputs (Gonzalez, Clustering to
            minimize the maximum intercluster distance, 1985). A prediction costs their number squared.
        iterations: most of L-BFGS-B, for each output in one fit.
        least_noise: least standard deviation of the noise, of the outputs'. Data of a simulator hold next to none,
            and what a process then claims to know is beyond the arithmetic.
        holdout: share of the rows that is held out; 0: rows are tested by leaving one out at a time.

    Raises:
        ValueError: a setting out of its range, named.
    """

    kernel: Kernel = "squared_exponential"
    most_rows: int = 400
    iterations: int = 100
    least_noise: float = 1e-3
    holdout: float = 0.1

    def __post_init__(self) -> None:
        if self.kernel not in get_args(Kernel):
            raise UnknownName("kernel", self.kernel, get_args(Kernel))
        for name, least in (("most_rows", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, less than {least}")
        if not 1e-5 <= self.least_noise < 1.0:
            raise ValueError(f"least_noise is {self.least_noise}, not within 1e-5 and 1")
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout is {self.holdout}, not within 0 and 1")


@dataclass(frozen=True)
class Posterior:
    """Processes that have seen data; all that prediction needs, in float64.

    Attributes:
        kernel: of all outputs.
        input_mean, input_scale: (di,) that inputs are normalised by.
        output_mean, output_scale: (do,) that outputs are.
        rows: normalised inputs kept (m, di).
        lengths: scales of normalised inputs (do, di).
        signal, noise: standard deviations of normalised outputs (do,).
        weights: (K + s_n^2 I)^-1 t of each output (do, m).
        whitening: L^-1 of each, where K + s_n^2 I = L L' (do, m, m).
    """

    kernel: Kernel
    input_mean: Tensor
    input_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor
    rows: Tensor
    lengths: Tensor
    signal: Tensor
    noise: Tensor
    weights: Tensor
    whitening: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (1, n, do) of outputs with their noise, of inputs (1, n, di); of the kind of `x`."""
        k = self._covariances(x)
        known = (k @ self.whitening.mT).square().sum(-1).T
        variance = (self.signal**2 - known).clamp_min(0.0) + self.noise**2
        return self._means(k).to(x.dtype), (self.output_scale**2 * variance)[None].to(x.dtype)

    def means(self, x: Tensor) -> Tensor:
        """The means alone (1, n, do), which cost far less."""
        return self._means(self._covariances(x)).to(x.dtype)

    def _covariances(self, x: Tensor) -> Tensor:
        """With the rows kept, of each output (do, n, m)."""
        z = (x[0].double() - self.input_mean) / self.input_scale
        scaled, kept = z / self.lengths[:, None], self.rows / self.lengths[:, None]
        return _kernel(self.kernel, _squares(scaled, kept), self.signal[:, None, None])

    def _means(self, k: Tensor) -> Tensor:
        return (self.output_mean + self.output_scale * (k @ self.weights[:, :, None])[..., 0].T)[None]


class GaussianProcess:
    """A Gaussian process for each output (do,) of inputs (di,), normalised by the data; a `Regressor` of one member.

    Before it has seen data it predicts outputs of mean 0 and variance 1, and noise.

    Args:
        inputs, outputs: di and do.
        rng: draws which rows are held out.
        settings: shape and training.
        device: where it computes.

    Attributes:
        posterior: what the last fit led to.
        elites: the only member.
        version: grows with whatever changes predictions.
    """

    kind = "gaussian_process"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        settings: GaussianProcessSettings | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.settings = s = settings or GaussianProcessSettings()
        self.inputs, self.outputs = inputs, outputs
        self._key = int(rng.integers(2**63))  # of what is held out
        self.elites = np.arange(1)
        self.version = 0
        sizes: dict[str, tuple[int, ...]] = dict.fromkeys(("output_mean", "output_scale", "signal"), (outputs,))
        sizes |= {"input_mean": (inputs,), "input_scale": (inputs,), "noise": (outputs,), "rows": (0, inputs)}
        sizes |= {"lengths": (outputs, inputs), "weights": (outputs, 0), "whitening": (outputs, 0, 0)}
        parts = {name: torch.ones(size, dtype=torch.float64, device=device) for name, size in sizes.items()}
        for name in ("input_mean", "output_mean"):
            parts[name].zero_()
        parts["lengths"].fill_(inputs**0.5)
        parts["noise"].fill_(max(0.1, s.least_noise))
        self.posterior = Posterior(s.kernel, **parts)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.posterior.rows.device

    def elite_members(self) -> Posterior:
        """The posterior, a function of inputs (1, n, di)."""
        return self.posterior

    def predict(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances (1, n, do) of the outputs of inputs (n, di).

        Raises:
            ValueError: inputs of another shape.
        """
        return predicted(self.posterior, inputs, (1, self.inputs), torch.float64, self.device)

    def held_out(self, rows: int, first: int = 0) -> np.ndarray:
        """Which of so many rows, numbered from `first`, are held out, (rows,) bool; their numbers alone tell."""
        # Philox counts in blocks of four numbers, so that rows begin at a block.
        stream = np.random.Generator(np.random.Philox(key=self._key).advance(first))
        return stream.random((rows, 4))[:, 0] < self.settings.holdout

    def fit(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        rng: np.random.Generator,
        *,
        first: int = 0,
        observe: Callable[[Look], None] | None = None,
    ) -> Fit:
        """Finds hyperparameters, from those of the last fit if they explain the data better than the first, and learns.

        Args:
            inputs: (n, di).
            targets: the outputs to predict (n, do).
            rng: not drawn from: nothing here is random.
            first: number of the first row: rows that were held out before are again, see `Replay.first`.
            observe: called once, at the end: `updates` are evaluations of the likelihood, and the training loss is the
                negative log marginal likelihood of a row [nats].

        Raises:
            ValueError: other shapes, no rows, or numbers that are not finite; nothing has changed then.
            FloatingPointError: no likelihood is finite; nothing has changed then.
        """
        check_rows(inputs, targets, (self.inputs, self.outputs))
        train, apart = divided(self.held_out(len(inputs), first))
        sizes = scales(inputs[train], targets[train], 1e-12)
        x = (inputs - sizes["input_mean"]) / sizes["input_scale"]
        t = (targets - sizes["output_mean"]) / sizes["output_scale"]
        kept = train[_spread(x[train], self.settings.most_rows)]
        rows, wanted = (torch.as_tensor(z[kept], dtype=torch.float64, device=self.device) for z in (x, t))
        found = [self._search(rows, wanted[:, k], k) for k in range(self.outputs)]
        self.posterior = self._learned(rows, wanted, np.stack([search.x for search in found]), sizes)
        self.version += 1
        test = apart if len(apart) else kept
        means, variances = self.predict(inputs[test]) if len(apart) else self._left_out(targets[test])
        errors = (means - targets[test]) ** 2 / variances
        loss = 0.5 * np.mean(errors + np.log(2.0 * np.pi * variances / sizes["output_scale"] ** 2), axis=(1, 2))
        covered = calibration(means, variances, targets[test])
        evaluations = sum(int(search.nfev) for search in found)
        training = np.array([np.mean([search.fun for search in found])])
        look = Look(evaluations, training, loss)
        if observe is not None:
            observe(look)
        return Fit(len(kept), len(apart), evaluations, loss, covered, [look])

    def state_dict(self) -> dict[str, Any]:
        """All that predictions and another fit depend on but the data: tensors, and JSON types."""
        parts = {f.name: getattr(self.posterior, f.name) for f in fields(Posterior) if f.name != "kernel"}
        return {
            **state_of(self),
            "key": self._key,
            "posterior": parts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave, of processes of the same shape and settings.

        Raises:
            ValueError: it is of another shape or other settings, named; nothing has changed then.
        """
        refuse_other(self, state)
        parts = {name: part.to(self.device, copy=True) for name, part in state["posterior"].items()}
        self.posterior = Posterior(self.settings.kernel, **parts)
        self._key = int(state["key"])
        self.version += 1

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: str | torch.device = "cpu") -> "GaussianProcess":
        """The processes that `state_dict` was taken of, on `device`."""
        process = cls(
            state["inputs"],
            state["outputs"],
            np.random.default_rng(0),
            settings_in(GaussianProcessSettings, state),
            device,
        )
        process.load_state_dict(state)
        return process

    def _search(self, rows: Tensor, t: Tensor, output: int) -> Any:
        """The logarithms of lengths, signal and noise (di + 2,) that make `t` (m,) likeliest."""
        s, p = self.settings, self.posterior

        def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            return _unlikelihood(s.kernel, rows, t, parameters)

        bounds = np.log([*[_LENGTHS] * self.inputs, _SIGNALS, (s.least_noise, 1.0)])
        first = np.log([*[self.inputs**0.5] * self.inputs, 1.0, max(0.1, s.least_noise)])
        last = torch.cat([p.lengths[output], p.signal[output, None], p.noise[output, None]]).log().cpu().numpy()
        begin = min((np.clip(guess, *bounds.T) for guess in (first, last)), key=lambda guess: loss(guess)[0])
        # It stops where it can do no better in this arithmetic, which is as good as converged.
        found = scipy.optimize.minimize(
            loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": s.iterations}
        )
        if not found.fun < _IMPOSSIBLE:
            raise FloatingPointError(f"no likelihood of output {output} is finite")
        return found

    def _learned(self, rows: Tensor, t: Tensor, parameters: np.ndarray, scales: dict[str, np.ndarray]) -> Posterior:
        """The posterior by hyperparameters' logarithms (do, di + 2)."""
        sizes = torch.as_tensor(parameters, dtype=torch.float64, device=self.device).exp()
        lengths, signal, noise = sizes[:, :-2], sizes[:, -2], sizes[:, -1]
        scaled = rows / lengths[:, None]
        covariance = _kernel(self.settings.kernel, _squares(scaled, scaled), signal[:, None, None])
        eye = torch.eye(len(rows), dtype=torch.float64, device=self.device)
        lower = torch.linalg.cholesky(covariance + noise[:, None, None] ** 2 * eye)
        return Posterior(
            kernel=self.settings.kernel,
            rows=rows,
            lengths=lengths.contiguous(),
            signal=signal.contiguous(),
            noise=noise.contiguous(),
            # In the order that files hold them, for products round differently in another.
            weights=torch.cholesky_solve(t.T[:, :, None], lower)[..., 0].contiguous(),
            whitening=torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False).contiguous(),
            **{name: torch.as_tensor(value, dtype=torch.float64, device=self.device) for name, value in scales.items()},
        )

    def _left_out(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances (1, m, do) for the rows kept, each by all others (equations 5.12, ibid.)."""
        p = self.posterior
        precision = p.whitening.square().sum(dim=1)  # the diagonal of (K + s_n^2 I)^-1
        error = (p.output_scale[:, None] * p.weights / precision).T.cpu().numpy()
        variance = (p.output_scale[:, None] ** 2 / precision).T.cpu().numpy()
        return (targets - error)[None], variance[None]


_IMPOSSIBLE = 1e12
"""Of a covariance matrix that is not positive definite in this arithmetic: a search turns back from there."""


def _squares(x: Tensor, other: Tensor) -> Tensor:
    """Squared distances (..., n, m) of points (..., n, d) from `other` (..., m, d)."""
    both = x.square().sum(-1)[..., :, None] + other.square().sum(-1)[..., None, :]
    return (both - 2.0 * x @ other.mT).clamp_min(_NEXT_TO_NOTHING)


def _kernel(kernel: Kernel, squares: Tensor, signal: Tensor | float) -> Tensor:
    """Covariances of points at such squared distances, in length scales."""
    if kernel == "squared_exponential":
        return signal**2 * torch.exp(-0.5 * squares)
    r = (5.0 * squares).sqrt()
    return signal**2 * (1.0 + r + r * r / 3.0) * torch.exp(-r)


def _unlikelihood(kernel: Kernel, x: Tensor, t: Tensor, parameters: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log marginal likelihood of a row [nats], and its gradient by the parameters (di + 2,).

    Args:
        kernel: of the process.
        x: (m, di).
        t: (m,).
        parameters: logarithms of lengths, signal and noise.
    """
    m, sizes = len(x), torch.as_tensor(parameters, device=x.device).exp()
    z, signal, noise = x / sizes[:-2], sizes[-2], sizes[-1]
    squares = _squares(z, z)
    covariance = _kernel(kernel, squares, signal)
    noisy = covariance.clone()
    noisy.diagonal().add_(noise**2)
    lower, failed = torch.linalg.cholesky_ex(noisy)
    if failed or not noisy.isfinite().all():
        return _IMPOSSIBLE, np.zeros_like(parameters)
    weights = torch.cholesky_solve(t[:, None], lower)
    value = 0.5 * (t @ weights[:, 0]) + lower.diagonal().log().sum() + 0.5 * m * np.log(2.0 * np.pi)
    # With W = K^-1 - a a', the gradient is tr(W dK) / 2; dK_ij by a length's logarithm is slope_ij (z_i - z_j)^2.
    W = torch.cholesky_inverse(lower) - weights @ weights.T
    if kernel == "squared_exponential":
        slope = W * covariance
    else:
        r = (5.0 * squares).sqrt()
        slope = W * (5.0 / 3.0 * signal**2 * (1.0 + r) * torch.exp(-r))
    by_lengths = (slope.sum(1)[:, None] * z * z).sum(0) - (z * (slope @ z)).sum(0)
    by_sizes = torch.stack([(W * covariance).sum(), noise**2 * W.diagonal().sum()])
    return value.item() / m, (torch.cat([by_lengths, by_sizes]) / m).cpu().numpy()


def _spread(x: np.ndarray, most: int) -> np.ndarray:
    """Which of the points `x` (n, d) are kept, in their order: all, or as many as are wanted, far from each other."""
    if len(x) <= most:
        return np.arange(len(x))
    chosen = np.empty(most, int)
    distance = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    chosen[0] = distance.argmin()
    distance[:] = np.inf
    for k in range(1, most):
        distance = np.minimum(distance, ((x - x[chosen[k - 1]]) ** 2).sum(axis=1))
        chosen[k] = distance.argmax()
    return np.sort(chosen)
