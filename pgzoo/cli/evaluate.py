"""`pgzoo evaluate RUN_ID`: play with the policies of a run, a group or a name, or with the one in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.common import json_option, open_catalog, plugin_options, print_json, print_table, progress_option

if TYPE_CHECKING:
    from pgzoo.training.events import EvaluationMode

__all__ = ["command"]


@click.command("evaluate")
@click.argument("what", metavar="RUN_ID|FOLDER")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="Episodes per run.")
@click.option("--deterministic/--stochastic", default=False, help="Take the mode, or sample.  [default: stochastic]")
@click.option("--per-episode", is_flag=True, help="Show the return and length of every episode.")
@click.option("--env", metavar="ID", help="Play here instead of where the policy learned.")
@click.option("--backend", metavar="NAME", help="How environments run.  [default: as in the run, else auto]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the actions that are drawn.  [default: the run's, else 0]")
@click.option("--tracking-uri", metavar="URI", help="MLflow store to ask if the run isn't known on this machine.")
@progress_option
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
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Play episodes with the policy of a run or of a folder.

    A run is named by its MLflow run id, run key, group or name. Episodes start as in the run's own evaluations, so
    that numbers can be compared. They are played in parallel environments, as many in each, so that short ones
    aren't favored.
    """
    from pgzoo.play.evaluation import environment_for, evaluate_policy, find_policies
    from pgzoo.tracking import Home

    catalog = open_catalog(blocked=blocked, imports=imports)
    mode: EvaluationMode = "greedy" if deterministic else "sampled"
    rows: list[dict[str, Any]] = []
    for it in find_policies(what, catalog, Home.find(), tracking_uri):
        drawn, how = it.seed if seed is None else seed, backend or (it.backend if env is None else "auto")
        where = environment_for(it.policy, env, catalog, how)
        returns, lengths = evaluate_policy(
            it.policy, where, catalog, episodes=episodes, mode=mode, seed=drawn, backend=how
        )
        rows.append(
            {
                "run_key": it.run.run_key if it.run else None,
                "run_id": it.run.run_id if it.run else None,
                "name": it.name,
                "algorithm": it.run.algorithm if it.run else None,
                "env": where.id,
                "seed": drawn,
                "mode": mode,
                "episodes": len(returns),
                "return_mean": float(returns.mean()),
                "return_std": float(returns.std()),
                "return_min": float(returns.min()),
                "return_max": float(returns.max()),
                "length_mean": float(lengths.mean()),
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
        click.echo()
        print_table(
            ("run", "episode", "return", "length"),
            [
                (r["name"], str(k + 1), f"{episode:g}", str(length))
                for r in rows
                for k, (episode, length) in enumerate(zip(r["returns"], r["lengths"], strict=True))
            ],
        )
