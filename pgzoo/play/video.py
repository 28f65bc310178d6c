"""Record episodes as MP4."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo.envs.checks import blame_environment, environment_id, read_reset, read_reward, read_step
from pgzoo.envs.single import action_mask, make_single
from pgzoo.errors import EnvError, StoreError, UsageError
from pgzoo.export.bundle import LoadedPolicy
from pgzoo.extras import install_hint, present
from pgzoo.quiet import shared
from pgzoo.training.seeding import EVALUATION_ROOT, reset_seeds
from pgzoo.types import EnvRequest

__all__ = ["MAX_STEPS", "record", "require_extra"]

_log = logging.getLogger("pgzoo")

MAX_STEPS = 10_000
"""Steps after which the recording of an episode stops: five minutes and a half at 30 frames per second."""

SMALLEST = 300
"""Pixels of the longer side below which frames are enlarged: players show a video of 160 x 210 pixels very small."""


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
    max_steps: int = MAX_STEPS,
    report: Callable[[int, int], None] = lambda episode, frames: None,
) -> list[float]:
    """Play episodes one after the other, write their frames to `path`, and return their returns.

    They are reset with the seeds of the first evaluation episodes, and start like these if the evaluation's backend
    uses the random numbers of gymnasium (sync, async).

    `request` is the environment, `rng` draws the actions; `deterministic` takes the modes. An episode that has not
    ended after `max_steps` steps is stopped there, with a warning. `report(episode, frames)` is called after every
    frame; episodes count from 1.

    Raises:
        EnvError: the environment can't render frames. A file at `path` stays as it was.
        StoreError: the folder of `path` can't be written.
    """
    import imageio.v2 as imageio

    part = path.with_name(f".{path.stem}.part.mp4")
    with _without_display(), closing(_make(request)) as env:
        if "rgb_array" not in env.metadata.get("render_modes", []):
            raise EnvError(
                f"{request.id} can't render frames: its render modes are {env.metadata.get('render_modes')}."
            )
        fps = env.metadata.get("render_fps", 30)
        try:
            part.touch()  # ffmpeg's own error would not say why the file can't be written
        except OSError as error:
            raise StoreError(f"Can't write {path}: {error.strerror}.") from error
        writer: Any = imageio.get_writer(part, format="FFMPEG", fps=fps, codec="libx264", macro_block_size=2)
        try:
            with closing(writer):  # imageio leaves it open if an exception is raised

                def show(frame: object) -> None:
                    writer.append_data(enlarge(_read_frame(environment_id(env), frame)))

                seeds = reset_seeds(EVALUATION_ROOT, "evaluate", episodes)
                returns = []
                for number, seed in enumerate(seeds, 1):
                    total, over = _play(
                        env, policy, int(seed), rng, deterministic, show, max_steps, partial(report, number)
                    )
                    if not over:
                        _log.warning(
                            "%s: episode %d had not ended after %s steps; the video stops there",
                            *(request.id, number, f"{max_steps:,}"),
                        )
                    returns.append(total)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return returns


def _make(request: EnvRequest) -> Any:
    """Make the environment for frames. Raises EnvError if it takes no `render_mode`."""
    try:
        return make_single(request, flatten=False, render_mode="rgb_array")
    except EnvError as error:
        if "unexpected keyword argument 'render_mode'" not in str(error):
            raise
        advice = ""
        if request.make is not None:
            advice = " Give one that passes it on, such as lambda **kwargs: MyEnv(**kwargs)."
        raise EnvError(f"{request.id} can't render frames: it takes no argument render_mode.{advice}") from error


def _read_frame(env_id: str, frame: Any) -> NDArray[np.uint8]:
    """Return what `render` returned as an array. Raises EnvError if it is no image."""
    image = np.asarray(frame)
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "uif":
        got = f"an array of shape {image.shape}" if image.ndim else type(frame).__name__
        raise EnvError(f'environment "{env_id}" returned {got} from render; expected an image (height, width, 3).')
    return image


def enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frame (height, width, 3), its pixels repeated until the longer side has `SMALLEST` pixels or more."""
    times = -(-SMALLEST // max(frame.shape[:2]))
    return frame if times == 1 else frame.repeat(times, axis=0).repeat(times, axis=1)


@shared
@contextmanager
def _without_display() -> Iterator[None]:
    """Let SDL (pygame) work without a display or a sound card, as frames are drawn in memory."""
    added = [name for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER") if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "dummy"))
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _play(
    env: Any,
    policy: LoadedPolicy,
    seed: int,
    rng: np.random.Generator,
    deterministic: bool,
    show: Callable[[Any], None],
    max_steps: int,
    report: Callable[[int], None],
) -> tuple[float, bool]:
    """Play one episode and pass every frame to `show`. Return its return, and whether it ended within `max_steps`.

    `report` is called with the number of frames so far.
    """
    total, ended, steps, env_id = 0.0, False, 0, environment_id(env)
    policy.reset()
    with blame_environment(env_id, "reset"):
        obs, info = read_reset(env_id, env.reset(seed=seed))
    while not ended and steps < max_steps:
        with blame_environment(env_id, "render"):
            show(env.render())
        action = policy.act(obs, rng=rng, deterministic=deterministic, action_mask=action_mask(env, info))
        with blame_environment(env_id, "step"):
            obs, reward, terminated, truncated, info = read_step(env_id, env.step(action))
        total, ended = total + read_reward(env_id, reward), bool(terminated or truncated)
        steps += 1
        report(steps)
    with blame_environment(env_id, "render"):
        show(env.render())
    return total, ended
