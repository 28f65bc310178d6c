"""`pgzoo evaluate RUN_ID`: play with the policies of a run, a group or a name."""

from __future__ import annotations

from typing import Any, Literal

import click

from pgzoo.cli.common import json_option, open_catalog, plugin_options, print_json, print_table, progress_option

__all__ = ["command"]


@click.command("evaluate")
@click.argument("run_id")
@click.option("--episodes", type=click.IntRange(min=1), default=100, show_default=True, help="Episodes per run.")
@click.option("--deterministic/--stochastic", default=False, help="Take the mode, or sample.  [default: stochastic]")
@click.option("--tracking-uri", help="MLflow store to ask if the run isn't known on this machine.")
@progress_option
@plugin_options
@json_option
def command(
    run_id: str,
    episodes: int,
    deterministic: bool,
    tracking_uri: str | None,
    as_json: bool,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
) -> None:
    """Play episodes with the policy of a run: an MLflow run id, a run key, a group or a name.

    Episodes start as in the run's own evaluations, so that numbers can be compared.
    """
    from pgzoo.evaluation import evaluate_run
    from pgzoo.tracking import Home, find

    catalog = open_catalog(blocked=blocked, imports=imports)
    mode: Literal["greedy", "sampled"] = "greedy" if deterministic else "sampled"
    rows: list[dict[str, Any]] = []
    for found in find(run_id, Home.find(), tracking_uri):
        returns, lengths = evaluate_run(found, catalog, episodes=episodes, mode=mode)
        rows.append(
            {
                "run_key": found.run_key,
                "run_id": found.run_id,
                "name": found.name,
                "algorithm": found.algorithm,
                "env": found.env,
                "seed": found.seed,
                "mode": mode,
                "episodes": len(returns),
                "return_mean": float(returns.mean()),
                "return_std": float(returns.std()),
                "return_min": float(returns.min()),
                "return_max": float(returns.max()),
                "length_mean": float(lengths.mean()),
            }
        )
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
