"""Soft actor-critic: a policy and its values, learned from whatever was experienced.

**The objective, from control as inference** (Levine, Reinforcement learning and control as probabilistic inference,
2018; lecture 19 of the Berkeley deep reinforcement learning course). Let a step be optimal, O_t = 1, with probability
exp(r(s_t, a_t) / alpha), and actions beforehand be uniform. Which actions were taken, if every step was optimal? The
exact posterior also believes that the dynamics were kind, p(s' | s, a, O) instead of p(s' | s, a): an optimist. So the
posterior is approximated by distributions whose dynamics are the true ones,

    q(s_1, a_1, ...) = p(s_1) prod_t p(s_{t+1} | s_t, a_t) pi(a_t | s_t)

and of those the one that maximises the evidence's lower bound, in which the dynamics cancel:

    log p(O) >= E_q[sum_t log p(O_t | s_t, a_t) - log pi(a_t | s_t)]
              = (1 / alpha) E_q[sum_t r(s_t, a_t) + alpha H(pi(. | s_t))]

the expected return plus alpha times the policy's entropy. Maximised backward in time, its optimum is

    pi(a | s) = exp((Q(s, a) - V(s)) / alpha),    V(s) = alpha log int exp(Q(s, a) / alpha) da
    Q(s, a) = r(s, a) + gamma E_{s'}[V(s')],      with gamma < 1 a chance 1 - gamma that all ends

For a policy that is not the optimum, V(s) = E_pi[Q(s, a) - alpha log pi(a | s)]: critics learn Q by regression on
r + gamma V(s'), and the policy is moved towards exp(Q / alpha) by minimising E_pi[alpha log pi(a | s) - Q(s, a)], their
Kullback-Leibler divergence but for a constant (Haarnoja, Zhou, Abbeel and Levine, Soft actor-critic, 2018). alpha is
the multiplier of the constraint that the entropy be at least a target, and is learned by dual descent (Haarnoja et al.,
Soft actor-critic algorithms and applications, 2018). The smaller of two critics' values stands against
overestimation. With more critics, targets of a few drawn among them, and more updates for each step, this is REDQ (Chen
et al., 2021); with layer normalisation and dropout in place of many critics, DroQ (Hiraoka et al., 2022). For choices
in place of numbers the expectations over actions are sums (Christodoulou, Soft actor-critic for discrete action
settings, 2019).

Gradients are written out, see `perceptrons.py`.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..robots.plugins import UnknownName
from . import kernels
from .adam import Adam
from .cuda_graph import Graph
from .perceptrons import NetworkSettings, Perceptrons
from .threads import in_threads

Objective = Literal["minimum", "mean"]

LOG_STD = (-5.0, 2.0)
"""Within which the logarithm of the policy's standard deviation lies, before squashing."""

_FARTHEST = 20.0
"""Largest logarithm of alpha, and minus the smallest: gradients stay finite."""

_LAYOUT = 2
"""Of weights in a state: each member's are together."""

