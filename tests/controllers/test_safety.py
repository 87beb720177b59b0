import dataclasses

import numpy as np
import pytest
from trimtab.controllers import Safety, run
from trimtab.controllers.safety import MAX_EVENTS, Fault, Guard
from trimtab.robots import UnknownName
from trimtab.sim import State

LIMITS = np.array([[-1.0, 0.0], [1.0, 4.0]])
DT = 0.5


class Fixed:
    """A fallback controller that always says the same, or raises."""

    def __init__(self, u):
        self.u = u
        self.seeds = []

    def reset(self, seed):
        self.seeds.append(seed)

    def control(self, state):
        if self.u is None:
            raise RuntimeError("me too")
        return np.array(self.u)


def apply(guard, k, u, fault=None):
    control, kind = guard.apply(State(k * DT, np.zeros(2)), None if u is None else np.array(u, dtype=float), fault)
    return control.tolist(), kind


def test_lets_good_controls_pass_unchanged():
    guard = Guard(Safety(), LIMITS, DT)
    for k, u in enumerate([[-1.0, 4.0], [1.0, 0.0], [0.123, 3.21]]):
        assert apply(guard, k, u) == (u, None)
    assert (guard.events, guard.fallbacks) == ([], 0)


def test_clips_to_the_limits_and_tells_only_what_is_no_rounding():
    guard = Guard(Safety(), LIMITS, DT)
    assert apply(guard, 0, [1.0 + 1e-7, -1e-7]) == ([1.0, 0.0], None)
    assert guard.events == []
    assert apply(guard, 1, [1.01, 7.0]) == ([1.0, 4.0], "limits")
    (event,) = guard.events
    assert (event.kind, event.fallback, event.count, event.time) == ("limits", "clip", 1, DT)
    assert event.detail == "control 1 is 7, outside [0, 4]"
    assert guard.fallbacks == 0


def test_actuators_without_limits_take_anything_finite():
    guard = Guard(Safety(rate=0.1), np.array([[-np.inf, -1.0], [np.inf, 1.0]]), DT)
    assert apply(guard, 0, [1e9, 0.05]) == ([1e9, 0.05], None)
    assert apply(guard, 1, [-1e9, 0.1]) == ([-1e9, 0.1], None)
    assert apply(guard, 2, [np.inf, 0.1])[1] == "nan"


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [0.1, -np.inf], [np.inf, np.nan]])
@pytest.mark.parametrize(
    ("fallback", "expected", "name"),
    [("hold", [0.5, 2.0], "hold"), ("zero", [0.0, 0.0], "zero"), (Fixed([0.25, 1.0]), [0.25, 1.0], "Fixed")],
)
def test_what_is_not_finite_meets_the_fallback(bad, fallback, expected, name):
    for safety in (Safety(fallback=fallback), Safety(fallbacks={"nan": fallback})):
        guard = Guard(safety, LIMITS, DT)
        assert apply(guard, 0, [0.5, 2.0]) == ([0.5, 2.0], None)
        assert apply(guard, 1, bad) == (expected, "nan")
        assert apply(guard, 2, bad) == (expected, "nan")  # what a fallback did is not held
        assert apply(guard, 3, [0.1, 0.2]) == ([0.1, 0.2], None)
        (event,) = guard.events
        assert (event.kind, event.fallback, event.time, event.last, event.count) == ("nan", name, DT, 2 * DT, 2)
        assert guard.fallbacks == 2


def test_before_any_good_control_hold_is_zero_within_the_limits():
    guard = Guard(Safety(), np.array([[0.5], [2.0]]), DT)
    assert apply(guard, 0, [np.nan]) == ([0.5], "nan")
    assert apply(Guard(Safety(fallback="zero"), np.array([[-2.0], [-1.0]]), DT), 0, [np.nan]) == ([-1.0], "nan")


def test_a_fallback_of_its_own_for_each_check():
    fallbacks = {"nan": "zero", "error": Fixed([0.75, 0.5]), "limits": "hold"}
    guard = Guard(Safety(fallback="hold", fallbacks=fallbacks), LIMITS, DT)
    assert apply(guard, 0, [0.5, 2.0]) == ([0.5, 2.0], None)
    assert apply(guard, 1, None, Fault("stale", "old")) == ([0.5, 2.0], "stale")
    assert apply(guard, 2, [np.nan, 0.0]) == ([0.0, 0.0], "nan")
    assert apply(guard, 3, None, Fault("error", "raised")) == ([0.75, 0.5], "error")
    assert apply(guard, 4, [3.0, 0.0]) == ([0.5, 2.0], "limits")
    assert [(e.kind, e.fallback) for e in guard.events] == [
        ("stale", "hold"),
        ("nan", "zero"),
        ("error", "Fixed"),
        ("limits", "hold"),
    ]
    assert guard.fallbacks == 4


