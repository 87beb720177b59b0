"""Costs and rewards are written once and run on NumPy, torch and CasADi arrays.

CasADi arrays in array mode (`casadi.GlobalOptions.setNumpyMode(1)`, `casadi.ArrayInterfaceSX`) implement NumPy's
dispatch protocols, so `numpy` serves them as well; only torch tensors need another namespace. What CasADi arrays lack
(indexing by Ellipsis, `&`, an axis beyond the second) is bridged by the functions here.
"""

import functools
import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A NumPy array, a torch tensor, or a CasADi array: whatever the cost is evaluated on."""


def namespace(x: Array) -> ModuleType:
    """The array module (`numpy` or torch's, array-API compatible) whose functions act on `x`."""
    if type(x) is np.ndarray:
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch()
    return np


@functools.cache
def _torch() -> ModuleType:
    import array_api_compat.torch as xp

    return xp


def entry(x: Array, i: int | slice) -> Array:
    """`x[..., i]`, entry or slice `i` of the last axis; CasADi arrays, which do not index by Ellipsis, included."""
    if len(x.shape) > 2 or isinstance(x, np.ndarray):
        return x[..., i]
    return x[i] if len(x.shape) == 1 else x[:, i]


def positive(x: Array) -> Array:
    """`max(x, 0)`, (...) -> (...); not a number stays not a number."""
    return np.maximum(x, 0.0) if namespace(x) is np else x.clamp(min=0.0)


def indicator(condition: Array, like: Array) -> Array:
    """1 where `condition` (...) holds, else 0, as numbers of the kind of `like`."""
    if type(condition) is np.ndarray:
        return condition.astype(like.dtype)  # twice as fast as np.where
    return np.where(condition, 1.0, 0.0) if namespace(like) is np else condition.to(like.dtype)


def vector(*components: Array | float) -> Array:
    """The vectors (..., k) with these k components, each (...) or, but for the first, a number."""
    first, *others = components
    xp = namespace(first)
    return xp.stack([first, *(0.0 * first + component for component in others)], axis=-1)


def norm(*components: Array) -> Array:
    """Euclidean length of the vector with these components, each (...) -> (...).

    1e-24 under the root keeps its derivative finite (and right: 0) at the zero vector.
    """
    first, *others = components
    square = first * first
    for component in others:
        square = square + component * component
    return namespace(first).sqrt(square + 1e-24)
