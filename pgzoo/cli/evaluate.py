"""`pgzoo evaluate RUN_ID|FOLDER`: play episodes with the policies of runs, or with the policy in a folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

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
from pgzoo.cli.tables import print_table
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.training.activity import Monitor
    from pgzoo.training.events import EvaluationMode

__all__ = ["command"]


@click.command("evaluate")
@click.argument("what", metavar="RUN_ID|FOLDER", shell_complete=complete_run_or_folder)
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="Episodes per run.")
@deterministic_option
@click.option("--per-episode", is_flag=True, help="Show the return and length of every episode.")
@click.option("--env", metavar="ID", help="Use this environment instead of the training environment.")
@click.option("--backend", metavar="NAME", help="Environment backend.  [default: the run's, else auto]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed for sampling actions.  [default: the run's, else 0]")
@click.option("--tracking-uri", metavar="URI", help="MLflow store to ask if the run isn't known on this machine.")
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cut an episode that has not ended after N steps.  [default: the run's eval_max_steps, else 100,000]",
)
@progress_mode_option
@plugin_options
@json_option
def command(
    what: str,
    episodes: int,
    deterministic: bool,
    per_episode: bool,
    env: str | None,
    backend: str | None,
    seed: int | None,
    tracking_uri: str | None,
    max_steps: int | None,
    progress: ProgressMode,
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Play episodes with the policy of a run or of a folder.

    A run is named by its MLflow run id, run key, group or name. Episodes start in the same states as in the run's own
    evaluations, so that results are comparable. Every parallel environment plays the same number of episodes, so that
    short ones aren't favored.
    """
    with stdout_to_stderr():
        with Waiting("Loading torch and gymnasium", progress):
            from pgzoo.play.evaluation import evaluate_policy, find_policies
            from pgzoo.tracking import Home
            from pgzoo.training.activity import Monitor

        catalog = open_catalog(blocked=blocked, imports=imports)
        mode: EvaluationMode = "greedy" if deterministic else "sampled"
        rows: list[dict[str, Any]] = []
        for playable in find_policies(what, catalog, Home.find(), tracking_uri, command_line()):
            monitor = Monitor()
            with Waiting(partial(_progress, playable.name, monitor, episodes), progress):
                played = evaluate_policy(
                    playable,
                    catalog,
                    episodes=episodes,
                    mode=mode,
                    env=env,
                    backend=backend,
                    seed=seed,
                    max_steps=max_steps,
                    monitor=monitor,
                    command=command_line(),
                )
            if played.warning:
                echo(f"Warning: {played.warning} (--max-steps). Their returns count up to there.", err=True)
            rows.append(played.row())
            if per_episode:
                rows[-1] |= {"returns": played.returns.tolist(), "lengths": played.lengths.tolist()}
    if as_json:
        print_json(rows)
        return
    numbers = ("return_mean", "return_std", "return_min", "return_max", "length_mean")
    print_table(
        ("run", "env", "mode", "episodes", "return", "std", "min", "max", "length"),
        [
            (r["name"], r["env"], r["mode"], str(r["episodes"]), *(f"{r[number]:.1f}" for number in numbers))
            for r in rows
        ],
    )
    if per_episode:
        echo()
        print_table(
            ("run", "episode", "return", "length"),
            [
                (r["name"], str(k + 1), f"{episode:g}", str(length))
                for r in rows
                for k, (episode, length) in enumerate(zip(r["returns"], r["lengths"], strict=True))
            ],
        )


def _progress(name: str, monitor: Monitor, episodes: int) -> str:
    return f"Playing {name}: {monitor.episodes:,} of {episodes:,} episodes, {monitor.steps:,} steps"
