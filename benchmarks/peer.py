"""A peer in an environment of its own: set up by this script, and asked by the benchmarks.

python benchmarks/peer.py crocoddyl   # makes .venv-crocoddyl, and prints its Python
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

PACKAGES = {
    "judo": ("judo-rai==0.1.0", "mujoco==3.6.0"),
    "mctx": ("mctx==0.0.71",),
    "mbrl": ("torch==2.13.0", "gymnasium==0.26.3", "hydra-core==1.3.2", "numpy==2.4.6", "tqdm", "termcolor"),
    "sb3": ("stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium==1.4.0", "numpy==2.4.6"),
    "sbx": ("sbx-rl==0.28.0", "stable-baselines3==2.9.2", "torch==2.13.0", "gymnasium==1.4.0", "numpy==2.4.6"),
    "crocoddyl": ("crocoddyl==3.2.1", "pin==4.0.0", "example-robot-data==5.0.0"),
}
"""What each peer's environment holds; versions are those that were measured."""

BARE = {"mbrl": ("mbrl==0.2.0",)}
"""What is installed without what it asks for: mbrl-lib's hydra-core 1.0.3 does not load on Python 3.11."""


class Peer:
    """A script under `peers/` that answers requests, one JSON object a line.

    Args:
        python: of its environment.
        script: its file's name.
    """

    def __init__(self, python: str, script: str) -> None:
        path = Path(__file__).parent / "peers" / script
        self.process = subprocess.Popen(
            [python, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended (exit code {self.process.wait()}); run {self.process.args} to see why")
        return json.loads(line)


def main() -> None:
    """Sets up a peer's environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PACKAGES))
    name = parser.parse_args().peer
    folder = Path(__file__).parents[1] / f".venv-{name}"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *PACKAGES[name]], check=True)
    if name in BARE:
        subprocess.run([*install, "--no-deps", *BARE[name]], check=True)
    print(python)


if __name__ == "__main__":
    main()
