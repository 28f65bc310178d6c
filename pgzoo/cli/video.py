"""`pgzoo video RUN_ID|FOLDER`: record episodes with the policies of runs, or with the policy in a folder."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from pgzoo.cli.common import (
    command_line,
    deterministic_option,
    echo,
    json_option,
    open_catalog,
    plugin_options,
    print_json,
    progress_mode_option,
    stdout_to_stderr,
)
from pgzoo.cli.completion import complete_run_or_folder
from pgzoo.runs.waiting import ProgressMode, Waiting

__all__ = ["command"]


@click.command("video")
@click.argument("what", metavar="RUN_ID|FOLDER", shell_complete=complete_run_or_folder)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; with several runs, the setting and seed are appended.  [default: NAME.mp4]",
)
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Episodes to record, one after the other.",
)
@deterministic_option
@click.option("--env", metavar="ID", help="Play in this environment instead of the one of the training.")
@click.option("--tracking-uri", metavar="URI", help="MLflow store to ask if the run isn't known on this machine.")
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Stop an episode that has not ended after N steps.",
)
@progress_mode_option
@plugin_options
@json_option
def command(
    what: str,
    out: Path | None,
    episodes: int,
    deterministic: bool,
    env: str | None,
    tracking_uri: str | None,
    max_steps: int,
    progress: ProgressMode,
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Record episodes as MP4, played with the policy of a run or of a folder.

    A run is named by its MLflow run id, run key, group or name. With the environment backends sync and
    async, the episodes start like the first ones of an evaluation, and with --deterministic they are the same. Sampled
    actions are drawn from other random numbers, and so are the initial states with other backends.
    """
    with Waiting("Loading torch and gymnasium", progress):
        from pgzoo.errors import UsageError
        from pgzoo.play import video
        from pgzoo.play.evaluation import environment_for, find_policies
        from pgzoo.tracking import Home
        from pgzoo.tracking.missing_code import explain_missing_code
        from pgzoo.training.seeding import generator

    video.require_extra("pgzoo video")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}.")
    if out is not None and out.suffix.lower() != ".mp4":
        raise UsageError(f"--out {out}: give a name that ends in .mp4.")
    with stdout_to_stderr():
        catalog = open_catalog(blocked=blocked, imports=imports)
        found = find_policies(what, catalog, Home.find(), tracking_uri, command_line())
    written: list[dict[str, Any]] = []
    for one in found:
        path = out or Path(re.sub(r"[^\w.-]+", "-", one.name) + ".mp4")
        if out is not None and len(found) > 1:
            path = out.with_stem(f"{out.stem}-{one.file_name}")
        frames, runs = Frames(episodes), [one.run] if one.run and env is None else []
        with stdout_to_stderr(), Waiting(partial(_progress, path, frames), progress):
            with explain_missing_code(runs, catalog, command_line()):
                request = environment_for(one.policy, env)
            returns = video.record(
                one.policy,
                request,
                path,
                rng=generator(one.seed, "video"),
                episodes=episodes,
                deterministic=deterministic,
                max_steps=max_steps,
                report=frames.report,
            )
        written.append({"name": one.name, "seed": one.seed, "file": str(path), "returns": returns})
        if not as_json:
            echo(f"{path}  return {', '.join(f'{r:g}' for r in returns)}")
    if as_json:
        print_json(written)


class Frames:
    """How far a recording is."""

    def __init__(self, episodes: int) -> None:
        self.episodes, self.episode, self.frames = episodes, 1, 0

    def report(self, episode: int, frames: int) -> None:
        """Take note of the number of frames of an episode."""
        self.episode, self.frames = episode, frames


def _progress(path: Path, frames: Frames) -> str:
    return f"Recording {path}: episode {frames.episode:,} of {frames.episodes:,}, {frames.frames:,} frames"
