"""Measure from where an LQR balances the cart-pole, and draw it: python examples/region_of_attraction.py region.png."""

import sys

import numpy as np
from PIL import Image, ImageDraw
from trimtab import robots, sim
from trimtab.controllers import lqr
from trimtab.controllers.problem import Problem

WIDTH, HEIGHT, STEPS, TILT, RATE = 484, 364, 500, 1.2, 6.0  # pixels, control steps, +-[rad], +-[rad/s]
INSIDE, CAUGHT, LOST = (46, 125, 90), (160, 210, 180), (238, 238, 238)

task = robots.load("cartpole-balance")
model, state = sim.dynamics("casadi", task), sim.make("mujoco", task).reset(0)
problem = Problem(model, task, state, STEPS, np.random.default_rng(0))
at = lqr.equilibrium(problem, effort=0.01)
level = lqr.region_of_attraction(problem, at, np.random.default_rng(0), level=100.0, samples=20_000)

plan = np.tile(at.x, (STEPS + 1, 1)), np.tile(at.u, (STEPS, 1)), np.zeros((STEPS, 1)), np.tile(at.K, (STEPS, 1, 1))
picture = Image.new("RGB", (WIDTH + 60, HEIGHT + 50), "white")
caught = np.zeros((HEIGHT // 4, WIDTH // 4), bool)
for row, rate in enumerate(np.linspace(RATE, -RATE, HEIGHT // 4)):
    for column, tilt in enumerate(np.linspace(-TILT, TILT, WIDTH // 4)):
        dx = np.array([0.0, tilt, 0.0, rate])  # of cart [m], pole [rad], and their rates
        begin = model.place(state, model.displace(at.x, dx))
        end = model.policy_rollout(begin, *plan, np.zeros(1), problem.limits)
        caught[row, column] = end.valid[0] and np.abs(model.difference(end.x[0, -1], at.x)).max() < 0.05
        inside = 0.5 * dx @ at.P @ dx < level
        colour = INSIDE if inside else CAUGHT if caught[row, column] else LOST
        picture.paste(colour, (50 + 4 * column, 10 + 4 * row, 54 + 4 * column, 14 + 4 * row))

pen = ImageDraw.Draw(picture)
for tilt in (-1, -0.5, 0, 0.5, 1):
    pen.text((50 + WIDTH / 2 * (1 + tilt / TILT), HEIGHT + 14), f"{tilt:g}", "black", anchor="ma")
for rate in (-5, 0, 5):
    pen.text((44, 10 + HEIGHT / 2 * (1 - rate / RATE)), f"{rate:g}", "black", anchor="rm")
pen.text((50 + WIDTH / 2, HEIGHT + 32), "the pole's angle [rad], and upwards its rate [rad/s]", "black", anchor="ma")
picture.save(sys.argv[1])
lost = np.linspace(-TILT, TILT, WIDTH // 4)[~caught[HEIGHT // 8]]
print(f"V < {level:.2f} is attracted; from rest at the centre, the pole is caught up to {abs(lost).min():.2f} rad")
