"""How the costs that ensemble members predict for a candidate become one number.

With costs c_e of members e = 1..E:

    mean          1/E sum_e c_e
    worst         max_e c_e
    cvar          mean of the worst fraction `level` of the members (Rockafellar and Uryasev, 2000)
    exponential   1/b log(1/E sum_e exp(b c_e)), b = `level` (the entropic risk; b -> 0 is the mean)

A fraction that is no whole number of members counts the last of them in part, so that `cvar` is continuous in `level`:
`worst` up to 1/E, `mean` at 1. For every risk, mean <= risk <= worst, and one infinite cost makes the candidate's
infinite.
"""

from typing import Literal, get_args

import numpy as np

Risk = Literal["mean", "worst", "cvar", "exponential"]
RISKS: tuple[str, ...] = get_args(Risk)


def check(risk: str, level: float) -> None:
    """Raises `ValueError` for a risk that is not known, or a level outside its range."""
    if risk not in RISKS:
        raise ValueError(f"unknown risk {risk!r}; known: {', '.join(RISKS)}")
    if risk == "cvar" and not 0.0 < level <= 1.0:
        raise ValueError(f"cvar takes a level in (0, 1], not {level}")
    if risk == "exponential" and not 0.0 < level < np.inf:
        raise ValueError(f"exponential risk takes a level above 0, not {level}")


def across_members(costs: np.ndarray, risk: Risk = "mean", level: float = 0.5) -> np.ndarray:
    """Costs (E, N) of members and candidates -> (N,).

    Args:
        costs: by member and candidate; infinite is allowed, NaN is not.
        risk: `mean`, `worst`, `cvar` or `exponential`.
        level: the share of members in (0, 1] for `cvar`; the aversion b > 0 for `exponential`, in 1 / cost.

    Raises:
        ValueError: an unknown risk, or a level outside its range.
    """
    check(risk, level)
    members = len(costs)
    if members == 1:
        return costs[0]
    if risk == "mean":
        return costs.mean(0)
    worst = costs.max(0)
    if risk == "worst":
        return worst
    if risk == "cvar":
        share = level * members
        if share <= 1.0:
            return worst
        descending = -np.sort(-costs, axis=0)[: int(np.ceil(share))]
        weights = np.minimum(share - np.arange(len(descending)), 1.0) / share
        return weights @ descending
    # Relative to the worst, no exponential overflows; an infinite worst would make inf - inf of it.
    reference = np.where(np.isfinite(worst), worst, 0.0)
    excess = np.where(np.isfinite(worst), costs - reference, 0.0)
    return np.where(np.isfinite(worst), reference + np.log(np.exp(level * excess).mean(0)) / level, worst)
