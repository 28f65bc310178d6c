"""Record episodes as MP4."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.envs.checks import blame_environment, environment_id, read_reset, read_reward, read_step
from pgzoo.envs.single import action_mask, make_single
from pgzoo.errors import EnvError, UsageError
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.extras import install_hint, present
from pgzoo.training.seeding import EVALUATION_ROOT, reset_seeds
from pgzoo.types import EnvRequest

__all__ = ["record", "require_extra"]


def require_extra(feature: str) -> None:
    """Raise UsageError, naming the feature that needs it, if the extra "video" isn't installed."""
    if not present("video"):
        raise UsageError(f"{feature} needs the extra video. Install it: {install_hint('imageio')}")


def record(
    policy: LoadedPolicy,
    request: EnvRequest,
    path: Path,
    *,
    rng: np.random.Generator,
    episodes: int = 1,
    deterministic: bool = False,
) -> list[float]:
    """Play the first evaluation episodes one after the other, write their frames to `path`, and return their returns.

    `request` is the environment, `rng` draws the actions; `deterministic` takes the modes.

    Raises:
        EnvError: the environment can't render frames.
    """
    import imageio.v2 as imageio

    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")  # frames are drawn in memory; without a display SDL complains
    env = make_single(request, flatten=False, render_mode="rgb_array")
    try:
        if "rgb_array" not in env.metadata.get("render_modes", []):
            raise EnvError(
                f"{request.id} can't render frames: its render modes are {env.metadata.get('render_modes')}."
            )
        fps = env.metadata.get("render_fps", 30)
        writer: Any = imageio.get_writer(path, format="FFMPEG", fps=fps, codec="libx264", macro_block_size=2)
        with writer:
            seeds = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
            return [_play(env, policy, int(seed), rng, deterministic, writer.append_data) for seed in seeds]
    finally:
        env.close()


def _play(env: Any, policy: LoadedPolicy, seed: int, rng: np.random.Generator, deterministic: bool, show: Any) -> float:
    """Play one episode, pass every frame to `show`, and return the episode's return."""
    total, ended, env_id = 0.0, False, environment_id(env)
    policy.reset()
    with blame_environment(env_id, "reset"):
        obs, info = read_reset(env_id, env.reset(seed=seed))
    while not ended:
        with blame_environment(env_id, "render"):
            show(env.render())
        action = policy.act(obs, rng=rng, deterministic=deterministic, action_mask=action_mask(env, info))
        with blame_environment(env_id, "step"):
            obs, reward, terminated, truncated, info = read_step(env_id, env.step(action))
        total, ended = total + read_reward(env_id, reward), bool(terminated or truncated)
    with blame_environment(env_id, "render"):
        show(env.render())
    return total
