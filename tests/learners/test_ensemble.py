"""Ensembles against distributions, single networks, and data whose law is known."""

import copy
import json
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from trimtab.learners import backward, checkpoint, threads
from trimtab.learners import ensemble as ensemble_module
from trimtab.learners.backward import Backward
from trimtab.learners.calibration import calibration, percentiles
from trimtab.learners.ensemble import Ensemble, EnsembleSettings, Members
from trimtab.learners.member_parts import DividedPart, NativePart, TorchPart
from trimtab.learners.networks import BatchedMLP, GaussianHead, gaussian_nll

SMALL = EnsembleSettings(members=3, elites=2, hidden=(16, 16), batch=64, epochs=20, updates=10)


def wavy(n, rng):
    """Two outputs of one input, the first with noise that grows with the input."""
    x = rng.uniform(-1, 1, (n, 1))
    noise = np.concatenate([0.05 + 0.25 * np.maximum(x, 0), np.full((n, 1), 0.1)], axis=1)
    return x, np.concatenate([np.sin(4 * x), 0.5 * x], axis=1) + noise * rng.normal(size=(n, 2)), noise


def fitted(settings, seed=0, n=400):
    rng = np.random.default_rng(seed)
    x, t, _ = wavy(n, rng)
    ensemble = Ensemble(1, 2, rng, settings)
    return ensemble, ensemble.fit(x, t, rng), rng


def fitted_to(x, t, settings):
    """An ensemble of the first seed, after one fit."""
    rng = np.random.default_rng(0)
    ensemble = Ensemble(x.shape[1], t.shape[1], rng, settings)
    ensemble.fit(x, t, rng)
    return ensemble


def test_likelihood_is_that_of_torch():
    rng = np.random.default_rng(0)
    mean, log_variance, target = torch.as_tensor(rng.normal(size=(3, 4, 50, 2)))
    normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    torch.testing.assert_close(gaussian_nll(mean, log_variance, target), -normal.log_prob(target))


def single(batched, e):
    """Member `e` of a batched network as torch's own layers."""
    layers = []
    for weight, bias in zip(batched.weights, batched.biases):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[2])
        layer.load_state_dict({"weight": weight[e].T, "bias": bias[e, 0]})
        layers += [layer, torch.nn.SiLU()]
    return torch.nn.Sequential(*layers[:-1])


def test_batched_members_are_single_networks():
    batched = BatchedMLP(4, (3, 16, 8, 2), "silu", np.random.default_rng(0))
    x = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))
    together = batched(x)
    for e in range(4):
        torch.testing.assert_close(together[e], single(batched, e)(x[e]))
    together.square().sum().backward()
    for e in range(4):
        alone = single(batched, e)
        alone(x[e]).square().sum().backward()
        for k, layer in enumerate(alone[::2]):
            torch.testing.assert_close(batched.weights[k].grad[e], layer.weight.grad.T)
            torch.testing.assert_close(batched.biases[k].grad[e, 0], layer.bias.grad)


@pytest.fixture(params=["native", "native, the last divided", "torch"])
def way(request, monkeypatch):
    """How members are trained: each natively, the last of an odd number by halves of its rows, or all by torch."""
    monkeypatch.setattr(backward, "_WORTH", 10**12 if request.param == "native" else 0)
    if request.param == "torch":
        monkeypatch.setattr(backward, "_native", lambda weight: False)
    return request.param


def parts_of(gradients):
    """How many parts there are of each kind."""
    return [sum(type(part) is kind for part in gradients._parts + gradients._last) for kind in KINDS]


KINDS = (NativePart, DividedPart, TorchPart)


def parts_by(way, members):
    """The same, as it should be."""
    odd = members % 2
    return {"native": [members, 0, 0], "native, the last divided": [members - odd, odd, 0], "torch": [0, 0, 1]}[way]


