"""Soft actor-critic's update, beside autograd and closed forms."""

import math
import threading

import numpy as np
import pytest
import torch
from trimtab.learners import perceptrons, threads
from trimtab.learners.actor_critic import (
    ActorCriticSettings,
    Batches,
    DiscreteSoftActorCritic,
    SoftActorCritic,
    SquashedGaussian,
)
from trimtab.learners.perceptrons import NetworkSettings

SMALL = NetworkSettings(hidden=(16, 16))


def batches(count=3, rows=32, observations=4, actions=2, choices=0, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return torch.as_tensor(rng.standard_normal(shape), dtype=torch.float32)

    action = torch.tanh(normal(count, rows, actions))
    if choices:
        action = torch.as_tensor(rng.integers(choices, size=(count, rows, 1)), dtype=torch.float32)
    discount = torch.as_tensor(np.where(rng.random((count, rows)) < 0.2, 0.0, 0.9), dtype=torch.float32)
    return Batches(
        seen=normal(count, rows, observations),
        action=action,
        reward=normal(count, rows),
        seen_next=normal(count, rows, observations),
        discount=discount,
    )


def through(network, flat, x):
    """A network's outputs (E, n, out), with its weights taken from `flat`."""
    h = x.expand(network.members, *x.shape)
    layers, _ = network._view(flat)
    for k, (weight, bias, *norm) in enumerate(layers):
        h = h @ weight + bias
        if k < len(layers) - 1:
            if norm:
                h = torch.nn.functional.layer_norm(h, h.shape[-1:]) * norm[0] + norm[1]
            h = h.relu()
    return h


def gaussian(outputs, noise):
    """Actions and their log-probabilities, by torch's own distributions."""
    mean, raw = outputs.chunk(2, dim=-1)
    std = torch.exp(-5.0 + 3.5 * (torch.tanh(raw) + 1.0))
    squash = torch.distributions.TanhTransform(cache_size=1)
    normal = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, std), squash)
    action = squash(mean + std * noise)
    return action, normal.log_prob(action).sum(-1)


def moments(sac, name):
    """A copy of what Adam has of a network, flat as its weights are."""
    adam = sac._adam[name]
    return {
        "step": adam.count.clone(),
        "exp_avg": adam.means.flatten().clone(),
        "exp_avg_sq": adam.squares.flatten().clone(),
    }


def by_autograd(sac, seen, action, reward, seen_next, discount):
    """An update of a copy of `sac` by autograd and torch's Adam: flat weights of policy, critics and targets."""
    s, generator = sac.settings, torch.Generator().manual_seed(0)
    generator.set_state(sac.generator.get_state())
    discrete = isinstance(sac, DiscreteSoftActorCritic)
    actor, critics = (torch.nn.Parameter(network.flat.clone()) for network in (sac.actor, sac.critics))
    log_alpha = sac.actor._view(actor)[1][0, 0]
    alpha = log_alpha.exp()
    optimizers = []
    for parameter, (old, name) in ((actor, (sac.actor, "actor")), (critics, (sac.critics, "critics"))):
        optimizers.append(torch.optim.Adam([parameter], lr=s.learning_rate))
        optimizers[-1].state[parameter] = moments(sac, name)
        assert old.flat.shape == parameter.shape

    def value(values, dim=0):
        return values.mean(dim) if s.objective == "mean" else values.amin(dim)

    with torch.no_grad():
        out = through(sac.actor, actor, seen_next)[0]
        if discrete:
            log_pi = out.log_softmax(-1)
            q = through(sac.targets, sac.targets.flat, seen_next).amin(0)
            after = (log_pi.exp() * (q - alpha * log_pi)).sum(-1)
        else:
            a, log_pi = gaussian(out, torch.randn(len(seen), sac.actions, generator=generator))
            q = through(sac.targets, sac.targets.flat, torch.cat([seen_next, a], -1))[:, :, 0].amin(0)
            after = q - alpha * log_pi
        target = reward + discount * after
    if discrete:
        chosen = action.long().expand(s.critics, *action.shape)
        q = through(sac.critics, critics, seen).gather(2, chosen)[:, :, 0]
    else:
        q = through(sac.critics, critics, torch.cat([seen, action], -1))[:, :, 0]
    (0.5 * (q - target).square().mean(1).sum()).backward()
    optimizers[1].step()
    fixed = critics.detach()
    out = through(sac.actor, actor, seen)[0]
    if discrete:
        log_pi = out.log_softmax(-1)
        q = value(through(sac.critics, fixed, seen))
        loss = (log_pi.exp() * (alpha.detach() * log_pi - q)).sum(-1).mean()
        entropy = -(log_pi.exp() * log_pi).sum(-1).mean()
    else:
        a, log_pi = gaussian(out, torch.randn(len(seen), sac.actions, generator=generator))
        q = value(through(sac.critics, fixed, torch.cat([seen, a], -1))[:, :, 0])
        loss = (alpha.detach() * log_pi - q).mean()
        entropy = -log_pi.mean()
    actor.grad = None
    (loss + s.learned * log_alpha * (entropy.detach() - sac.target_entropy)).backward()
    optimizers[0].step()
    targets = sac.targets.flat.lerp(critics.detach(), s.averaging)
    return actor.grad, critics.grad, (actor.detach(), critics.detach(), targets)


