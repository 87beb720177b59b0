"""How the costs that ensemble members predict for a candidate become one number.

With costs c_e of members e = 1..E:

    mean          1/E sum_e c_e
    worst         max_e c_e
    cvar          mean of the worst fraction `level` of the members (Rockafellar and Uryasev, 2000)
    exponential   1/b log(1/E sum_e exp(b c_e)), b = `level` (the entropic risk; b -> 0 is the mean)
"""

from typing import Literal

import numpy as np
from scipy.special import logsumexp

Risk = Literal["mean", "worst", "cvar", "exponential"]


def across_members(costs: np.ndarray, risk: Risk = "mean", level: float = 0.5) -> np.ndarray:
    """Costs (E, N) of members and candidates -> (N,).

    Args:
        costs: by member and candidate.
        risk: `mean`, `worst`, `cvar` or `exponential`.
        level: the share of members in (0, 1] for `cvar`; the aversion b > 0 for `exponential`.

    Raises:
        ValueError: an unknown risk, or a level outside its range.
    """
    members = costs.shape[0]
    if risk == "worst":
        return costs.max(0)
    if risk == "cvar":
        if not 0.0 < level <= 1.0:
            raise ValueError(f"cvar takes a level in (0, 1], not {level}")
        count = max(1, round(level * members))
        return np.partition(costs, members - count, axis=0)[members - count :].mean(0)
    if risk == "exponential":
        if level <= 0.0:
            raise ValueError(f"exponential risk takes a level above 0, not {level}")
        return (logsumexp(level * costs, axis=0) - np.log(members)) / level
    if risk == "mean":
        return costs[0] if members == 1 else costs.mean(0)
    raise ValueError(f"unknown risk {risk!r}; known: mean, worst, cvar, exponential")