_LOG_2, _HALF_LOG_2PI = math.log(2.0), 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class ActorCriticSettings:
    """How a policy and its values are learned from transitions.

    Attributes:
        network: of the critics; the policy's has the same hidden layers, without normalisation and dropout.
        critics: how many.
        subset: how many of them, drawn for each update, of which a target is the minimum.
        objective: whether the policy goes up the critics' `minimum` or their `mean`.
        discount: of a decision, gamma.
        averaging: share of the critics that goes into the target critics with each update.
        learning_rate: Adam's, of critics, policy and temperature.
        batch: transitions of an update.
        temperature: alpha at first.
        learned: whether alpha is learned.
        target_entropy: that it is learned for [nats], of actions between -1 and 1; by default minus their number, or
            0.3 times the entropy of choosing at random. It must be below what the most random policy has: the number of
            actions times log 2, or the logarithm of the number of choices.
        actor_every: updates of the critics for each of the policy.

    Raises:
        ValueError: a setting out of its range, named.
    """

    network: NetworkSettings = field(default_factory=NetworkSettings)
    critics: int = 2
    subset: int = 2
    objective: Objective = "minimum"
    discount: float = 0.99
    averaging: float = 0.005
    learning_rate: float = 1e-3
    batch: int = 256
    temperature: float = 0.1
    learned: bool = True
    target_entropy: float | None = None
    actor_every: int = 1

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise UnknownName("objective", self.objective, get_args(Objective))
        for name in ("critics", "subset", "batch", "actor_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.subset > self.critics:
            raise ValueError(f"subset is {self.subset}; it must be at most critics, {self.critics}")
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount is {self.discount}; it must be at least 0 and below 1")
        if not 0.0 < self.averaging <= 1.0:
            raise ValueError(f"averaging is {self.averaging}; it must be above 0 and at most 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be finite and above 0")
        if not 1e-8 <= self.temperature <= 1e8:
            raise ValueError(f"temperature is {self.temperature}; it must be from 1e-08 to 1e+08")
        if self.target_entropy is not None and not math.isfinite(self.target_entropy):
            raise ValueError(f"target_entropy is {self.target_entropy}; it must be finite")


@dataclass(frozen=True)
class Batches:
    """Transitions for K updates of B each, float32 tensors.

    Attributes:
        seen, seen_next: what policy and critics are told, before and after (K, B, no).
        action: between -1 and 1 (K, B, na), or the number of a choice (K, B, 1).
        reward: (K, B).
        discount: of what comes after (K, B); 0 where nothing does.
    """

    seen: Tensor
    action: Tensor
    reward: Tensor
    seen_next: Tensor
    discount: Tensor

    def __len__(self) -> int:
        return len(self.reward)


class SquashedGaussian:
    """Actions a = tanh(m + s e), e normal: what a network's outputs (m, raw log s) say, and the way back."""

    def __init__(self, outputs: Tensor, noise: Tensor) -> None:
        low, high = LOG_STD
        half = 0.5 * (high - low)
        self._native = outputs.device.type == "cpu" and outputs.dtype == torch.float32
        if self._native:
            self.action, self._moved, self._slope = (noise.new_empty(noise.shape) for _ in range(3))
            self.log_probability = noise.new_empty(len(noise))
            found = self.action, self._moved, self._slope, self.log_probability
            kernels.squash(
                outputs.contiguous().numpy(),
                noise.numpy().ravel(),
                low,
                half,
                *(part.numpy().ravel() for part in found),
            )
            return
        mean, raw = outputs.chunk(2, dim=-1)
        squashed = torch.tanh(raw)
        log_std, self._slope = squashed.mul(half).add_(low + half), squashed.square().mul_(-half).add_(half)
        self._moved = log_std.exp().mul_(noise)
        z = mean + self._moved
        self.action = torch.tanh(z)
        # log(1 - tanh(z)^2) = 2 (log 2 - |z| - log(1 + exp(-2 |z|))), without cancellation
        far = z.abs_()
        own = far.mul(-2.0).exp_().log1p_().add_(far).mul_(2.0).sub_(log_std).addcmul_(noise, noise, value=-0.5)
        self.log_probability = own.sum(-1).sub_(noise.shape[-1] * (2.0 * _LOG_2 + _HALF_LOG_2PI))

    def backward(self, by_action: Tensor, by_log_probability: float) -> Tensor:
        """The gradient by the network's outputs, of what has these by actions (n, na), and by each log-probability."""
        a, each = self.action, by_log_probability
        if self._native:
            found = a.new_empty(len(a), 2 * a.shape[1])
            kernels.squash_back(
                *(part.contiguous().numpy() for part in (by_action, a, self._moved, self._slope)), each, found.numpy()
            )
            return found
        by_z = torch.addcmul(by_action, by_action, a.square(), value=-1.0).add_(a, alpha=2.0 * each)
        by_log_std = (by_z * self._moved).sub_(each).mul_(self._slope)
        return torch.cat([by_z, by_log_std], dim=-1)


class SoftActorCritic:
    """Policy, critics and temperature, for actions between -1 and 1.

    Args:
        observations: numbers that policy and critics are told, no.
        actions: na.
        settings: of learning.
        rng: draws the weights.
        device: where the networks are.

    Raises:
        ValueError: a target entropy that no policy has.

    Attributes:
        actor: the policy's network; the logarithm of alpha is its `spare` number.
        critics, targets: the values' networks.
        updates: so far.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        settings: ActorCriticSettings,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.observations, self.actions, self.settings = observations, actions, settings
        self.device = torch.device(device)
        self.updates = 0
        if self.target_entropy >= self._most_entropy():
            raise ValueError(
                f"target_entropy is {self.target_entropy:g}; it must be below what the most random policy has, "
                f"{self._most_entropy():.4g}"
            )
        plain = NetworkSettings(hidden=settings.network.hidden)
        read, given, answers = self._widths()
        self.actor = Perceptrons(1, observations, given, plain, rng, device, spare=1)
        self.actor.spare.fill_(math.log(settings.temperature))
        self._actor_now = self.actor.beside()  # of what is seen before, `actor` of what is seen next
        self.critics = Perceptrons(settings.critics, read, answers, settings.network, rng, device)
        self._critics_now = self.critics.beside()  # of what the policy does now, `critics` of what was done
        self.targets = self.critics.like()
        self._adam, self._steps = {}, {}
        for name, network in (("actor", self.actor), ("critics", self.critics)):
            flat, grad = (every.view(network.members, -1) for every in (network.flat, network.grad))
            self._adam[name] = adam = Adam(flat, grad, settings.learning_rate)
            self._steps[name] = [adam.step_of(part.share) for part in network.parts]
        self.generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        self._graphs: dict[tuple[bool, int], Graph[Tensor]] = {}

    def _widths(self) -> tuple[int, int, int]:
        """Inputs of the critics, outputs of the policy and of the critics."""
        return self.observations + self.actions, 2 * self.actions, 1

    @property
    def target_entropy(self) -> float:
        """That alpha is learned for [nats]."""
        asked = self.settings.target_entropy
        return self._usual_entropy() if asked is None else asked

    def _usual_entropy(self) -> float:
        return -float(self.actions)

    def _most_entropy(self) -> float:
        return self.actions * _LOG_2

    @property
    def temperature(self) -> float:
        """What the policy's entropy counts for, alpha."""
        return float(self.actor.spare[0, 0].exp())

    @torch.no_grad()
    def update(self, batches: Batches) -> dict[str, float]:
        """One update for each of the K batches; what they came to, on average.

        Returns:
            `critic`, half the mean squared error of the critics; `value`, their mean; `entropy` of the policy, the mean
            of the updates of the policy [nats], NaN where there were none; `temperature`, alpha afterwards.
        """
        found = []
        for k in range(len(batches)):
            self.updates += 1
            moves = self.updates % self.settings.actor_every == 0
            parts = batches.seen[k], batches.action[k], batches.reward[k], batches.seen_next[k], batches.discount[k]
            found.append(self._recorded(moves, parts) if self.device.type == "cuda" else self._once(moves, *parts))
        if not found:
            return dict.fromkeys(("critic", "value", "entropy"), math.nan) | {"temperature": self.temperature}
        each = torch.stack(found)
        critic, value = each[:, :2].mean(dim=0).tolist()  # one that is not finite shows
        entropy = float(each[:, 2].nanmean())
        return {"critic": critic, "value": value, "entropy": entropy, "temperature": self.temperature}

    def _recorded(self, moves: bool, parts: Sequence[Tensor]) -> Tensor:
        """`_once`, as one launch."""
        key = moves, len(parts[0])
        if key not in self._graphs:
            # What is recorded is run beforehand, with what it then changes: that is taken back.
            before = {name: tensor.clone() for name, tensor in self._changing().items()}
            stream = self.generator.get_state()
            self._graphs[key] = Graph(lambda *given: self._once(moves, *given), parts, generator=self.generator)
            for name, tensor in self._changing().items():
                tensor.copy_(before[name])
            self.generator.set_state(stream)
        return self._graphs[key](*parts).clone()

    def _once(
        self, moves: bool, seen: Tensor, action: Tensor, reward: Tensor, seen_next: Tensor, discount: Tensor
    ) -> Tensor:
        """An update, of the policy too if that `moves`: error and value of the critics, entropy of the policy."""
        alpha, count = self.actor.spare[0].exp(), len(seen)
        # The policy is the same for both until its own step.
        told = [(self.actor, seen_next, self._drawing(count))]
        if moves:
            told.append((self._actor_now, seen, self._drawing(count)))
        worth = self.actor.worth_threads(count)
        after, *before = in_threads(lambda one: one[2](one[0].forward(one[1])[0]), told, worth)
        target = self._soft_value(seen_next, after, alpha).mul_(discount).add_(reward)
        if moves:
            values = self._critics_now.begin(self._told(seen, before[0]), self.generator)
        self._adam["critics"].begin()

        def improve(k: int) -> None:
            self._steps["critics"][k]()
            self.targets.parts[k].flat.lerp_(self.critics.parts[k].flat, self.settings.averaging)
            if moves:
                self._critics_now.parts[k].forward()

        x, chosen = self._done(seen, action)
        q = self.critics.fit(x, chosen, target, self.generator, improve)
        q = q.gather(-1, chosen[:, None].expand(*q.shape[:-1], 1))[..., 0]
        critic, value = 0.5 * (q - target).square_().mean(), q.mean()
        if not moves:
            return torch.stack([critic, value, torch.full_like(critic, math.nan)])
        g, entropy = self._climb(before[0], values, alpha)
        self._actor_now.backward(g[None])
        # Dual descent in the logarithm of alpha: a step's length does not depend on alpha.
        self.actor.by_spare[0] = entropy - self.target_entropy if self.settings.learned else 0.0
        self._adam["actor"].begin()
        self._steps["actor"][0]()
        self.actor.spare.clamp_(-_FARTHEST, _FARTHEST)
        return torch.stack([critic, value, entropy])

    def _drawing(self, rows: int) -> Callable[[Tensor], Any]:
        """From outputs of the policy's network to what it would do, with noise that is drawn now."""
        noise = torch.randn(rows, self.actions, generator=self.generator, device=self.device)
        return lambda outputs: SquashedGaussian(outputs, noise)

    def _done(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the critics, and the number of their output (n,), for what was done."""
        return torch.cat([seen, action], dim=-1), torch.zeros(len(seen), dtype=torch.long, device=seen.device)

    def _told(self, seen: Tensor, policy: Any) -> Tensor:
        """Inputs of the critics, where the policy is to be judged."""
        return torch.cat([seen, policy.action], dim=-1)

    def _soft_value(self, seen: Tensor, policy: Any, alpha: Tensor) -> Tensor:
        """V (n,) by the target critics."""
        values = self.targets.forward(self._told(seen, policy), self.generator)[:, :, 0]
        return self._least(values).addcmul_(alpha, policy.log_probability, value=-1.0)

    def _climb(self, policy: Any, values: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (n, 2 na) of alpha log pi - Q by the policy's outputs, with `values` of Q; its entropy [nats]."""
        count = values.shape[1]
        if self.settings.objective == "mean":
            slope = torch.full_like(values, -1.0 / (count * len(values)))
            by_action = self._critics_now.by_inputs(slope, self.observations).sum(dim=0)
        else:
            chosen, slope = values[:, :, 0].argmin(dim=0), torch.full_like(values[0], -1.0 / count)
            by_action = self._critics_now.by_inputs_of(chosen, slope, self.observations)
        # Everything by log pi is alpha / n; alpha stays on the device.
        by_action.div_(alpha)
        g = policy.backward(by_action, 1.0 / count).mul_(alpha)
        return g, policy.log_probability.mean().neg_()

    def _least(self, values: Tensor) -> Tensor:
        """The minimum (n, ...) over `subset` critics of their values (E, n, ...)."""
        s = self.settings
        if s.subset < s.critics:
            drawn = torch.rand(s.critics, generator=self.generator, device=self.device).argsort()[: s.subset]
            values = values.index_select(0, drawn)
        return values.amin(dim=0)

    @torch.no_grad()
    def value(self, seen: Tensor) -> Tensor:
        """V (n,) of the policy's mean actions, by the critics that it goes up, of what is seen (n, no)."""
        mean = self.actor.forward(seen)[0].chunk(2, dim=-1)[0]
        return self._objective(self.critics.forward(torch.cat([seen, torch.tanh(mean)], dim=-1)))[:, 0]

    def _objective(self, values: Tensor) -> Tensor:
        """What the policy goes up (n, ...), of the critics' values (E, n, ...)."""
        return values.mean(dim=0) if self.settings.objective == "mean" else values.amin(dim=0)

    def policy(self) -> "Policy":
        """What the policy's network is now, to be asked from NumPy."""
        return Policy(self.actor, discrete=False)

    def state_dict(self) -> dict[str, Any]:
        """All that the numbers to come depend on, as copies."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self._changing().items()}
        return {
            "layout": _LAYOUT,
            "device": self.device.type,
            "shape": [self.observations, self.actions],
            "updates": self.updates,
            "tensors": tensors,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; on a device of another kind other random numbers follow, always the same.

        Raises:
            ValueError: it is of another shape, or an earlier version's; nothing has changed then.
        """
        ours = self._changing()
        if "tensors" in state and state.get("layout") != _LAYOUT:
            raise ValueError("the networks saved are laid out as in an earlier version: train anew")
        try:
            theirs, shape = state["tensors"], state["shape"]
            fits = list(shape) == [self.observations, self.actions] and all(
                theirs[name].shape == tensor.shape for name, tensor in ours.items()
            )
            updates, generator, device = int(state["updates"]), state["generator"].cpu(), state["device"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the state saved is none of soft actor-critic: {error!r}") from error
        if not fits:
            raise ValueError("the networks saved have another shape than these")
        if device == self.device.type:
            self.generator.set_state(generator)
        else:
            digest = hashlib.sha256(generator.numpy().tobytes()).digest()
            self.generator.manual_seed(int.from_bytes(digest[:7], "little"))
        for name, tensor in ours.items():
            tensor.copy_(theirs[name])
        self.updates = updates

    def _changing(self) -> dict[str, Tensor]:
        """Tensors that updates change, by name."""
        found = {"actor": self.actor.flat, "critics": self.critics.flat, "targets": self.targets.flat}
        for name, adam in self._adam.items():
            found |= {f"{name}_exp_avg": adam.means.view(-1), f"{name}_exp_avg_sq": adam.squares.view(-1)}
            found[f"{name}_step"] = adam.count
        return found


class DiscreteSoftActorCritic(SoftActorCritic):
    """Policy, critics and temperature, for one of `actions` choices: expectations over actions are sums."""

    def _widths(self) -> tuple[int, int, int]:
        return self.observations, self.actions, self.actions

    def _usual_entropy(self) -> float:
        return 0.3 * math.log(self.actions)

    def _most_entropy(self) -> float:
        return math.log(self.actions)

    def _drawing(self, rows: int) -> Callable[[Tensor], Any]:
        return lambda outputs: outputs.log_softmax(dim=-1)

    def _done(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return seen, action[:, 0].long()

    def _told(self, seen: Tensor, policy: Any) -> Tensor:
        return seen

    def _soft_value(self, seen: Tensor, policy: Any, alpha: Tensor) -> Tensor:
        values = self._least(self.targets.forward(seen, self.generator))
        return (policy.exp() * (values - alpha * policy)).sum(dim=-1)

    def _climb(self, policy: Any, values: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        pi = policy.exp()
        lost = alpha * policy - self._objective(values)
        # log pi's own derivatives sum to zero.
        g = pi * (lost - (pi * lost).sum(dim=-1, keepdim=True)) / len(pi)
        return g, -(pi * policy).sum(dim=-1).mean()

    @torch.no_grad()
    def value(self, seen: Tensor) -> Tensor:
        """V (n,) of the policy, without its entropy there, by the critics that it goes up, of what is seen (n, no)."""
        pi = self.actor.forward(seen)[0].softmax(dim=-1)
        return (pi * self._objective(self.critics.forward(seen))).sum(dim=-1)

    def policy(self) -> "Policy":
        """What the policy's network is now, to be asked from NumPy."""
        return Policy(self.actor, discrete=True)


class Policy:
    """A copy of a policy's network, for asking it from NumPy: at these sizes an order cheaper than by torch.

    Args:
        actor: the network, on any device; later changes of it do not count.
        discrete: whether it chooses.
    """

    def __init__(self, actor: Perceptrons, *, discrete: bool) -> None:
        self._layers = [[part[0].cpu().numpy().copy() for part in layer] for layer in actor.layers()]
        self._discrete = discrete

    def __call__(
        self, seen: np.ndarray, rng: np.random.Generator | None = None, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Actions (n, na) between -1 and 1, or numbers of choices (n, 1).

        Args:
            seen: what the policy is told (n, no), float32.
            rng: draws actions; None gives the mean's, or the likeliest choice.
            noise: standard normal (n, na), instead of what `rng` would draw; choices do without.
        """
        h = seen
        for weight, bias in self._layers[:-1]:
            h = np.maximum(h @ weight + bias, 0.0)
        weight, bias = self._layers[-1]
        outputs = h @ weight + bias
        if self._discrete:
            if rng is not None:  # the greatest of logits and Gumbel noise is a draw of the softmax
                outputs = outputs + rng.gumbel(size=outputs.shape)
            return outputs.argmax(axis=-1)[:, None].astype(float)
        mean, raw = np.split(outputs, 2, axis=-1)
        if noise is None and rng is not None:
            noise = rng.standard_normal(mean.shape)
        if noise is not None:
            low, high = LOG_STD
            mean = mean + np.exp(low + 0.5 * (high - low) * (np.tanh(raw) + 1.0)) * noise
        return np.tanh(mean, dtype=float)
