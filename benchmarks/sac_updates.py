"""Updates a second of our soft actor-critic beside Stable-Baselines3 2.9, sbx 0.28, and the processor's own rate.

    python benchmarks/peer.py sb3
    python benchmarks/peer.py sbx
    python benchmarks/sac_updates.py --sb3 .venv-sb3/bin/python --sbx .venv-sbx/bin/python     # either may be left out

Networks of 2 x 256 rectified units, two critics, batches of 256, 17 observations, 6 actions, learned temperature. Each
library runs in an environment of its own, in a process that is kept and answers requests; all are measured in turn,
round by round, bound to as many cores, with as many threads.

What counts is what a training loop does: to draw batches from 20,000 rows stored, and to update (ours: to encode and
normalise readings too). That is done for one update a call, as a loop does that updates after each step, and for many.
Without that, "networks alone", are our update of batches that are there, and the same update as one would write it with
autograd. "Products alone" are the matrix products that an update can not do without, at the rate at which this
processor multiplies 256 x 256 matrices on as many threads: no update on these cores is faster.

Ratios are trimtab's rate over the row's, at the same number of updates a call: by the clock, and by the processor's
time, which other work on the machine disturbs less, and which on several cores counts each of them. With a GPU, the
last table is our update there, one launch for each, over the one by autograd.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy and SciPy load; our own threads divide the cores

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from peer import Peer
from rich.console import Console
from rich.table import Table
from torch import nn
from trimtab import robots
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.learners.actor_critic import LOG_STD, ActorCriticSettings, Batches, SoftActorCritic
from trimtab.learners.interface import Environment
from trimtab.learners.sac import SAC
from trimtab.learners.threads import in_threads

ROWS, OBSERVATIONS, ACTIONS, BATCH, HIDDEN = 20_000, 17, 6, 256, 256
SETTINGS = ActorCriticSettings(batch=BATCH)


@dataclass
class Side:
    """What is measured: its name, updates of a call, and a function from calls to seconds by clock and by processor."""

    name: str
    each: int
    measure: Callable[[int], tuple[float, float]]
    against: "Side | None" = None
    rates: list[tuple[float, float]] = field(default_factory=list)

    def run(self, updates: int) -> None:
        calls = max(1, updates // self.each)
        self.rates.append(tuple(calls * self.each / seconds for seconds in self.measure(calls)))


def timed(call: Callable[[], object]) -> Callable[[int], tuple[float, float]]:
    """Seconds of so many calls, by the clock and by the processor."""

    def measure(calls: int) -> tuple[float, float]:
        begun = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    return measure


def training():
    """Our learner on a cheetah, told 17 numbers, with random steps in its store."""
    task = robots.load("cheetah-run")
    settings = SAC(batch=BATCH, capacity=ROWS, untold=("root", "com_velocity"))
    found = settings.start(Environment(task, "mujoco", task.robot.dt, 10.0, RandomShooting()), 0)
    learned, rng = found.policy.learned, np.random.default_rng(0)
    assert (learned.observations, learned.actions) == (OBSERVATIONS, ACTIONS)
    y = rng.standard_normal((ROWS + 1, task.robot.layout.size))
    u, no = rng.uniform(-1.0, 1.0, (ROWS, ACTIONS)), np.zeros(ROWS, bool)
    found.policy.learn_statistics(y)
    found.replay.extend(y[:-1], u, y[1:], rng.standard_normal(ROWS), no, no)
    return found


def batches(count: int, device: str = "cpu") -> Batches:
    """Random transitions."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.as_tensor(rng.standard_normal((count, BATCH, *shape)), dtype=torch.float32, device=device)

    return Batches(
        normal(OBSERVATIONS), normal(ACTIONS).tanh(), normal(), normal(OBSERVATIONS), torch.full_like(normal(), 0.99)
    )


