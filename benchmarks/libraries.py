"""The libraries that pgzoo is compared with, each from PyPI in a separate environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from page import ROOT

PEERS = ROOT / "build" / "peers"
TORCH = "torch==2.13.0"
"""The version for all of them, as in constraints.txt, so that it doesn't influence the comparison."""


@dataclass(frozen=True)
class Peer:
    """A library: its title, and the packages to install."""

    title: str
    packages: tuple[str, ...]


LIBRARIES = {
    "sb3": Peer("Stable-Baselines3", ("stable-baselines3",)),
    "cleanrl": Peer("CleanRL-style file", ("torch", "gymnasium")),
    "sbx": Peer("SBX (JAX)", ("sbx-rl",)),
    "skrl": Peer("skrl", ("skrl", "torch")),
    "tianshou": Peer("Tianshou", ("tianshou",)),
    "torchrl": Peer("TorchRL", ("torchrl", "gymnasium")),
    "pufferlib": Peer("PufferLib", ("pufferlib",)),
    "purejax": Peer("PureJaxRL-style program", ("jax", "optax")),
}


def install(name: str) -> str:
    """Create a library's environment if necessary; return the reason if that fails, else an empty string."""
    folder, wanted = PEERS / name, " ".join((*LIBRARIES[name].packages, TORCH))
    ready = folder / ".ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return ""
    print(f"installing {wanted} into {folder}", file=sys.stderr, flush=True)
    PEERS.mkdir(parents=True, exist_ok=True)
    pins = PEERS / "constraints.txt"
    pins.write_text(f"{TORCH}\n", encoding="utf-8")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(pins)]
    done = subprocess.run([*pip, *LIBRARIES[name].packages], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip(" │╰─>×") for line in done.stderr.splitlines()]
        told = [line for line in lines if "Error" in line] or [line for line in lines if line] or ["pip failed"]
        return str(told[-1])
    ready.write_text(wanted, encoding="utf-8")
    return ""


def script(name: str, rest: str) -> str:
    return f"build/peers/{name}/bin/python benchmarks/peers/{name}.py {rest}"