def test_members_train_as_they_would_alone(way, monkeypatch):
    """Every member's weights after many steps are those of a network trained by itself, with torch's own parts."""
    settings = replace(SMALL, holdout=0.0, bootstrap=False, weight_decay=1e-2, epochs=3, updates=1)
    rng = np.random.default_rng(0)
    x, t, _ = wavy(256, rng)
    ensemble = Ensemble(1, 2, rng, settings)
    alone = [single(ensemble.members.network, e) for e in range(3)]
    heads = [GaussianHead(1, 2) for _ in range(3)]
    seen = []
    call = Backward.__call__

    def noting(own, x, t, batches):
        seen.extend((x[index], t[index]) for index in batches)
        return call(own, x, t, batches)

    monkeypatch.setattr(Backward, "__call__", noting)
    for _ in range(3):
        gradients = Backward(ensemble.members, settings.bound_weight, 64, ensemble._adam)
        assert parts_of(gradients) == parts_by(way, 3)
        ensemble._pass(gradients, *ensemble._normalised(x, t), [np.arange(256)] * 3, 256, 4, rng)
    assert len(seen) == 12
    for e, (network, head) in enumerate(zip(alone, heads)):
        weights = [p for name, p in network.named_parameters() if "weight" in name]
        others = [p for name, p in network.named_parameters() if "bias" in name] + [*head.parameters()]
        optimizer = torch.optim.Adam([{"params": weights, "weight_decay": 1e-2}, {"params": others}], lr=1e-3)
        for xs, ts in seen:
            mean, log_variance = head(network(xs[e])[None])
            nll = torch.nn.functional.gaussian_nll_loss(mean[0], ts[e], log_variance[0].exp(), full=True, eps=1e-12)
            optimizer.zero_grad()
            (nll + 0.01 * (head.upper - head.lower).mean()).backward()
            optimizer.step()
        for k, layer in enumerate(network[::2]):
            torch.testing.assert_close(ensemble.members.network.weights[k][e], layer.weight.T, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(ensemble.members.head.lower[e], head.lower[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("members", "hidden", "activation"),
    [(3, (32, 48, 16), "silu"), (2, (12,), "relu"), (1, (8, 24), "tanh"), (1, (), "silu")],
)
@pytest.mark.parametrize("probabilistic", [True, False])
def test_losses_and_gradients_are_those_of_autograd(members, hidden, activation, probabilistic, way):
    settings = EnsembleSettings(
        members=members, elites=1, hidden=hidden, activation=activation, probabilistic=probabilistic
    )
    own, exact = (Members(7, 11, settings, np.random.default_rng(0)) for _ in range(2))
    exact.double()
    if way == "torch":
        own.double()
    if probabilistic:
        with torch.no_grad():  # where both bounds bear on the variance
            for each in (own, exact):
                each.head.lower.copy_(torch.linspace(-4.0, -2.0, 11 * members).view(members, 1, 11))
    near = {"rtol": 1e-6, "atol": 1e-9} if way == "torch" else {"rtol": 1e-4, "atol": 2e-6}
    gradients = Backward(own, 0.1, 50)
    assert parts_of(gradients) == parts_by(way, members)
    generator = torch.Generator().manual_seed(0)
    for n in (50, 1, 49):
        x, t = (torch.randn(120, size, generator=generator, dtype=torch.double) for size in (7, 11))
        index, given = torch.randint(120, (members, n), generator=generator), [z.to(own.input_mean) for z in (x, t)]
        loss = exact.losses(x[index], t[index])
        expected = torch.autograd.grad((loss + 0.1 * exact.spread_of_bounds()).sum(), [*exact.parameters()])
        torch.testing.assert_close(gradients(*given, [index]).double(), loss.detach(), **near)
        for p, gradient in zip(own.parameters(), expected):
            torch.testing.assert_close(p.grad.double(), gradient, **near)
        loss = exact.losses(x.expand(members, -1, -1), t.expand(members, -1, -1)).detach()
        torch.testing.assert_close(gradients.losses(*given), loss, **near)


@pytest.mark.parametrize("before", [0, 1000])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_native_steps_are_those_of_adam(before, decay, monkeypatch):
    """One step from the same averages: by torch, natively, and natively of two halves."""
    found = []
    x, t = (torch.randn(60, size, generator=torch.Generator().manual_seed(size)) for size in (4, 3))
    index = torch.arange(40).expand(3, 40).contiguous()
    for kind, worth in (("torch", 0), ("native", 10**12), ("divided", 0)):
        monkeypatch.setattr(backward, "_WORTH", worth)
        monkeypatch.setattr(backward, "_native", lambda weight, kind=kind: kind != "torch")
        ensemble = Ensemble(4, 3, np.random.default_rng(0), replace(SMALL, weight_decay=decay))
        adam = ensemble._adam
        adam.count.fill_(before)
        adam.means.copy_(0.01 * torch.randn(adam.means.shape, generator=torch.Generator().manual_seed(1)))
        adam.squares.copy_(0.01 * torch.rand(adam.squares.shape, generator=torch.Generator().manual_seed(2)))
        Backward(ensemble.members, 0.01, 40, adam)(x, t, [index])
        assert adam.count == before + 1
        rows = ensemble.members.flat
        found.append([rows.views(part) for part in (rows.values, rows.grad, adam.means, adam.squares)])
    for other in found[1:]:
        for ours, theirs in zip(other, found[0]):
            for one, two in zip(ours, theirs):
                torch.testing.assert_close(one, two, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda ensemble: pickle.loads(pickle.dumps(ensemble))])
def test_a_copy_learns_as_the_original_does(copied):
    rng = np.random.default_rng(0)
    x, t, _ = wavy(200, rng)
    ensemble = Ensemble(1, 2, rng, SMALL)
    ensemble.fit(x, t, rng)
    other = copied(ensemble)
    for each in (ensemble, other):
        each.fit(x, t, np.random.default_rng(1))
    for one, two in zip(ensemble.members.parameters(), other.members.parameters()):
        assert torch.equal(one, two)
    members = copied(ensemble.members)
    members.flat.values.zero_()
    assert all((p == 0.0).all() for p in members.parameters())
    assert not any((p == 0.0).all() for p in ensemble.members.parameters())


def test_members_that_were_moved_are_not_trained_by_another_adam():
    rng = np.random.default_rng(0)
    ensemble = Ensemble(1, 2, rng, SMALL)
    ensemble.members.double()
    with pytest.raises(ValueError, match="have been moved"):
        ensemble.fit(*wavy(50, rng)[:2], rng)


def test_an_interrupted_fit_leaves_the_best_weights_and_begins_adam_anew():
    rng = np.random.default_rng(0)
    x, t, _ = wavy(300, rng)
    ensemble = Ensemble(1, 2, rng, SMALL)
    looks = []

    def interrupt(look):
        looks.append(look)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensemble.fit(x, t, rng, observe=interrupt)
    assert not any(part.any() for part in (ensemble._adam.count, ensemble._adam.means, ensemble._adam.squares))
    held = ensemble.held_out(300)
    best = np.min([look.holdout for look in looks[:2]], axis=0)
    given = [z[torch.as_tensor(held)] for z in ensemble._normalised(x, t)]
    now = Backward(ensemble.members, 0.0, 300).losses(*given).numpy()
    np.testing.assert_allclose(now, best, rtol=1e-6)


@pytest.fixture
def torch_threads():
    """Sets how many threads torch has, for the length of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_as_the_cpu_does():
    x, t, _ = wavy(300, np.random.default_rng(0))
    settings = replace(SMALL, epochs=2, updates=1, patience=10)
    here, there = (Ensemble(1, 2, np.random.default_rng(1), settings, device) for device in ("cpu", "cuda"))
    fits = [ensemble.fit(x, t, np.random.default_rng(2)) for ensemble in (here, there)]
    np.testing.assert_allclose(fits[0].holdout, fits[1].holdout, rtol=1e-3)
    np.testing.assert_allclose(here.predict(x)[0], there.predict(x)[0], atol=1e-3)


def test_threads_do_not_change_what_is_learned(monkeypatch, torch_threads):
    settings = EnsembleSettings(batch=250, epochs=1, updates=1)  # large enough to be divided as it is
    x, t, _ = wavy(600, np.random.default_rng(0))
    t = np.asfortranarray(t)
    learned, ran = [], set()
    call = NativePart.descend

    def noting(*args):
        ran.add(threading.get_ident())
        return call(*args)

    monkeypatch.setattr(NativePart, "descend", noting)
    torch_threads(1)
    for cores in (1, 2):
        monkeypatch.setattr(threads, "available_cores", lambda cores=cores: cores)
        ran.clear()
        ensemble = fitted_to(x, t, settings)
        learned.append(ensemble.members.state_dict())
        assert (ran == {threading.get_ident()}) == (cores == 1)
    for name, value in learned[0].items():
        assert torch.equal(value, learned[1][name]), name


def test_jobs_in_threads_keep_their_order_and_tell_what_went_wrong(monkeypatch, torch_threads):
    torch_threads(1)
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    assert threads.in_threads(lambda k: 1.0 / k, [1, 2, 4]) == [1.0, 0.5, 0.25]
    with pytest.raises(ZeroDivisionError):
        threads.in_threads(lambda k: 1.0 / k, [1, 0, 4])
    assert threads.in_threads(lambda k: 1.0 / k, []) == []


def test_variances_stay_within_their_bounds():
    head = GaussianHead(2, 3)
    raw = torch.linspace(-100, 100, 2 * 50 * 6).reshape(2, 50, 6)
    mean, log_variance = head(raw)
    torch.testing.assert_close(mean, raw[..., :3])
    assert (log_variance >= head.lower - 1e-5).all()
    assert (log_variance <= head.upper + 1e-4).all()
    middle = torch.full((2, 1, 6), -5.0)
    torch.testing.assert_close(head(middle)[1], torch.full((2, 1, 3), -5.0), rtol=0, atol=0.02)


def test_percentiles_are_those_of_the_mixture():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=(3, 5, 2)), rng.uniform(0.5, 2.0, (3, 5, 2))
    target = rng.normal(size=(5, 2))
    draws = mean[..., None] + np.sqrt(variance)[..., None] * rng.normal(size=(3, 5, 2, 40_000))
    share = (draws < target[..., None]).mean(axis=(0, 3))
    np.testing.assert_allclose(percentiles(mean, variance, target), share, atol=0.01)


def test_calibration_of_what_is_known():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(20_000, 2))
    mean, variance = np.zeros((1, 20_000, 2)), np.ones((1, 20_000, 2))
    right = calibration(mean, variance, target)
    assert right.covered90 == pytest.approx(0.9, abs=0.007)
    assert right.error < 0.005
    bold = calibration(mean, variance / 4, target)  # 90 % of half the standard deviation: 58.9 % of the normal law
    assert bold.covered90 == pytest.approx(0.5892, abs=0.01)
    assert bold.error > 0.2
    sure = calibration(mean, 0 * variance, np.where(target < 0, 0.0, target))
    assert sure.covered90 == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="do not fit"):
        calibration(mean, variance, target[:-1])


def test_buffers_of_the_way_back_are_made_once_in_a_fit(monkeypatch):
    made = []

    def counted(*given):
        made.append(Backward(*given))
        return made[-1]

    monkeypatch.setattr(ensemble_module, "Backward", counted)
    _, fit, _ = fitted(SMALL)
    assert len(fit.looks) > 1
    assert len(made) == 1


@pytest.mark.parametrize("holdout", [0.0, 0.9999])
def test_where_no_row_or_each_would_be_held_out_all_are_trained_on(holdout):
    ensemble, fit, _ = fitted(replace(SMALL, holdout=holdout), n=6)
    assert ensemble.held_out(6).sum() == (6 if holdout else 0)
    assert (fit.rows, fit.held_out) == (6, 0)
    x = wavy(6, np.random.default_rng(0))[0]
    np.testing.assert_array_equal(ensemble.members.input_mean.numpy(), x.mean(axis=0).astype(np.float32))
    assert np.isfinite(fit.holdout).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_learned_and_covered(seed):
    rng = np.random.default_rng(seed)
    x, t, _ = wavy(2000, rng)
    ensemble = Ensemble(1, 2, rng, EnsembleSettings(members=3, elites=3, hidden=(48, 48), epochs=80))
    fit = ensemble.fit(x, t, rng)
    assert fit.rows + fit.held_out == 2000
    assert fit.held_out == pytest.approx(200, abs=45)
    x, t, noise = wavy(3000, rng)
    mean, variance = ensemble.predict(x)
    covered = calibration(mean, variance, t)
    assert 0.85 <= covered.covered90 <= 0.95
    assert covered.error < 0.02
    deviation = np.sqrt(variance).mean(axis=0)
    assert abs(deviation / noise - 1).mean() < 0.1
    truth = np.concatenate([np.sin(4 * x), 0.5 * x], axis=1)
    assert np.sqrt(np.mean((mean.mean(axis=0) - truth) ** 2)) < 0.03


def test_members_disagree_where_there_are_no_data():
    ensemble, _, _ = fitted(replace(SMALL, epochs=60, members=5, elites=5))
    mean, _ = ensemble.predict(np.array([[0.0], [5.0]]))
    spread = mean.std(axis=0)
    assert (spread[1] > 4 * spread[0]).all()


@pytest.mark.parametrize("probabilistic", [True, False])
def test_a_linear_system_is_learned(probabilistic):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 2))
    x = rng.normal(size=(1000, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -100.0]
    settings = EnsembleSettings(
        members=2, elites=2, hidden=(32,), probabilistic=probabilistic, batch=128, epochs=150, learning_rate=5e-3
    )
    ensemble = Ensemble(3, 2, rng, settings)
    ensemble.fit(x[:700], x[:700] @ matrix, rng)
    mean, variance = ensemble.predict(x[700:])
    truth = x[700:] @ matrix
    error = np.sqrt(np.mean((mean.mean(axis=0) - truth) ** 2, axis=0))
    assert (error < 0.02 * truth.std(axis=0)).all()
    assert (variance > 0).all() if probabilistic else (variance == 0).all()


def test_more_data_improve_what_was_learned():
    rng = np.random.default_rng(0)
    x, t, _ = wavy(2000, rng)
    ensemble = Ensemble(1, 2, rng, SMALL)
    first = ensemble.fit(x[:150], t[:150], rng)
    test = wavy(1000, rng)[:2]

    def error():
        return np.mean((ensemble.predict(test[0])[0] - test[1]) ** 2)

    before = error()
    second = ensemble.fit(x, t, rng)
    assert error() < 0.9 * before
    assert second.rows > first.rows


def test_rows_keep_their_roles_as_data_grow():
    ensemble = Ensemble(1, 2, np.random.default_rng(0), SMALL)
    held, counts = ensemble._roles(1000, 0)
    for first, rows in ((0, 10), (17, 400), (999, 1)):
        part = ensemble._roles(rows, first)
        np.testing.assert_array_equal(part[0], held[first : first + rows])
        np.testing.assert_array_equal(part[1], counts[first : first + rows])
    np.testing.assert_array_equal(ensemble.held_out(1000), held)
    assert held.mean() == pytest.approx(0.1, abs=0.03)
    assert counts.mean() == pytest.approx(1.0, abs=0.06)  # three standard deviations
    assert counts.var() == pytest.approx(1.0, abs=0.15)
    assert abs(np.corrcoef(counts.T)[0, 1]) < 0.1


def test_the_best_weights_and_members_are_kept():
    ensemble, fit, _ = fitted(replace(SMALL, epochs=60))
    np.testing.assert_array_less(fit.holdout, fit.looks[0].holdout)
    lowest = np.min([look.holdout for look in fit.looks], axis=0)
    np.testing.assert_array_equal(fit.holdout, lowest)
    assert list(ensemble.elites) == list(np.argsort(fit.holdout)[:2])
    x, t, _ = wavy(400, np.random.default_rng(0))
    held = ensemble.held_out(400)
    mean, variance = ensemble.predict(x[held])
    normal = torch.distributions.Normal(*(torch.as_tensor(z) for z in (mean, np.sqrt(variance))))
    scale = ensemble.members.output_scale.double()
    nll = -(normal.log_prob(torch.as_tensor(t[held])) + torch.log(scale)).mean(dim=(1, 2))
    np.testing.assert_allclose(nll.numpy(), fit.holdout, atol=1e-5)


def test_training_stops_when_it_no_longer_helps():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(200, 1)), rng.normal(size=(200, 2))  # there is nothing to learn
    ensemble = Ensemble(1, 2, rng, replace(SMALL, epochs=100_000, patience=3))
    looks = []
    fit = ensemble.fit(x, t, rng, observe=looks.append)
    assert len(looks) == len(fit.looks) < 1000
    assert fit.updates == looks[-1].updates


def test_same_seed_same_numbers():
    one, other, third = (fitted(SMALL, seed)[0].predict(np.zeros((1, 1))) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, third)


def save(ensemble, path):
    checkpoint.save(path, "ensemble", ensemble.state_dict())


def load(path):
    return Ensemble.from_state_dict(checkpoint.load(path, "ensemble"))


@pytest.mark.parametrize(("probabilistic", "members"), [(True, 3), (False, 3), (True, 1)])
def test_a_resumed_ensemble_trains_to_the_same_numbers(tmp_path, probabilistic, members):
    ensemble, _, rng = fitted(replace(SMALL, probabilistic=probabilistic, members=members, elites=1))
    save(ensemble, tmp_path / "ensemble.safetensors")
    stream = json.loads(json.dumps(checkpoint.rng_state(rng)))
    x, t, _ = wavy(700, np.random.default_rng(9))
    whole = ensemble.fit(x, t, rng)
    resumed = load(tmp_path / "ensemble.safetensors")
    restored = np.random.default_rng(123)
    checkpoint.restore_rng(restored, stream)
    again = resumed.fit(x, t, restored)
    assert checkpoint.rng_state(restored) == checkpoint.rng_state(rng)
    assert again.updates == whole.updates
    np.testing.assert_array_equal([look.holdout for look in again.looks], [look.holdout for look in whole.looks])
    for name, value in ensemble.members.state_dict().items():
        assert torch.equal(resumed.members.state_dict()[name], value), name
    np.testing.assert_array_equal(resumed.elites, ensemble.elites)
    assert [p.name for p in tmp_path.iterdir()] == ["ensemble.safetensors"]


def test_a_state_does_not_change_as_training_goes_on(tmp_path):
    ensemble, _, rng = fitted(SMALL)
    save(ensemble, tmp_path / "a")
    other = load(tmp_path / "a")
    state = checkpoint.load(tmp_path / "a", "ensemble")
    other.load_state_dict(state)
    other.fit(*wavy(100, rng)[:2], rng)
    ensemble.load_state_dict(state)
    save(ensemble, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_checkpoints_are_refused(tmp_path):
    ensemble, path = fitted(SMALL, n=50)[0], tmp_path / "ensemble.safetensors"
    save(ensemble, path)
    whole = path.read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"ensemble\.safetensors is no checkpoint, or not the whole of one"):
            load(path)
    checkpoint.save(path, "policy", {})
    with pytest.raises(ValueError, match="of kind 'policy', not 'ensemble'"):
        load(path)
    state = ensemble.state_dict()
    checkpoint.save(path, "ensemble", {**state, "settings": {**state["settings"], "dropout": 0.1}})
    with pytest.raises(ValueError, match="settings unknown here: dropout"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("inputs", "settings", "told"),
    [
        (2, SMALL, "inputs of the ensemble saved is 1, of this one 2"),
        (1, replace(SMALL, hidden=(16,)), r"hidden of the ensemble saved is \(16, 16\), of this one \(16,\)"),
        (1, replace(SMALL, patience=9), "patience of the ensemble saved is 5, of this one 9"),
    ],
)
def test_states_of_another_ensemble_are_refused(inputs, settings, told):
    other = Ensemble(inputs, 2, np.random.default_rng(0), settings)
    before = [p.clone() for p in other.members.parameters()]
    with pytest.raises(ValueError, match=told):
        other.load_state_dict(Ensemble(1, 2, np.random.default_rng(1), SMALL).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, other.members.parameters()))


def test_bad_data_are_refused_and_change_nothing():
    ensemble, _, rng = fitted(SMALL, n=50)
    before = ensemble.predict(np.ones((1, 1)))
    x, t, _ = wavy(20, rng)
    broken = t.copy()
    broken[[7, 9], 1] = np.inf
    for inputs, targets, told in (
        (x, broken, "2 of 20 rows hold numbers that are not finite, the first of them row 7"),
        (x, t[:-1], "targets"),
        (x[:, 0], t, "inputs have shape"),
        (x[:0], t[:0], "no rows"),
    ):
        with pytest.raises(ValueError, match=told):
            ensemble.fit(inputs, targets, rng)
    with pytest.raises(ValueError, match="inputs have shape"):
        ensemble.predict(np.ones(1))
    np.testing.assert_array_equal(ensemble.predict(np.ones((1, 1))), before)


def test_a_loss_that_diverges_is_an_error_and_leaves_weights_that_work():
    rng = np.random.default_rng(0)
    ensemble = Ensemble(1, 2, rng, replace(SMALL, probabilistic=False, learning_rate=1e18))
    x, t, _ = wavy(300, rng)
    with pytest.raises(FloatingPointError, match="not finite after"):
        ensemble.fit(x, t, rng)
    assert np.isfinite(ensemble.predict(x)[0]).all()
    assert not any(part.any() for part in (ensemble._adam.count, ensemble._adam.means, ensemble._adam.squares))


def test_few_rows_and_constant_columns_are_no_trouble():
    rng = np.random.default_rng(0)
    for rows in (1, 2, 5):
        ensemble = Ensemble(2, 2, rng, replace(SMALL, holdout=0.5))
        x = np.column_stack([np.full(rows, 7.0), np.arange(rows)])
        t = np.column_stack([np.full(rows, -3.0), np.arange(rows)])
        ensemble.fit(x, t, rng)
        mean, variance = ensemble.predict(x)
        np.testing.assert_allclose(mean[..., 0], -3.0, atol=1e-4)
        assert (variance[..., 0] < 1e-8).all()


def test_what_never_changes_says_nothing_of_calibration():
    rng = np.random.default_rng(0)
    x, t, _ = wavy(400, rng)
    ensemble = Ensemble(1, 4, rng, SMALL)
    fit = ensemble.fit(x, np.column_stack([t, np.zeros(400), np.full(400, 3.0)]), rng)
    held = ensemble.held_out(400)
    mean, variance = (z[ensemble.elites][..., :2] for z in ensemble.predict(x[held]))
    assert fit.calibration.error == calibration(mean, variance, t[held]).error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"members": 0}, "members is 0"),
        ({"elites": 6}, "6 elites of 5 members"),
        ({"hidden": (8, 0)}, "hidden layers"),
        ({"activation": "sine"}, "unknown activation 'sine'; known: silu, relu, tanh"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
    ],
)
def test_settings_are_checked(change, told):
    with pytest.raises(ValueError, match=told):
        EnsembleSettings(**change)
