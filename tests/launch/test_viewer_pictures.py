"""The viewers' own pictures of a run: rerun's window under Xvfb, and its page in a headless Chromium."""

import contextlib
import dataclasses
import glob
import importlib.util
import io
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest
from PIL import Image
from rerun.experimental import ViewerClient
from trimtab import robots, sim
from trimtab.controllers import MPC, loop
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.launch.cli import main
from trimtab.launch.viewer import windows
from trimtab.launch.viewer.observer import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = 240.0  # drawn by the processor, a frame takes seconds
QUICK = ["--planner.samples", "8", "--planner.iterations", "1", "--duration", "0.5"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def of_the_cheetah(pixels):
    """Which pixels have the cheetah's brown, rgba 0.7 0.5 0.3, in whatever light."""
    red, green, blue = (pixels[..., k].astype(float) for k in range(3))
    return (red > 70) & (abs(green / red.clip(1) - 0.69) < 0.1) & (abs(blue / red.clip(1) - 0.38) < 0.12)


def of_a_curve(pixels):
    """Which pixels have the colour of a plot's first line."""
    return (abs(pixels.astype(int) - [97, 168, 242]) < 30).all(-1)


def drawn(png):
    """What is not yet in the picture, by name; the scene fills its left two thirds, the plots the rest."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    height, width = pixels.shape[:2]
    scene, side = pixels[: int(0.9 * height), : int(0.6 * width)], pixels[:, int(0.7 * width) :]
    checks = {
        "a picture": len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200,
        "the robot": of_the_cheetah(scene).sum() > 0.002 * scene.shape[0] * scene.shape[1],
        "the reward's curve": of_a_curve(side[: height // 4]).sum() > 50,
        "a curve below": of_a_curve(side[height // 4 :]).sum() > 50,
        "only scene in the scene": of_a_curve(scene).sum() < 50,
    }
    return [what for what, holds in checks.items() if not holds]


def await_picture(take):
    """Takes pictures until all is drawn."""
    missing, deadline = ["any answer"], time.monotonic() + PATIENCE
    while missing:
        assert time.monotonic() < deadline, f"missing from the picture: {missing}"
        time.sleep(2.0)
        # A viewer that is still busy with its first frames answers later.
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):
            missing = drawn(take())


def near(pixels, colour):
    """How many pixels have `colour`, but for what smoothing lines makes of it."""
    return int((abs(pixels.astype(int) - colour) < 12).all(-1).sum())


@pytest.fixture
def display(monkeypatch):
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb (Debian: xvfb)")
    if not glob.glob("/usr/share/vulkan/icd.d/*.json") and not glob.glob("/etc/vulkan/icd.d/*.json"):
        pytest.skip("needs a Vulkan driver (Debian: mesa-vulkan-drivers)")
    # The pointer starts in the middle of the screen: the window lies in a corner, and no hint opens beneath it.
    screen = ["-screen", "0", "4000x3000x24"]
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", *screen, "-nolisten", "tcp"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    number = server.stdout.readline().decode().strip()
    monkeypatch.setenv("DISPLAY", f":{number}")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("WGPU_BACKEND", "vulkan")
    yield
    server.kill()
    server.wait()
    server.stdout.close()


def test_a_window_draws_the_run(display, monkeypatch, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(windows, "PORT", probe.getsockname()[1])  # not a viewer that is open already
    opened, native = [], windows.native
    monkeypatch.setattr(windows, "native", lambda *files: opened.append(native(*files)) or opened[-1])
    try:
        assert main(["run", "cheetah-run", "--view", "native", "--record", str(tmp_path / "r.rrd"), *QUICK]) == 0
        (window,) = opened
        client = ViewerClient.connect(window.url)
        await_picture(client.take_screenshot)
    finally:
        for window in opened:
            window.close()


def test_a_browser_draws_a_recording(tmp_path):
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "r.rrd"
    assert main(["run", "cheetah-run", "--record", str(path), *QUICK]) == 0
    window = windows.web(path)
    flags = [
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
    ]
    flags += ["--disable-component-update", "--disable-sync", "--no-first-run"]
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=1e3 * PATIENCE)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.goto(f"{window.address}&renderer=webgl", timeout=1e3 * PATIENCE)

            def picture():
                with contextlib.suppress(playwright.TimeoutError):
                    return page.screenshot(timeout=60e3)
                raise TimeoutError

            await_picture(picture)
            browser.close()
    finally:
        window.close()


class Doubtful(MPC):
    """Its plans' predictions fan out, as those of an ensemble."""

    def plan(self, state):
        plan = super().plan(state)
        apart = np.linspace(-1.0, 1.0, 5)[:, None, None] * np.linspace(0.0, 0.3, plan.prediction.shape[1])[:, None]
        self.latest = plan = dataclasses.replace(
            plan, prediction=plan.prediction + apart, candidates=None, candidate_costs=None
        )
        return plan


def test_a_fan_its_spread_and_what_was_executed_are_seen(tmp_path, monkeypatch):
    if not glob.glob("/usr/share/vulkan/icd.d/*.json") and not glob.glob("/etc/vulkan/icd.d/*.json"):
        pytest.skip("needs a Vulkan driver (Debian: mesa-vulkan-drivers)")
    monkeypatch.setenv("WGPU_BACKEND", "vulkan")
    task, path = robots.load("cartpole-swingup"), tmp_path / "r.rrd"
    controller = Doubtful(PredictiveSampling(horizon=60, samples=16), sim.dynamics("casadi", task), task)
    recorder = Recorder(path, "doubtful")
    loop.run(sim.make("mujoco", task), controller, task=task, duration=1.2, seed=0, observers=[recorder])
    recorder.check()
    recorder.close()
    program = importlib.util.find_spec("rerun_cli").origin.replace("__init__.py", "rerun")
    options = {"port": windows._free(), "hide_welcome_screen": True, "executable_path": program}
    with ViewerClient.spawn(headless=True, **options) as client:
        client.open(str(path))
        colours = {
            "prediction": (255, 70, 70),
            "spread": (255, 170, 60),
            "past": (190, 90, 130),
            "path": (90, 220, 160),
        }
        missing, deadline = set(colours), time.monotonic() + PATIENCE
        while missing:
            assert time.monotonic() < deadline, f"missing from the picture: {missing}"
            time.sleep(2.0)
            with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):
                pixels = np.asarray(Image.open(io.BytesIO(client.take_screenshot())).convert("RGB"))
                scene = pixels[:, : int(0.6 * pixels.shape[1])]
                missing = {name for name, colour in colours.items() if near(scene, colour) < 30}
