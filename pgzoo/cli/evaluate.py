"""`pgzoo evaluate RUN_ID|FOLDER`: play episodes with the policies of runs, or with the policy in a folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.common import (
    echo,
    json_option,
    open_catalog,
    plugin_options,
    print_json,
    print_table,
    progress_mode_option,
    stdout_to_stderr,
)
from pgzoo.cli.completion import complete_run_or_folder
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.training.events import EvaluationMode
    from pgzoo.training.rollout import Monitor

__all__ = ["command"]


@click.command("evaluate")
@click.argument("what", metavar="RUN_ID|FOLDER", shell_complete=complete_run_or_folder)
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="Episodes per run.")
@click.option(
    "--deterministic/--stochastic",
    default=False,
    help="Take greedy (most likely) actions, or sample.  [default: stochastic]",
)
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
            from pgzoo.play.evaluation import cut_episodes, environment_for, evaluate_policy, find_policies
            from pgzoo.tracking import Home
            from pgzoo.training import rollout

        catalog = open_catalog(blocked=blocked, imports=imports)
        mode: EvaluationMode = "greedy" if deterministic else "sampled"
        rows: list[dict[str, Any]] = []
        for found in find_policies(what, catalog, Home.find(), tracking_uri):
            action_seed = found.seed if seed is None else seed
            chosen = backend or (found.backend if env is None else "auto")
            request = environment_for(found.policy, env, catalog, chosen)
            monitor, limit = rollout.Monitor(), max_steps or found.max_steps
            with Waiting(partial(_progress, found.name, monitor, episodes), progress):
                returns, lengths, cut = evaluate_policy(
                    found.policy,
                    request,
                    catalog,
                    episodes=episodes,
                    mode=mode,
                    seed=action_seed,
                    backend=chosen,
                    max_steps=limit,
                    monitor=monitor,
                )
            if cut:
                text = f"Warning: {found.name}: {cut_episodes(cut, episodes, limit)} (--max-steps)."
                echo(f"{text} Their returns count up to there.", err=True)
            rows.append(
                {
                    "run_key": found.run.run_key if found.run else None,
                    "run_id": found.run.run_id if found.run else None,
                    "name": found.name,
                    "algorithm": found.run.algorithm if found.run else None,
                    "env": request.id,
                    "seed": action_seed,
                    "mode": mode,
                    "episodes": len(returns),
                    "return_mean": float(returns.mean()),
                    "return_std": float(returns.std()),
                    "return_min": float(returns.min()),
                    "return_max": float(returns.max()),
                    "length_mean": float(lengths.mean()),
                    "cut_episodes": cut,
                }
            )
            if per_episode:
                rows[-1] |= {"returns": returns.tolist(), "lengths": lengths.tolist()}
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
