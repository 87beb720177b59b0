"""The networks of an ensemble made ready for predicting: fewer operations for the same numbers.

Normalisation is part of the first and the last layer's weights. With l and h a member's bounds of the log-variance and
a the network's output, the variance is exp(l + softplus(h - softplus(h - a) - l)), which is

    e^l + e^h sigmoid(a - h)

so that no exponential and no softplus is taken for each number. Agreement with `Members` is that of float32.
"""

import torch
from torch import Tensor, nn

from . import kernels
from .networks import ACTIVATIONS, Activation


class FusedMembers:
    """E members: means and variances (E, n, do) of inputs (E, n, di).

    Args:
        weights, biases: of each layer (E, in, out) and (E, 1, out), normalisation included; the last one's outputs are
            means, followed by a - h where members predict variances.
        least, span: e^l and e^h (E, 1, do), scaled as the outputs are; None for members without variances.
        activation: between layers.
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        least: Tensor | None,
        span: Tensor | None,
        activation: Activation,
    ) -> None:
        self.weights, self.biases = weights, biases
        self.least, self.span = least, span
        self.activation = activation

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances."""
        h = self._through(x)
        if self.least is None or self.span is None:
            return h, torch.zeros_like(h)
        mean, above = h.chunk(2, dim=-1)
        return mean, self.least + self.span * torch.sigmoid(above)

    def means(self, x: Tensor) -> Tensor:
        """Means alone."""
        h = self._through(x)
        return h if self.least is None else h.chunk(2, dim=-1)[0]

    def _through(self, x: Tensor) -> Tensor:
        f, last = ACTIVATIONS[self.activation], len(self.weights) - 1
        # Layers are overwritten where nobody will differentiate through them.
        if torch.is_inference_mode_enabled() and self.activation == "silu":
            f = _silu_inplace
        h = x
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            h = torch.baddbmm(bias, h, weight)
            if k < last:
                h = f(h)
        return h


def _silu_inplace(z: Tensor) -> Tensor:
    # Native code takes half of torch's time, on one thread.
    if z.device.type == "cpu" and z.dtype == torch.float32 and torch.get_num_threads() == 1:
        kernels.silu(z.view(-1).numpy())
        return z
    return nn.functional.silu(z, inplace=True)