def test_rate_is_a_share_of_the_range_per_second():
    # 0.2 of the ranges 2 and 4, in half a second: at most 0.2 and 0.4 a step.
    guard = Guard(Safety(rate=0.2), LIMITS, DT)
    assert apply(guard, 0, [0.2, 0.4]) == ([0.2, 0.4], None)
    u, kind = apply(guard, 1, [-1.0, 0.5])
    np.testing.assert_allclose(u, [0.0, 0.5], atol=1e-12)
    assert kind == "rate"
    assert guard.events[0].detail == "control 0 changes by 1.2 in one step, over 0.2"
    assert guard.fallbacks == 0
    guard = Guard(Safety(rate=np.array([1.0, 0.05])), LIMITS, DT)
    np.testing.assert_allclose(apply(guard, 0, [1.0, 4.0])[0], [1.0, 0.1])


def test_fallbacks_keep_to_the_rate_and_the_limits():
    guard = Guard(Safety(rate=0.2, fallback=Fixed([-9.0, 9.0])), LIMITS, DT)
    expected = [([-0.2, 0.4]), ([-0.4, 0.8]), ([-0.6, 1.2])]
    for k, u in enumerate(expected):
        control, kind = apply(guard, k, [np.nan, 0.0])
        np.testing.assert_allclose(control, u)
        assert kind == "nan"
    assert {(e.kind, e.fallback, e.count) for e in guard.events} == {("nan", "Fixed", 3), ("rate", "clip", 3)}
    guard = Guard(Safety(rate=0.2, fallbacks={"rate": "zero"}), LIMITS, DT)
    apply(guard, 0, [0.2, 0.4])
    np.testing.assert_allclose(apply(guard, 1, [1.0, 0.4])[0], [0.0, 0.0], atol=1e-12)
    assert guard.fallbacks == 1


@pytest.mark.parametrize("answer", [None, [0.1], [np.nan, 0.0]])
def test_a_fallback_controller_that_fails_is_replaced_by_zero(answer):
    guard = Guard(Safety(fallback=Fixed(answer)), LIMITS, DT)
    apply(guard, 0, [0.5, 2.0])
    for k in (1, 2, 3):
        assert apply(guard, k, [np.nan, 0.0]) == ([0.0, 0.0], "nan")
    assert [(e.kind, e.fallback, e.count) for e in guard.events] == [("nan", "Fixed", 3), ("error", "zero", 3)]
    assert "fallback Fixed failed" in guard.events[1].detail


def test_events_do_not_grow_without_limit():
    guard = Guard(Safety(), LIMITS, DT)
    for k in range(0, 4 * MAX_EVENTS, 2):
        apply(guard, k, [np.nan, 0.0])
        apply(guard, k + 1, [0.0, 0.0])
    assert len(guard.events) == MAX_EVENTS
    assert sum(e.count for e in guard.events) == guard.fallbacks == 2 * MAX_EVENTS
    assert guard.events[-1].last == (4 * MAX_EVENTS - 2) * DT
    apply(guard, 4 * MAX_EVENTS, [9.0, 0.0])  # another kind is still told
    assert guard.events[-1].kind == "limits"


def test_what_is_returned_is_the_callers():
    guard = Guard(Safety(), LIMITS, DT)
    u, _ = guard.apply(State(0.0, np.zeros(2)), np.array([0.5, 2.0]))
    u[:] = 99.0
    assert apply(guard, 1, [np.nan, 0.0]) == ([0.5, 2.0], "nan")


def test_settings_are_checked():
    with pytest.raises(UnknownName, match=r"safety check 'nam'; did you mean 'nan'\? Known: error, hang, limits, nan"):
        Safety(fallbacks={"nam": "hold"})
    with pytest.raises(UnknownName, match=r"fallback 'hol'; did you mean 'hold'\? Known: hold, zero"):
        Safety(fallback="hol")
    with pytest.raises(UnknownName, match=r"fallback 'clip'.* Known: hold, zero"):
        Safety(fallbacks={"nan": "clip"})
    assert Safety(fallbacks={"limits": "clip"}).of("limits") == "clip"
    with pytest.raises(ValueError, match="hold, zero, or a controller"):
        Safety(fallback=3)
    for name, value in {"rate": 0.0, "stale": -1.0, "hang": 0.0, "warmup": np.nan, "grace": -0.1}.items():
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Safety(**{name: value})
    with pytest.raises(ValueError, match=r"rate has shape \(3,\)"):
        Guard(Safety(rate=np.ones(3)), LIMITS, DT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Safety().rate = 1.0


def test_a_run_under_a_fallback_controller(block):
    # NaN from 0.5 s to 1 s: the fallback brakes by -0.5 meanwhile, and the episode tells.
    stop = block.Script(lambda s: -0.5)
    controller = block.Script(lambda s: np.nan if 0.5 <= s.time < 1.0 else 0.25)
    e = run(block.Plant(), controller, task=block.task, seed=9, safety=Safety(fallbacks={"nan": stop}))
    assert e.status == "done"
    np.testing.assert_array_equal(e.u[:, 0], [0.25] * 4 + [-0.5] * 4 + [0.25] * 8)
    assert stop.seed == 9
    assert e.summary()["fallbacks"] == 4
    (event,) = e.events
    assert (event.kind, event.fallback, event.time, event.last, event.count) == ("nan", "Script", 0.5, 0.875, 4)
