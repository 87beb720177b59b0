"""The limits that controls are tried within, where a robot has both, one or none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab import robots
from trimtab.robots import Reading
from trimtab.robots.task import Robot

NUMBERS = st.floats(-1e6, 1e6)
LIMITS = st.one_of(
    st.tuples(NUMBERS, NUMBERS).map(sorted),
    st.tuples(NUMBERS, st.just(np.inf)),
    st.tuples(st.just(-np.inf), NUMBERS),
    st.just((-np.inf, np.inf)),
)


def bounded(limits):
    """Limits (nu, 2) as given, and those to try controls within (2, nu)."""
    limits = np.array(limits, float).T
    return limits, Robot("some", None, (Reading("y", 1),), 0.1, limits=limits).bounded_limits


@given(st.lists(LIMITS, min_size=1, max_size=5))
def test_controls_are_tried_within_the_limits_there_are(several):
    (low, high), found = bounded(several)
    assert np.isfinite(found).all()
    assert (found[0] >= low).all()
    assert (found[1] <= high).all()
    for limit, kept in ((low, found[0]), (high, found[1])):
        np.testing.assert_array_equal(kept[np.isfinite(limit)], limit[np.isfinite(limit)])
    unlimited = ~(np.isfinite(low) & np.isfinite(high))
    assert (found[1] - found[0] >= 1.0 - 1e-9)[unlimited].all()  # as far as numbers of this size can tell


@given(LIMITS)
def test_a_control_the_other_way_round_is_tried_the_other_way_round(one):
    _, found = bounded([one])
    _, turned = bounded([(-one[1], -one[0])])
    np.testing.assert_array_equal(turned, -found[::-1])


@pytest.mark.parametrize(
    ("limits", "tried"),
    [
        ((-np.inf, np.inf), (-1.0, 1.0)),
        ((0.0, np.inf), (0.0, 1.0)),
        ((-np.inf, 0.0), (-1.0, 0.0)),
        ((2.0, np.inf), (2.0, 3.0)),
        ((-np.inf, -7.0), (-8.0, -7.0)),
        ((-3.0, np.inf), (-3.0, 1.0)),
        ((1.0, 1.0), (1.0, 1.0)),
    ],
)
def test_examples(limits, tried):
    np.testing.assert_array_equal(bounded([limits])[1][:, 0], tried)


def test_nobody_changes_them():
    with pytest.raises(ValueError, match="read-only"):
        robots.load("cartpole-swingup").robot.bounded_limits[0] = 5.0