@pytest.mark.parametrize(
    "settings",
    [
        ActorCriticSettings(network=SMALL),
        ActorCriticSettings(network=NetworkSettings(hidden=(16, 16), layer_norm=True), objective="mean"),
        ActorCriticSettings(network=SMALL, critics=3, subset=3, averaging=0.5),
        ActorCriticSettings(network=SMALL, critics=1, subset=1, learned=False),
    ],
    ids=["usual", "mean of normalised critics", "three critics", "one critic, a fixed temperature"],
)
@pytest.mark.parametrize("kind", [SoftActorCritic, DiscreteSoftActorCritic])
def test_an_update_is_that_of_autograd(settings, kind):
    actions = 3 if kind is DiscreteSoftActorCritic else 2
    sac = kind(4, actions, settings, np.random.default_rng(1))
    data = batches(choices=actions if kind is DiscreteSoftActorCritic else 0)
    for k in range(3):
        one = data.seen[k], data.action[k], data.reward[k], data.seen_next[k], data.discount[k]
        by_actor, by_critics, expected = by_autograd(sac, *one)
        sac.update(Batches(*(part[None] for part in one)))
        for found, wanted in ((sac.actor.grad, by_actor), (sac.critics.grad, by_critics)):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        found = sac.actor.flat, sac.critics.flat, sac.targets.flat
        for one, other in zip(found, expected):
            # Adam's first steps are as long for the smallest gradients as for the largest.
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", [SoftActorCritic, DiscreteSoftActorCritic])
@pytest.mark.parametrize("objective", ["minimum", "mean"])
@pytest.mark.parametrize(
    "network", [SMALL, NetworkSettings(hidden=(16, 16), layer_norm=True), NetworkSettings(hidden=(16,), dropout=0.1)]
)
@pytest.mark.parametrize("critics", [1, 3])
def test_threads_update_to_the_same_bits(kind, objective, network, critics, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    settings = ActorCriticSettings(network=network, critics=critics, subset=1, objective=objective, actor_every=2)
    data, states = batches(6, choices=3 if kind is DiscreteSoftActorCritic else 0), []
    for cores in (1, 3):
        who = set()
        monkeypatch.setattr(threads, "available_cores", lambda cores=cores: cores)
        monkeypatch.setattr(perceptrons, "_WORTH", 0)
        sac = kind(4, 3 if kind is DiscreteSoftActorCritic else 2, settings, np.random.default_rng(1))
        sac._steps["critics"] = [
            lambda who=who, step=step: (who.add(threading.get_ident()), step()) for step in sac._steps["critics"]
        ]
        for _ in range(20):
            sac.update(data)
        assert len(who) > 1 or cores == 1 or critics == 1
        states.append(sac.state_dict()["tensors"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_state_of_another_layout_is_refused_by_that_name():
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL), np.random.default_rng(0))
    state = sac.state_dict()
    for layout in ({}, {"layout": 1}):
        with pytest.raises(ValueError, match="laid out as in an earlier version"):
            sac.load_state_dict({name: part for name, part in state.items() if name != "layout"} | layout)


def test_probabilities_of_squashed_actions_sum_to_one():
    outputs = torch.tensor([[0.3, -0.4]])
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    std = math.exp(-5.0 + 3.5 * (math.tanh(-0.4) + 1.0))
    policy = SquashedGaussian(outputs.double().expand(len(z), 2), (z - 0.3) / std)
    density = policy.log_probability.exp()
    action = policy.action[:, 0]
    assert float(torch.trapezoid(density, action)) == pytest.approx(1.0, abs=1e-6)


def test_native_code_squashes_as_torch_does():
    rng = np.random.default_rng(0)
    outputs = np.concatenate([rng.standard_normal((300, 6)), 20.0 * rng.standard_normal((300, 6))])
    outputs[0] = 0.0, 1e-6, -1e4, 1e4, -1e4, 0.0  # rounding, and tails
    noise, by_action = rng.standard_normal((2, 600, 3))
    both = []
    for kind in (torch.float32, torch.float64):
        own, e, by = (torch.as_tensor(part.astype(np.float32)).to(kind) for part in (outputs, noise, by_action))
        policy = SquashedGaussian(own, e)
        both.append([part.double() for part in (policy.action, policy.log_probability, policy.backward(by, 0.3))])
    for found, expected in zip(*both):
        torch.testing.assert_close(found, expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_number_stays_so_when_squashed(place):
    outputs = torch.zeros(1, 2)
    outputs[0, place] = math.nan
    assert SquashedGaussian(outputs, torch.zeros(1, 1)).log_probability.isnan().all()


def test_few_updates_of_the_policy():
    settings = ActorCriticSettings(network=SMALL, actor_every=3)
    sac = SoftActorCritic(4, 2, settings, np.random.default_rng(0))
    moved = []
    for k in range(6):
        before = sac.actor.flat.clone()
        found = sac.update(batches(1, seed=k))
        moved.append(not torch.equal(before, sac.actor.flat))
        assert math.isnan(found["entropy"]) != moved[-1]
    assert moved == [False, False, True, False, False, True]


def test_a_target_is_the_minimum_of_a_drawn_subset():
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL, critics=5, subset=2), np.random.default_rng(0))
    values = torch.arange(5.0)[:, None].expand(5, 3)
    drawn = torch.stack([sac._least(values) for _ in range(3000)])[:, 0]
    share = torch.bincount(drawn.long(), minlength=5) / len(drawn)
    # The least of two of five: k is it in 4 - k of 10 draws.
    torch.testing.assert_close(share, torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0]), atol=0.04, rtol=0)


