import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from trimtab import robots, sim
from trimtab.sim.gymnasium_env import TaskEnv


@pytest.mark.filterwarnings("ignore::UserWarning")  # readings have no bounds
@pytest.mark.parametrize(
    ("task", "simulator"),
    [
        ("cartpole-swingup", "mujoco"),
        ("reacher-hard", "mujoco"),
        ("walker-walk", "dm_control"),
        ("dm_control:lqr-lqr_2_1", "dm_control"),
        ("gymnasium:Pendulum-v1", "gymnasium"),
    ],
)
def test_passes_gymnasiums_own_checker(task, simulator):
    env = TaskEnv(task, simulator)
    check_env(env, skip_render_check=True)
    env.close()


def test_every_task_is_registered():
    for name in robots.names():
        assert gymnasium.spec(f"trimtab/{name}-v0").kwargs == {"task": name}
    env = gymnasium.make("trimtab.sim.gymnasium_env:trimtab/cartpole-swingup-v0", simulator="dm_control")
    assert isinstance(env.unwrapped, TaskEnv)


def test_steps_are_the_plants():
    env = gymnasium.make("trimtab/cartpole-swingup-v0")
    task = robots.load("cartpole-swingup")
    plant = sim.make("mujoco", task)
    observation, info = env.reset(seed=3)
    state = plant.reset(int(np.random.default_rng(np.random.SeedSequence(3)).integers(2**31)))
    np.testing.assert_array_equal(observation, state.y)
    assert info == {"time": 0.0, "success": False}
    for u in np.random.default_rng(0).uniform(-1, 1, (20, 1)).astype(np.float32):
        observation, reward, terminated, truncated, info = env.step(u)
        state = plant.step(u)
        np.testing.assert_array_equal(observation, state.y)
        assert reward == task.reward(state.y, u.astype(float))
        assert (terminated, truncated, info["time"]) == (False, False, state.time)
    again, _ = env.reset()
    assert not np.array_equal(again, env.reset()[0])


def test_is_truncated_at_the_duration_exactly():
    env = TaskEnv("cartpole-balance")
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]


def test_terminates_where_the_task_does():
    env = TaskEnv("gymnasium:CartPole-v1", "gymnasium")
    env.reset(seed=0)
    ends = [env.step(np.ones(1))[2] for _ in range(30)]
    assert ends[0] is False
    assert ends[-1] is True


def test_divergence_truncates(monkeypatch):
    env = TaskEnv("cartpole-swingup")
    start, _ = env.reset(seed=0)

    def diverge(u):
        raise sim.SimulationError("the simulation diverged")

    monkeypatch.setattr(env.simulator, "step", diverge)
    observation, reward, terminated, truncated, info = env.step(np.zeros(1))
    np.testing.assert_array_equal(observation, start)
    assert (reward, terminated, truncated, info["fault"]) == (0.0, False, True, "the simulation diverged")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))


@pytest.mark.filterwarnings("ignore")  # GLFW's, where there is no display
def test_rendering_says_what_it_lacks():
    with pytest.raises(ValueError, match="rgb_array"):
        TaskEnv("cartpole-swingup", render_mode="human")
    env = TaskEnv("gymnasium:Pendulum-v1", "gymnasium", render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="nothing to draw"):
        env.render()
    env = TaskEnv("cartpole-swingup", render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    frame, lacking = None, ""
    try:
        frame = env.render()
    except RuntimeError as error:  # a machine without OpenGL
        lacking = str(error)
    if frame is None:
        assert "MUJOCO_GL" in lacking
    else:
        assert frame.shape == (48, 64, 3)
        assert frame.std() > 0
    env.close()


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_stable_baselines3_learns_on_it(algorithm):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    env = TaskEnv("cartpole-balance")
    settings = {"PPO": {"n_steps": 100, "batch_size": 50, "n_epochs": 2}, "SAC": {"learning_starts": 50}}[algorithm]
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, device="cpu", **settings)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn({"PPO": 200, "SAC": 120}[algorithm])
    assert any(not np.array_equal(a, b.detach()) for a, b in zip(before, model.policy.parameters(), strict=True))
    action, _ = model.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action)