class ByAutograd:
    """The same update with torch's modules and autograd, one fused optimiser's step for each."""

    def __init__(self, device: str) -> None:
        def network(inputs: int, outputs: int) -> nn.Sequential:
            hidden = nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
            return nn.Sequential(*hidden, nn.Linear(HIDDEN, outputs)).to(device)

        self.actor = network(OBSERVATIONS, 2 * ACTIONS)
        self.critics, self.targets = (
            nn.ModuleList(network(OBSERVATIONS + ACTIONS, 1) for _ in range(2)) for _ in range(2)
        )
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.zeros((), device=device, requires_grad=True)
        self.optimizers = [
            torch.optim.Adam(parameters, lr=SETTINGS.learning_rate, fused=True)
            for parameters in (self.actor.parameters(), self.critics.parameters(), [self.log_alpha])
        ]

    def act(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, raw = self.actor(seen).chunk(2, dim=-1)
        low, high = LOG_STD
        normal = torch.distributions.Normal(mean, (low + 0.5 * (high - low) * (raw.tanh() + 1.0)).exp())
        z = normal.rsample()
        action = z.tanh()
        return action, (normal.log_prob(z) - (1.0 - action.square() + 1e-6).log()).sum(-1)

    def values(self, critics: nn.ModuleList, seen: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = torch.cat([seen, action], dim=-1)
        return torch.stack([critic(x)[:, 0] for critic in critics])

    def step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def update(self, data: Batches) -> None:
        for k in range(len(data)):
            alpha = self.log_alpha.detach().exp()
            with torch.no_grad():
                action, log_pi = self.act(data.seen_next[k])
                after = self.values(self.targets, data.seen_next[k], action).amin(0) - alpha * log_pi
                target = data.reward[k] + data.discount[k] * after
            q = self.values(self.critics, data.seen[k], data.action[k])
            self.step(self.optimizers[1], 0.5 * (q - target).square().mean(1).sum())
            self.critics.requires_grad_(False)
            action, log_pi = self.act(data.seen[k])
            q = self.values(self.critics, data.seen[k], action).amin(0)
            self.step(self.optimizers[0], (alpha * log_pi - q).mean())
            self.critics.requires_grad_(True)
            self.step(self.optimizers[2], -(self.log_alpha * (log_pi.detach().mean() - ACTIONS)))
            with torch.no_grad():
                torch._foreach_lerp_([*self.targets.parameters()], [*self.critics.parameters()], SETTINGS.averaging)


def needed() -> float:
    """Multiplications of an update's matrix products, in units of one of 256 x 256 matrices.

    Of a network with i inputs and o outputs: forward i + 256 + o; gradients by weights the same; back to the first
    layer 256 + o. The policy's gradient passes through one critic for each row, and on to the actions.
    """

    def forward(i: int, o: int) -> int:
        return i + HIDDEN + o

    i, o = OBSERVATIONS + ACTIONS, 2 * ACTIONS
    critics = 3 * 2 * forward(i, 1) + 2 * (forward(i, 1) + HIDDEN + 1) + (HIDDEN + 1 + ACTIONS)
    policy = 2 * forward(OBSERVATIONS, o) + forward(OBSERVATIONS, o) + HIDDEN + o
    return BATCH * HIDDEN * (critics + policy) / HIDDEN**3


def multiply(cores: int, updates: int) -> None:
    """As many products of 256 x 256 matrices as have the multiplications of so many updates."""
    a, b = torch.randn(2, cores, HIDDEN, HIDDEN)
    out = torch.empty(cores, HIDDEN, HIDDEN)

    def some(k: int) -> None:
        for _ in range(round(needed() * updates / cores)):
            torch.mm(a[k], b[k], out=out[k])

    in_threads(some, range(cores))


def sides(args: argparse.Namespace) -> tuple[list[Side], list[Peer]]:
    """All that is measured on a CPU, with the peers' processes."""
    cores, peers = len(os.sched_getaffinity(0)), []
    learner, data = training(), batches(args.many)
    ours = SoftActorCritic(OBSERVATIONS, ACTIONS, SETTINGS, np.random.default_rng(0))
    eager = ByAutograd("cpu")
    one = Side("trimtab", 1, timed(lambda: learner._update(1)))
    many = Side("trimtab", args.many, timed(lambda: learner._update(args.many)))
    found = [one, many]
    for library, title in (("sb3", "Stable-Baselines3"), ("sbx", "sbx")):
        if python := getattr(args, library):
            peer = Peer(python, "sac_peer.py")
            shape = {"observations": OBSERVATIONS, "actions": ACTIONS, "rows": ROWS}
            version = peer.ask(do="make", library=library, **shape)
            peers.append(peer)
            for side in (one, many):

                def measure(calls: int, peer: Peer = peer, each: int = side.each) -> tuple[float, float]:
                    return tuple(peer.ask(do="train", batch=BATCH, calls=calls, each=each))

                found.append(Side(f"{title} {version}", side.each, measure, side))
    alone = Side("trimtab, networks alone", args.many, timed(lambda: ours.update(data)))
    found += [alone, Side("the same by autograd", args.many, timed(lambda: eager.update(data)), alone)]
    found.append(Side("products alone", args.many, timed(lambda: multiply(cores, args.many)), alone))
    return found, peers


def measured(title: str, compared: list[Side], rounds: int, updates: int) -> Table:
    """A table of rates and ratios, in rounds in which each has its turn."""
    for side in compared:
        side.run(side.each)
        side.run(side.each)
        side.rates.clear()
    for _ in range(rounds):
        for side in compared:
            side.run(updates)
    table = Table(title=title)
    for heading in ("", "a call", "updates/s", "by processor", "ratio", "of rounds", "by processor", "of rounds"):
        table.add_column(heading, justify="right" if heading else "left")
    for side in compared:
        row = [side.name, str(side.each)]
        row += [f"{rate:.1f}" for rate in np.median(side.rates, axis=0)]
        if side.against:
            ratios = np.array(side.against.rates) / np.array(side.rates)
            for k in (0, 1):
                lowest, middle, highest = np.percentile(ratios[:, k], [0, 50, 100])
                row += [f"{middle:.2f}", f"{lowest:.2f} to {highest:.2f}"]
        table.add_row(*row)
    return table


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sb3", help="the Python of Stable-Baselines3's environment")
    parser.add_argument("--sbx", help="the Python of sbx's environment")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=64, help="of each in a round")
    parser.add_argument("--many", type=int, default=64, help="updates of a call, besides one")
    parser.add_argument("--cores", type=int, nargs="+", help="how many, in place of one, and of two")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console, available = Console(width=140), sorted(os.sched_getaffinity(0))
    for cores in args.cores or sorted({1, min(2, len(available))}):
        os.sched_setaffinity(0, available[-cores:])
        compared, peers = sides(args)
        console.print(measured(f"On {cores} core{'s' * (cores > 1)}", compared, args.rounds, args.updates))
        for peer in peers:
            peer.process.stdin.close()
            peer.process.wait()
    if torch.cuda.is_available():
        data, eager = batches(args.many, "cuda"), ByAutograd("cuda")
        ours = SoftActorCritic(OBSERVATIONS, ACTIONS, SETTINGS, np.random.default_rng(0), "cuda")

        def eagerly() -> None:
            eager.update(data)
            torch.cuda.synchronize()

        graph = Side("trimtab, networks alone", args.many, timed(lambda: ours.update(data)))
        loop = Side("the same by autograd", args.many, timed(eagerly), graph)
        updates = 10 * args.updates
        console.print(measured(torch.cuda.get_device_name(), [graph, loop], args.rounds, updates))


if __name__ == "__main__":
    main()