@pytest.mark.parametrize("kind", [SoftActorCritic, DiscreteSoftActorCritic])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_state_restored_goes_on_to_the_bit(kind, dropout):
    settings = ActorCriticSettings(network=NetworkSettings(hidden=(16,), dropout=dropout), critics=3, subset=2)
    one = kind(4, 2, settings, np.random.default_rng(0))
    other = kind(4, 2, settings, np.random.default_rng(1))
    choices = 2 if kind is DiscreteSoftActorCritic else 0
    one.update(batches(choices=choices))
    other.load_state_dict(one.state_dict())
    found = [sac.update(batches(seed=1, choices=choices)) for sac in (one, other)]
    assert found[0] == found[1]
    assert one.updates == other.updates == 6
    for name, tensor in one._changing().items():
        assert torch.equal(tensor, other._changing()[name]), name


def test_a_state_of_another_kind_of_device_goes_on_repeatably():
    """A CUDA generator's state has 16 bytes, which a processor's does not take."""
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL), np.random.default_rng(0))
    state = sac.state_dict() | {"device": "cuda", "generator": torch.arange(16, dtype=torch.uint8)}
    others = [SoftActorCritic(4, 2, sac.settings, np.random.default_rng(k)) for k in (1, 2)]
    for other in others:
        other.load_state_dict(state)
    one, two = (other.update(batches()) for other in others)
    assert one == two


def test_one_update_that_breaks_down_shows():
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL, learned=False), np.random.default_rng(0))
    data = batches(5)
    data.reward[4, 0] = math.inf
    assert not math.isfinite(sac.update(data)["critic"])


@pytest.mark.parametrize("settings", [{"temperature": 1e-8}, {"target_entropy": -500.0, "learning_rate": 1.0}])
def test_the_smallest_temperature_leaves_gradients_finite(settings):
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL, **settings), np.random.default_rng(0))
    found = sac.update(batches(60))
    assert found["temperature"] >= math.exp(-20.0) * 0.999
    assert torch.isfinite(sac.actor.flat).all()


@pytest.mark.parametrize(
    ("kind", "most"), [(SoftActorCritic, 3 * math.log(2.0)), (DiscreteSoftActorCritic, math.log(3.0))]
)
def test_an_entropy_that_no_policy_has_is_refused(kind, most):
    with pytest.raises(ValueError, match=f"target_entropy is {most + 0.01:g}; it must be below .* {most:.4g}"):
        kind(4, 3, ActorCriticSettings(network=SMALL, target_entropy=most + 0.01), np.random.default_rng(0))
    kind(4, 3, ActorCriticSettings(network=SMALL, target_entropy=most - 0.01), np.random.default_rng(0))


