"""The optional extras of pgzoo: what each brings and how to install it. Nothing is imported to find out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

__all__ = ["EXTRAS", "PLUGINS", "Extra", "install_hint", "present"]


class Extra(NamedTuple):
    """The modules by which an extra is recognized, and what it is for."""

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "box2d": Extra(("Box2D",), "LunarLander, BipedalWalker and CarRacing"),
    "mujoco": Extra(("mujoco",), "HalfCheetah, Ant, Humanoid and the other robots"),
    "atari": Extra(("ale_py",), "Atari games"),
    "compiled": Extra(("numba",), "the environment backend `compiled`"),
    "jax": Extra(("jax",), "the phys2d and tabular environments"),
    "video": Extra(("imageio", "imageio_ffmpeg"), "videos of episodes"),
    "onnx": Extra(("onnx", "onnxscript", "onnxruntime"), "policies as ONNX graphs"),
    "sweep": Extra(("optuna", "cmaes"), "hyperparameter search"),
}
_COMMANDS = {
    **{m.lower(): f'pip install "pgzoo[{name}]"' for name, extra in EXTRAS.items() for m in extra.modules},
    "pygame": 'pip install "gymnasium[classic-control]"',
    "cv2": "pip install opencv-python-headless",
}


PLUGINS = {
    ("env_backend", "envpool"): "pgzoo-envpool",
    ("algorithm", "ddpg"): "pgzoo-offpolicy",
    ("algorithm", "td3"): "pgzoo-offpolicy",
    ("algorithm", "sac"): "pgzoo-offpolicy",
    ("algorithm", "sac-discrete"): "pgzoo-offpolicy",
    ("policy", "deterministic"): "pgzoo-offpolicy",
    ("listener", "tensorboard"): "pgzoo-tensorboard",
}
"""Components, by kind and name, of plugins that are developed with pgzoo and installed separately."""


def install_hint(module: str) -> str:
    """Return the command that installs a module, or an empty string for one that pgzoo knows nothing of."""
    return _COMMANDS.get(module.partition(".")[0].lower(), "")


def present(extra: str) -> bool:
    """Whether an extra is installed."""
    return all(find_spec(module) is not None for module in EXTRAS[extra].modules)
