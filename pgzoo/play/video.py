"""Episodes as MP4."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.envs.single import allowed, make_single
from pgzoo.errors import EnvError, UsageError
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.extras import install_hint, present
from pgzoo.training.seeding import EVALUATION_ROOT, reset_seeds
from pgzoo.types import EnvRequest

__all__ = ["need_extra", "record"]


def need_extra(who: str) -> None:
    """Raise UsageError if videos can't be written here; `who` asks for one."""
    if not present("video"):
        raise UsageError(f"{who} needs the extra video. Install it: {install_hint('imageio')}")


def record(
    policy: LoadedPolicy,
    where: EnvRequest,
    path: Path,
    *,
    rng: np.random.Generator,
    episodes: int = 1,
    deterministic: bool = False,
) -> list[float]:
    """Play the first evaluation episodes, one after the other, write their frames to `path`, return their returns.

    Raises:
        EnvError: the environment draws no pictures.
    """
    import imageio.v2 as imageio

    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")  # frames are drawn in memory; without a display SDL complains
    env = make_single(where, flatten=False, render_mode="rgb_array")
    try:
        if "rgb_array" not in env.metadata.get("render_modes", []):
            raise EnvError(f"{where.id} draws no pictures: its render modes are {env.metadata.get('render_modes')}.")
        fps = env.metadata.get("render_fps", 30)
        writer: Any = imageio.get_writer(path, format="FFMPEG", fps=fps, codec="libx264", macro_block_size=2)
        with writer:
            seeds = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
            return [_play(env, policy, int(seed), rng, deterministic, writer.append_data) for seed in seeds]
    finally:
        env.close()


def _play(env: Any, policy: LoadedPolicy, seed: int, rng: np.random.Generator, deterministic: bool, show: Any) -> float:
    total, ended = 0.0, False
    policy.reset()
    obs, info = env.reset(seed=seed)
    while not ended:
        show(env.render())
        action = policy.act(obs, rng=rng, deterministic=deterministic, action_mask=allowed(env, info))
        obs, reward, terminated, truncated, info = env.step(action)
        total, ended = total + float(reward), terminated or truncated
    show(env.render())
    return total