def test_another_shape_is_refused_and_changes_nothing():
    one = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL), np.random.default_rng(0))
    before = one.actor.flat.clone()
    with pytest.raises(ValueError, match="another shape"):
        one.load_state_dict(SoftActorCritic(5, 2, one.settings, np.random.default_rng(0)).state_dict())
    with pytest.raises(ValueError, match="none of soft actor-critic"):
        one.load_state_dict({"shape": [4, 2]})
    assert torch.equal(before, one.actor.flat)


def test_numpy_asks_the_same_policy():
    sac = SoftActorCritic(4, 2, ActorCriticSettings(network=SMALL), np.random.default_rng(0))
    seen = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    outputs = sac.actor.forward(torch.as_tensor(seen))[0]
    policy = sac.policy()
    np.testing.assert_allclose(policy(seen), torch.tanh(outputs[:, :2]).numpy(), atol=1e-6)
    rng = np.random.default_rng(2)
    drawn = np.arctanh(np.clip(np.stack([policy(seen[:1], rng)[0] for _ in range(4000)]), -1 + 1e-9, 1 - 1e-9))
    log_std = -5.0 + 3.5 * (torch.tanh(outputs[0, 2:]) + 1.0)
    np.testing.assert_allclose(drawn.mean(0), outputs[0, :2].numpy(), atol=0.05)
    np.testing.assert_allclose(drawn.std(0), log_std.exp().numpy(), rtol=0.05)


def test_numpy_draws_the_same_choices():
    sac = DiscreteSoftActorCritic(4, 3, ActorCriticSettings(network=SMALL), np.random.default_rng(0))
    seen = np.random.default_rng(1).standard_normal((1, 4)).astype(np.float32)
    logits = 5.0 * sac.actor.forward(torch.as_tensor(seen))[0, 0]
    sac.actor.flat.copy_(sac.actor.flat)
    for part in sac.actor.layers()[-1]:
        part.mul_(5.0)
    policy, rng = sac.policy(), np.random.default_rng(0)
    assert policy(seen)[0, 0] == int(logits.argmax())
    drawn = np.bincount(policy(np.repeat(seen, 20_000, axis=0), rng)[:, 0].astype(int), minlength=3) / 20_000
    np.testing.assert_allclose(drawn, logits.softmax(-1).numpy(), atol=0.015)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critics": 0}, "critics is 0"),
        ({"subset": 3}, "subset is 3; it must be at most critics, 2"),
        ({"discount": 1.0}, "discount is 1.0"),
        ({"averaging": 0.0}, "averaging is 0.0"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"temperature": 1e-50}, "temperature is 1e-50; it must be from 1e-08"),
        ({"target_entropy": math.nan}, "target_entropy is nan"),
        ({"objective": "minimal"}, "unknown objective 'minimal'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticSettings(**settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SoftActorCritic, ActorCriticSettings(network=SMALL)),
        (SoftActorCritic, ActorCriticSettings(network=SMALL, critics=4, actor_every=2)),
        (SoftActorCritic, ActorCriticSettings(network=NetworkSettings(hidden=(16, 16), layer_norm=True, dropout=0.2))),
        (DiscreteSoftActorCritic, ActorCriticSettings(network=SMALL)),
    ],
)
def test_updates_recorded_on_a_gpu_are_the_plain_ones(kind, settings, monkeypatch):
    actions = 3 if kind is DiscreteSoftActorCritic else 2
    data = batches(count=6, choices=actions if kind is DiscreteSoftActorCritic else 0)
    data = Batches(**{name: part.to("cuda") for name, part in vars(data).items()})
    recorded, plain = (kind(4, actions, settings, np.random.default_rng(1), "cuda") for _ in range(2))
    monkeypatch.setattr(plain, "_recorded", lambda moves, parts: plain._once(moves, *parts))
    for _ in range(2):  # graphs are made in the first round, and played alone in the second
        found, wanted = recorded.update(data), plain.update(data)
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    for name, tensor in recorded._changing().items():
        torch.testing.assert_close(tensor, plain._changing()[name], rtol=1e-3, atol=1e-5, msg=name)
    torch.testing.assert_close(recorded.generator.get_state(), plain.generator.get_state())
