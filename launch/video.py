"""A run as a video: the recorded states, rendered by MuJoCo in a process of its own.

MuJoCo takes its way of rendering from the environment, once, when it loads: hence the process, which also leaves this
one free of graphics libraries.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from .. import robots, sim
from ..controllers.episode import Episode
from ..controllers.files import replacing
from .outputs import OutputError
from .scenario import Setup
from .settings import ScenarioError

BACKENDS = ("egl", "osmesa")
FPS = 30
WIDTH, HEIGHT = 640, 480

_TRY = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current(); context.free()"


def backend() -> str:
    """The first of `BACKENDS` by which MuJoCo renders here; `MUJOCO_GL`, where it is set to one of them, goes first.

    Raises:
        ScenarioError: none does; the message names the packages that bring them.
    """
    wished = os.environ.get("MUJOCO_GL", "").lower()
    for name in sorted(BACKENDS, key=lambda b: b != wished):
        if subprocess.run([sys.executable, "-c", _TRY], env=_environment(name), capture_output=True).returncode == 0:
            return name
    raise ScenarioError(
        "--video needs a way to render without a display: install the Debian packages libegl1 and libgl1-mesa-dri, "
        "or libosmesa6"
    )


def write(path: Path, episode: Episode, setup: Setup, backend: str) -> None:
    """Renders `episode` of `setup` by `backend` to the .mp4 file `path`, whole or not at all.

    Raises:
        OutputError: it could not be rendered or written.
    """
    if episode.x is None:
        raise OutputError(f"can not render {str(path)!r}: simulator {setup.simulator!r} has no full states to draw")
    times = np.arange(0.0, episode.time[-1] - episode.time[0] + 1e-9, 1.0 / FPS) + episode.time[0]
    frames = np.minimum(np.searchsorted(episode.time, times - 1e-9), len(episode.time) - 1)
    with tempfile.TemporaryDirectory() as folder:
        states = Path(folder) / "states.npy"
        try:
            np.save(states, episode.x[frames])
            with replacing(path) as temporary:
                command = [
                    sys.executable,
                    "-m",
                    __name__,
                    setup.task.name,
                    setup.simulator,
                    str(states),
                    str(temporary),
                ]
                done = subprocess.run(command, env=_environment(backend), capture_output=True, text=True)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["the renderer died"])[-1]
                    raise OutputError(f"can not render {str(path)!r}: {last}")
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"can not write {str(path)!r}: {error.strerror or error}") from error


def _environment(backend: str) -> dict[str, str]:
    return {**os.environ, "MUJOCO_GL": backend}


def _render(task: str, simulator: str, states: str, path: str) -> None:
    import imageio_ffmpeg

    plant = sim.make(simulator, robots.load(task))
    scene = plant.scene()
    if scene is None:
        raise SystemExit(f"simulator {simulator!r} has nothing to draw")
    model, data = scene.model, scene.data
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, WIDTH)
    model.vis.global_.offheight = max(model.vis.global_.offheight, HEIGHT)
    camera: Any = 0
    if not model.ncam:
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
    writer = imageio_ffmpeg.write_frames(path, (WIDTH, HEIGHT), fps=FPS, ffmpeg_log_level="error")
    writer.send(None)
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for x in np.load(states):
            scene.restore(x)
            # `restore` stops before what only drawing needs.
            mujoco.mj_camlight(model, data)
            renderer.update_scene(data, camera)
            writer.send(np.ascontiguousarray(renderer.render()))
    writer.close()
    plant.close()


if __name__ == "__main__":
    _render(*sys.argv[1:])
