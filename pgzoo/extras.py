"""The optional extras of pgzoo: what each brings and how to install it. Nothing is imported to find out."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["EXTRAS", "install_hint", "present"]

EXTRAS = {
    "box2d": ("Box2D", "LunarLander, BipedalWalker, CarRacing"),
    "mujoco": ("mujoco", "HalfCheetah, Ant, Humanoid and the other robots"),
    "atari": ("ale_py", "Atari games"),
    "video": ("imageio", "videos of episodes"),
}
"""Extra -> the module by which to recognise it, and what it is for."""

_COMMANDS = {module.lower(): f'pip install "pgzoo[{extra}]"' for extra, (module, _) in EXTRAS.items()}
_COMMANDS |= {
    "jax": 'pip install "gymnasium[jax]"',
    "pygame": 'pip install "gymnasium[classic-control]"',
    "cv2": 'pip install "gymnasium[other]"',
    "imageio_ffmpeg": _COMMANDS["imageio"],
}


def install_hint(module: str) -> str:
    """Return the command that installs a module, or an empty string for one that pgzoo knows nothing of."""
    return _COMMANDS.get(module.partition(".")[0].lower(), "")


def present(extra: str) -> bool:
    """Whether an extra is installed."""
    return find_spec(EXTRAS[extra][0]) is not None
