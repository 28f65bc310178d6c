"""Records an evaluation episode as MP4."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.bundle import LoadedPolicy
from pgzoo.envs.single import allowed, make_single
from pgzoo.events import RunEnded
from pgzoo.ops.members import select
from pgzoo.protocols import RunContext
from pgzoo.registry import hookimpl
from pgzoo.seeding import EVALUATION_ROOT, generator, reset_seeds

__all__ = ["create", "record"]


def create(context: RunContext) -> Video | None:
    """Make the listener of one run, if it was asked for a video."""
    return Video(context) if context.plan.config.video else None


class Video:
    """Plays one more episode for each seed, with sampled actions, on gymnasium's own environment."""

    def __init__(self, context: RunContext) -> None:
        self.context = context

    @hookimpl
    def pgzoo_run_ended(self, event: RunEnded) -> None:
        """Record every member that did not fail."""
        plan = self.context.plan
        for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
            os.environ.setdefault(driver, "dummy")  # frames are drawn in memory; without a display SDL complains
        for member, status in enumerate(event.statuses):
            if status == "failed":
                continue
            params = select(plan.policy_params(event.state), [member])
            policy = LoadedPolicy(plan.config.policy, plan.spec, plan.policy, params)
            env = make_single(plan.request(1), flatten=False, render_mode="rgb_array")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "evaluation.mp4"
                record(env, policy, generator(plan.config.seeds[member], "video"), path)
                self.context.artifact(member, "videos/evaluation.mp4", path.read_bytes())


def record(env: Any, policy: LoadedPolicy, rng: np.random.Generator, path: Path) -> float:
    """Play one episode from the first evaluation start, write its frames to `path`, return its return."""
    import imageio.v2 as imageio

    total, ended = 0.0, False
    fps = env.metadata.get("render_fps", 30)
    writer: Any = imageio.get_writer(path, format="FFMPEG", fps=fps, codec="libx264", macro_block_size=2)
    with writer:
        policy.reset()
        obs, info = env.reset(seed=int(reset_seeds(EVALUATION_ROOT, "evaluate", 1)[0]))
        while not ended:
            writer.append_data(env.render())
            action = policy.act(obs, rng=rng, action_mask=allowed(env, info))
            obs, reward, terminated, truncated, info = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        writer.append_data(env.render())
    env.close()
    return total
