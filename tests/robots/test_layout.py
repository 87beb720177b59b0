import numpy as np
import pytest
import torch
from trimtab.robots import Layout, Reading

LAYOUT = Layout((Reading.qpos("angle", 0), Reading("tip", 3), Reading.qvel("velocity", 0, 1)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 5), (1, 2, 5)])
def test_names_are_slices(shape):
    y = np.random.default_rng(0).standard_normal((*shape, LAYOUT.size))
    for view in (LAYOUT(y), LAYOUT(torch.from_numpy(y))):
        np.testing.assert_array_equal(np.asarray(view.angle), y[..., 0])
        np.testing.assert_array_equal(np.asarray(view.tip), y[..., 1:4])
        np.testing.assert_array_equal(np.asarray(view.velocity), y[..., 4:6])


def test_labels_say_every_entry():
    assert LAYOUT.labels == ("angle", "tip[0]", "tip[1]", "tip[2]", "velocity[0]", "velocity[1]")
    assert list(LAYOUT) == ["angle", "tip", "velocity"]
    assert "tip" in LAYOUT
    assert "cart" not in LAYOUT


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="no reading 'cart'; known: angle, tip, velocity"):
        LAYOUT["cart"]


def test_names_are_unique():
    with pytest.raises(ValueError, match="two readings are called 'tip'"):
        Layout((Reading("tip", 3), Reading("tip", 1)))


def test_what_terms_share_is_computed_once_for_each_array():
    calls = []

    def height(y):
        calls.append(y)
        return y.tip[..., 2]

    first, second = LAYOUT(np.arange(6.0)), LAYOUT(np.arange(6.0) + 1.0)
    assert first.once(height) == first.once(height) == 3.0
    assert second.once(height) == 4.0
    assert len(calls) == 2
