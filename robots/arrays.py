"""Costs and rewards are written once and run on NumPy, torch and CasADi arrays.

CasADi arrays in array mode (`casadi.ArrayInterfaceSX`) implement NumPy's dispatch protocols, so `numpy`
serves them as well; only torch tensors need another namespace.
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A NumPy array, a torch tensor, or a CasADi array: whatever the cost is evaluated on."""


def namespace(x: Array) -> ModuleType:
    """The array module (`numpy` or torch's, array-API compatible) whose functions act on `x`."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        import array_api_compat.torch as xp

        return xp
    return np


def entry(x: Array, i: int | slice) -> Array:
    """`x[..., i]`, entry or slice `i` of the last axis; CasADi arrays, which do not index by Ellipsis, included."""
    if len(x.shape) > 2 or isinstance(x, np.ndarray):
        return x[..., i]
    return x[i] if len(x.shape) == 1 else x[:, i]
