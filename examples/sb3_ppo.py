"""Train Stable-Baselines3's PPO on one of our tasks, then run what it learned on dm_control's own environment."""

import argparse

import gymnasium
import trimtab.sim.gymnasium_env  # noqa: F401 - registers the tasks
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    """Train, then run one episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="cartpole-balance")
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    name = f"trimtab/{arguments.task}-v0"

    model = PPO("MlpPolicy", make_vec_env(name, n_envs=4, seed=0), seed=0, device="cpu")
    model.learn(arguments.steps)

    env = gymnasium.make(name, simulator="dm_control")
    observation, _ = env.reset(seed=1)
    total, done = 0.0, False
    while not done:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(reward), terminated or truncated
    print(f"{arguments.task}: return {total:.0f} after {arguments.steps} steps of training")


if __name__ == "__main__":
    main()
