import casadi as ca
import numpy as np
import pytest
import torch
from trimtab.robots.arrays import entry, indicator, namespace, norm, positive


@pytest.fixture
def _array_mode():
    before = ca.GlobalOptions.getNumpyMode()
    ca.GlobalOptions.setNumpyMode(1)
    yield
    ca.GlobalOptions.setNumpyMode(before)


def numbers(x):
    return np.asarray(x)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, ca.ArrayInterfaceDM])
@pytest.mark.usefixtures("_array_mode")
def test_the_same_on_every_kind_of_array(kind):
    values = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -5.0]])
    x = kind(values)
    np.testing.assert_array_equal(numbers(entry(x, 1)), values[:, 1])
    np.testing.assert_array_equal(numbers(entry(x, slice(1, 3))), values[:, 1:])
    np.testing.assert_array_equal(numbers(positive(x)), np.maximum(values, 0.0))
    np.testing.assert_array_equal(numbers(indicator(x > 0.5, x)), values > 0.5)
    lengths = norm(*(entry(x, i) for i in range(3)))
    np.testing.assert_allclose(numbers(lengths), np.linalg.norm(values, axis=1), rtol=1e-14)


def test_entry_takes_the_last_axis_whatever_the_number_of_axes():
    for shape in [(4,), (3, 4), (2, 3, 4), (5, 2, 3, 4)]:
        x = np.random.default_rng(0).standard_normal(shape)
        np.testing.assert_array_equal(entry(x, 2), x[..., 2])
        np.testing.assert_array_equal(entry(torch.from_numpy(x), 2).numpy(), x[..., 2])


def test_norm_has_a_derivative_at_the_zero_vector():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    norm(x[0], x[1]).backward()
    assert torch.equal(x.grad, torch.zeros(2, dtype=torch.float64))


def test_namespaces_act_on_their_own_arrays():
    assert namespace(np.zeros(2)) is np
    assert namespace(np.float64(1.0)) is np
    assert isinstance(namespace(torch.zeros(2)).cos(torch.zeros(2)), torch.Tensor)


def test_not_a_number_stays():
    assert np.isnan(positive(np.array([np.nan]))).all()
    assert torch.isnan(positive(torch.tensor([float("nan")]))).all()
