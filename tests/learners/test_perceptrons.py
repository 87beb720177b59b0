"""Perceptrons in one flat vector: their gradients are autograd's."""

import math

import numpy as np
import pytest
import torch
from trimtab.learners import perceptrons, threads
from trimtab.learners.perceptrons import NetworkSettings, Perceptrons


def network(settings, members=3, inputs=4, outputs=2):
    return Perceptrons(members, inputs, outputs, settings, np.random.default_rng(0))


def near(found, expected, tolerance=1e-6):
    """Whether the error, as a vector, is of float32's size."""
    return bool((found - expected).norm() <= tolerance * expected.norm())


def by_autograd(own, x, weights, masks=()):
    """Outputs, and gradients by all weights and by inputs, of the weighted sum of outputs; in float64."""
    layers = [[part.double().requires_grad_() for part in layer] for layer in own.layers()]
    x = x.double().requires_grad_()
    h = x.expand(own.members, *x.shape)
    for k, (weight, bias, *norm) in enumerate(layers):
        h = h @ weight + bias
        if k < len(layers) - 1:
            if masks:
                h = h * masks[k]
            if norm:
                h = torch.nn.functional.layer_norm(h, h.shape[-1:]) * norm[0] + norm[1]
            h = h.relu()
    (h * weights).sum().backward()
    return h.detach(), [[part.grad for part in layer] for layer in layers], x.grad


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_autograd(outputs, layer_norm, dropout):
    own = network(NetworkSettings(hidden=(8, 5), layer_norm=layer_norm, dropout=dropout), outputs=outputs)
    generator = torch.Generator().manual_seed(1)
    own.flat.add_(0.1 * torch.randn(own.flat.shape, generator=generator))  # no bias at 0, no scale at 1
    x = torch.randn(7, 4, generator=generator)
    g = torch.randn(3, 7, outputs, generator=generator)
    found = own.forward(x, generator if dropout else None).clone()
    masks = [torch.stack(each) for each in zip(*(part._room.masks for part in own.parts))] if dropout else []
    assert len(masks) == (2 if dropout else 0)
    expected, by_weights, by_x = by_autograd(own, x, g, masks)
    assert near(found, expected)
    own.backward(g.clone())
    for by, wanted in zip(own._by_layers, by_weights):
        assert all(near(one, other) for one, other in zip(by, wanted))
    assert near(own.by_inputs(g.clone()).sum(dim=0), by_x)
    assert near(own.by_inputs(g.clone(), 3).sum(dim=0), by_x[:, 3:], 3e-6)  # members cancel each other


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_all_members_as_one_batch_compute_the_same(outputs, layer_norm, members, monkeypatch):
    found = []
    x, g, wanted = torch.randn(9, 4), torch.randn(members, 9, outputs), torch.randn(9)
    chosen, member = torch.arange(9) % outputs, torch.arange(9) % members
    for whole in (False, True):
        if whole:  # as on a GPU
            monkeypatch.setattr(Perceptrons, "_shares", lambda self: [slice(None)])
            monkeypatch.setattr(perceptrons, "NativePart", perceptrons.TorchPart)
        own = network(NetworkSettings(hidden=(8, 5), layer_norm=layer_norm), members=members, outputs=outputs)
        own.flat.add_(0.1 * torch.randn(own.flat.shape, generator=torch.Generator().manual_seed(0)))
        own.spare.zero_()
        values = own.forward(x).clone()
        own.backward(g.clone())
        told, by_weights = [], own.grad.clone()
        own.fit(x, chosen, wanted, then=told.append)
        assert told == ([0] if whole else [*range(members)])
        found.append((values, by_weights, own.grad, own.by_inputs(g.clone(), 1), own.by_inputs_of(member, g[0], 2)))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_way_back_through_one_member_for_each_row(outputs, layer_norm, dropout):
    own = network(NetworkSettings(hidden=(8, 8), layer_norm=layer_norm, dropout=dropout), outputs=outputs)
    own.forward(torch.randn(9, 4), torch.Generator().manual_seed(0))
    g, chosen = torch.randn(9, outputs), torch.tensor([0, 2, 2, 0, 0, 2, 0, 2, 2])  # one is chosen nowhere
    whole = torch.zeros(3, 9, outputs)
    whole[chosen, torch.arange(9)] = g
    expected = own.by_inputs(whole, 1).sum(dim=0)
    torch.testing.assert_close(own.by_inputs_of(chosen, g, 1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_threads_compute_the_same(layer_norm, dropout, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = []
    for several in (True, False):
        monkeypatch.setattr(perceptrons, "_WORTH", 0 if several else 10**12)
        own = network(NetworkSettings(hidden=(64, 64), layer_norm=layer_norm, dropout=dropout), members=4)
        generator = torch.Generator().manual_seed(0)
        x, g = torch.randn(50, 4, generator=generator), torch.randn(4, 50, 2, generator=generator)
        values = own.forward(x, generator).clone()
        own.backward(g.clone())
        found.append((values, own.grad, own.by_inputs(g), own.by_inputs_of(torch.arange(50) % 4, g[0])))
    assert all(torch.equal(one, other) for one, other in zip(*found))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_fitting_is_both_ways_in_one(outputs, layer_norm, dropout):
    own = network(NetworkSettings(hidden=(8,), layer_norm=layer_norm, dropout=dropout), outputs=outputs)
    x, wanted, chosen = torch.randn(5, 4), torch.randn(5), torch.tensor([0, 2, 1, 1, 0]) % outputs
    found = own.forward(x, torch.Generator().manual_seed(0)).clone().requires_grad_()
    (0.5 * (found[:, torch.arange(5), chosen] - wanted).square().mean(dim=1)).sum().backward()
    own.backward(found.grad)
    expected = own.grad.clone()
    own.grad.zero_()
    told = []
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(own.fit(x, chosen, wanted, generator, lambda k: told.append((k, own.grad.clone()))), found)
    torch.testing.assert_close(own.grad, expected, rtol=1e-5, atol=1e-7)
    assert [k for k, _ in told] == [0, 1, 2]
    for k, grad in told:  # a part is told of as soon as its own gradient is there
        torch.testing.assert_close(grad.view(3, -1)[: k + 1], expected.view(3, -1)[: k + 1], rtol=1e-5, atol=1e-7)
        assert not grad.view(3, -1)[k + 1 :].any()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [(8,), (8, 5), (8, 5, 6, 7)])
def test_one_member_s_way_back_in_two_threads_is_the_same(outputs, layer_norm, hidden, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = []
    for worth in (0, 10**12):
        monkeypatch.setattr(perceptrons, "_WORTH", worth)
        own = network(NetworkSettings(hidden=hidden, layer_norm=layer_norm), members=1, outputs=outputs)
        generator = torch.Generator().manual_seed(0)
        own.forward(torch.randn(9, 4, generator=generator))
        own.grad.fill_(7.0)
        own.backward(torch.randn(1, 9, outputs, generator=generator))
        found.append(own.grad)
    assert torch.equal(*found)


def test_a_processor_s_networks_are_native_code():
    for dropout, native in ((0.0, True), (0.1, False)):
        own = network(NetworkSettings(hidden=(8, 8), dropout=dropout))
        assert [hasattr(part, "_pass") for part in own.parts] == [False] * 3
        own.forward(torch.randn(5, 4))
        assert [hasattr(part, "_pass") for part in own.parts] == [native] * 3


def test_what_arrays_held_before_does_not_matter():
    own, x = network(NetworkSettings(hidden=(8, 8)), outputs=1), torch.randn(5, 4)
    expected = own.forward(x).clone()
    own.forward(torch.full_like(x, math.nan))
    own.backward(torch.full((3, 5, 1), math.nan))
    assert own.forward(x).equal(expected)
    own.backward(torch.ones(3, 5, 1))
    assert own.grad.isfinite().all()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_what_is_no_number_shows_in_its_row(outputs, layer_norm):
    own, x = network(NetworkSettings(hidden=(8, 8), layer_norm=layer_norm), outputs=outputs), torch.randn(5, 4)
    x[2, 1] = float("nan")
    found = own.forward(x)
    assert found[:, 2].isnan().all()
    assert found[:, [0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("rows", [0, 1])
def test_of_no_rows_and_of_one(outputs, layer_norm, rows):
    own = network(NetworkSettings(hidden=(8, 8), layer_norm=layer_norm), outputs=outputs)
    whole = own.forward(torch.ones(3, 4))[:, :rows].clone()
    torch.testing.assert_close(own.forward(torch.ones(rows, 4)), whole)
    own.backward(torch.ones(3, rows, outputs))
    assert bool(own.grad.any()) == bool(rows)


def test_gradients_of_many_rows_keep_their_digits():
    own = network(NetworkSettings(hidden=(16, 16), layer_norm=True), outputs=1)
    x, g = torch.randn(8192, 4), torch.rand(3, 8192, 1)  # of one sign: nothing cancels, and all digits are needed
    own.forward(x)
    own.backward(g.clone())
    _, by_weights, _ = by_autograd(own, x, g)
    for by, wanted in zip(own._by_layers, by_weights):
        assert all(near(one, other, 3e-6) for one, other in zip(by, wanted))


def test_passes_beside_each_other_do_not_disturb():
    own = network(NetworkSettings(hidden=(8,)))
    other, (x, z) = own.beside(), torch.randn(2, 5, 4)
    g = torch.randn(3, 5, 2)
    own.forward(x)
    own.backward(g.clone())
    expected = own.grad.clone()
    own.forward(x)
    other.forward(z)
    own.backward(g.clone())
    assert torch.equal(own.grad, expected)
    other.backward(g.clone())
    assert not torch.equal(own.grad, expected)  # the same place


def test_what_is_dropped_out_is_made_up_for():
    own = network(NetworkSettings(hidden=(64,), dropout=0.5), members=1)
    x, generator = torch.randn(5, 4), torch.Generator().manual_seed(0)
    whole = own.forward(x).clone()
    drawn = torch.stack([own.forward(x, generator).clone() for _ in range(4000)])
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(0), whole, rtol=0.05, atol=0.03)


def test_arrays_are_kept_for_few_numbers_of_rows():
    own = network(NetworkSettings(hidden=(8,)))
    for rows in [*range(1, 60), 7]:
        own.forward(torch.randn(rows, 4))
    assert 7 in own._outputs
    assert [*own._outputs] == [*own.parts[0]._passes]
    assert len(own._outputs) <= 4


def test_a_twin_has_weights_of_its_own():
    own = network(NetworkSettings(hidden=(8,)))
    twin, x = own.like(), torch.randn(5, 4)
    before = own.forward(x).clone()
    torch.testing.assert_close(twin.forward(x), before)
    twin.flat.zero_()
    torch.testing.assert_close(own.forward(x), before)
    assert not twin.forward(x).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ()}, "hidden is \\[\\]"),
        ({"hidden": (4, 0)}, "hidden is \\[4, 0\\]"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        NetworkSettings(**settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_gpu_computes_what_a_processor_does(layer_norm, outputs):
    settings, found = NetworkSettings(hidden=(16, 16), layer_norm=layer_norm), []
    x, g, chosen = torch.randn(50, 4), torch.randn(3, 50, outputs), torch.arange(50) % 3
    for device in ("cpu", "cuda"):
        own = Perceptrons(3, 4, outputs, settings, np.random.default_rng(0), device)
        values = own.forward(x.to(device)).clone()
        one = own.by_inputs_of(chosen.to(device), g[0].to(device), 1)
        own.backward(g.to(device))
        found.append([part.cpu() for part in (values, one, own.grad)])
    for there, here in zip(*found):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
