"""Videos of runs."""

import imageio_ffmpeg
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers import loop
from trimtab.launch import scenario, video
from trimtab.launch.cli import main


class Swing:
    """A controller that moves every joint a little."""

    def reset(self, seed):
        pass

    def __init__(self, nu):
        self.nu = nu

    def control(self, state):
        return 0.5 * np.sin(8.0 * state.time + np.arange(self.nu))


def run(name, steps):
    task = robots.load(name)
    plant = sim.make("mujoco", task)
    return loop.run(plant, Swing(task.robot.nu), task=task, duration=steps * task.robot.dt, seed=1)


def test_no_way_to_render_is_found_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, "_TRY", "raise SystemExit(1)")
    assert main(["run", "pendulum-swingup", "--video", "p.mp4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "libegl1" in err
    assert "libosmesa6" in err
    assert list(tmp_path.iterdir()) == []


def test_video_shows_the_run(tmp_path):
    try:
        backend = video.backend()
    except scenario.ScenarioError:
        pytest.skip("MuJoCo can not render on this machine")
    setup = scenario.resolve(scenario.find("cartpole-swingup"), duration=0.2)
    episode = run("cartpole-swingup", 20)
    path = tmp_path / "c.mp4"
    video.write(path, episode, setup, backend)
    frames = imageio_ffmpeg.read_frames(str(path))
    told = next(frames)
    assert told["size"] == (video.WIDTH, video.HEIGHT)
    pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
    assert len(pictures) == 7  # 0.2 s at 30 frames per second, both ends
    assert np.abs(pictures[0].astype(int) - pictures[-1]).max() > 50
