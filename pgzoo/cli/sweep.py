"""`pgzoo sweep ALGO --search KEY=SPACE`: search for good hyperparameters. All settings of `pgzoo run` are options."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.common import (
    command_line,
    echo,
    json_option,
    open_catalog,
    plugin_options,
    progress_mode_option,
    stdout_to_stderr,
)
from pgzoo.cli.run import AlgorithmGroup, catalog_of, file_options
from pgzoo.cli.tables import fitted_table, table_console
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.analysis.statistics import Estimate
    from pgzoo.search.result import SweepResult

__all__ = ["command"]

SAMPLERS = ("tpe", "random", "grid", "cmaes", "qmc")
PRUNERS = ("median", "hyperband", "none")

STORAGE = "PGZOO_STORAGE"
"""Environment variable with the Optuna storage: other users can read the command line of a process, and not this."""

SEEDS = 4
"""Default number of seeds of a trial."""

SHOWN = 10
"""Trials in the printed table."""


def _warn_of_password(ctx: click.Context, storage: str | None) -> None:
    """Warn if the command line has the password of the storage."""
    from pgzoo.tracking import display_uri

    typed = ctx.get_parameter_source("storage") is click.core.ParameterSource.COMMANDLINE
    if storage and typed and display_uri(storage) != storage:
        echo(
            f"Warning: other users of this machine can see the password in --storage. Set {STORAGE} instead.", err=True
        )


class _SearchOption(click.Option):
    """An option of the search itself, which the help lists in a section of its own."""

    group = "Search"


@click.command("train")
@click.option(
    "--search",
    "space",
    cls=_SearchOption,
    multiple=True,
    metavar="K=SPACE|FILE",
    help="Setting to search: K=A..B, K=log:A..B or K=A,B,C; or a YAML file with such lines (repeatable).",
)
@click.option(
    "--trials", cls=_SearchOption, type=int, default=40, metavar="N", show_default=True, help="Number of trials."
)
@click.option(
    "--objective",
    cls=_SearchOption,
    type=click.Choice(["final", "auc"]),
    default="final",
    show_default=True,
    help="final: mean return of the final policy; auc: mean height of the learning curve.",
)
@click.option(
    "--sampler",
    cls=_SearchOption,
    type=click.Choice(SAMPLERS),
    default="tpe",
    show_default=True,
    help="How settings are proposed.",
)
@click.option(
    "--pruner",
    cls=_SearchOption,
    type=click.Choice(PRUNERS),
    default="none",
    show_default=True,
    help="End trials early that are worse than others at the same step.",
)
@click.option(
    "--storage",
    cls=_SearchOption,
    metavar="URL",
    envvar=STORAGE,
    show_envvar=True,
    help="Optuna storage, such as sqlite:///FILE.  [default: a journal file of the study]",
)
@click.option(
    "--study",
    cls=_SearchOption,
    metavar="NAME",
    help="Name of the study; one that exists is continued.  [default: a new one]",
)
@click.option("--max-hours", cls=_SearchOption, type=float, metavar="H", help="Start no trial after this many hours.")
@click.option(
    "--top",
    cls=_SearchOption,
    type=int,
    default=3,
    metavar="N",
    show_default=True,
    help="Train the best N trials again on fresh seeds.",
)
@click.option(
    "--fresh-seeds", cls=_SearchOption, type=int, metavar="N", help="Number of fresh seeds.  [default: twice --seeds]"
)
@click.option(
    "--batch",
    cls=_SearchOption,
    type=int,
    metavar="N",
    help="Number of trials that are proposed at once.  [default: 8 if they can be trained together, otherwise 1]",
)
@click.option(
    "--sampler-seed",
    cls=_SearchOption,
    type=int,
    default=0,
    metavar="N",
    show_default=True,
    help="Seed of the sampler.",
)
@click.option(
    "--jobs",
    cls=_SearchOption,
    type=int,
    default=1,
    metavar="N",
    show_default=True,
    help="Number of processes on this machine that train trials at the same time.",
)
@click.option("--save-preset", cls=_SearchOption, metavar="NAME", help="Write the winner's settings to NAME.yml.")
@file_options
@plugin_options
@json_option
@progress_mode_option
@click.pass_context
def _search(
    ctx: click.Context,
    /,
    space: tuple[str, ...],
    preset: str,
    file: str | None,
    progress: ProgressMode,
    as_json: bool,
    **others: Any,
) -> None:
    """Hold the options and the body that the commands of all algorithms share; it is no command itself."""
    from pgzoo.cli.options import given_settings, option_of
    from pgzoo.config import Layer, read_yaml
    from pgzoo.errors import ConfigError

    named = read_yaml(file).values if file else {}
    if ctx.params.get("env") is None and not named.get("env"):
        raise ConfigError("env is missing: give --env ID. See: pgzoo envs")
    catalog = catalog_of(ctx)
    given = given_settings(ctx)
    if not {"seed", "seeds"} & {*given, *named}:
        given["seeds"] = SEEDS
    layer = Layer({"algorithm": str(ctx.info_name), **given}, option_of(ctx))
    options = (
        "trials", "objective", "sampler", "pruner", "storage", "study", "max_hours", "save_preset", "top",
        "fresh_seeds", "batch", "sampler_seed", "jobs",
    )  # fmt: skip
    _warn_of_password(ctx, others["storage"])
    with stdout_to_stderr():
        with Waiting("Loading torch and gymnasium", progress):
            from pgzoo.runs.resolve import compose
            from pgzoo.search.options import SearchOptions, require_optuna
            from pgzoo.search.runner import run_search

            require_optuna()
            config = compose(layer, catalog, preset=preset, file=file)
        chosen = SearchOptions(space=space, **{name: others[name] for name in options})
        result = run_search(chosen, config, catalog, command=command_line(), progress=progress, fixed=given)
    _conclude(ctx, result, as_json)


@click.command(
    "sweep",
    cls=AlgorithmGroup,
    body=_search,
    alone=("--join",),
    invoke_without_command=True,
    no_args_is_help=True,
    options_metavar="",
    subcommand_metavar="ALGO --env ID --search K=SPACE [OPTIONS]",
    epilog="For example: pgzoo sweep ppo --env CartPole-v1 --search learning_rate=log:1e-4..3e-3 "
    "--search entropy_coef=0,0.001,0.01 --trials 40. See the options of one: pgzoo sweep ppo --help",
)
@click.option("--join", "study", metavar="STUDY", help="Train trials of this study, which another process started.")
@click.option(
    "--storage", metavar="URL", envvar=STORAGE, show_envvar=True, help="With --join: the Optuna storage of the study."
)
@click.option("--tracking-uri", metavar="URI", help="With --join: MLflow store.")
@plugin_options
@json_option
@progress_mode_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    study: str | None,
    storage: str | None,
    tracking_uri: str | None,
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
    progress: ProgressMode,
    as_json: bool,
) -> None:
    """Search for good hyperparameters of an algorithm with Optuna.

    A trial trains several seeds, and its score is the interquartile mean over them. The best trials are trained again
    on fresh seeds, and the winner is the one with the best score there. Other settings are given as in `pgzoo run`.
    """
    if ctx.invoked_subcommand is not None:
        return
    if study is None:
        raise click.UsageError("Give an algorithm, or --join STUDY.", ctx)
    _warn_of_password(ctx, storage)
    catalog = open_catalog(imports=imports, blocked=blocked)
    with stdout_to_stderr():
        with Waiting("Loading torch and gymnasium", progress):
            from pgzoo.search.runner import join_study
        result = join_study(
            study,
            catalog,
            storage=storage,
            tracking_uri=tracking_uri,
            command=command_line(),
            progress=progress,
        )
    _conclude(ctx, result, as_json, joined=True)


def _conclude(ctx: click.Context, result: SweepResult, as_json: bool, *, joined: bool = False) -> None:
    """Print the result, and exit with the exit code of the search.

    A process that has `joined` a search leaves it to another to determine the winner.
    """
    if as_json:
        echo(json.dumps(result.to_dict(), allow_nan=False))
    else:
        _print_result(result)
    ctx.exit(130 if result.interrupted else 0 if result.winner or joined else 1)


def _print_result(result: SweepResult) -> None:
    """Print the best trials of the search, the best ones on fresh seeds, and where everything is."""
    from rich.text import Text

    from pgzoo.errors import visible
    from pgzoo.search.result import format_settings

    out = table_console()
    finished = [row for row in result.trials if row.score is not None]
    failed = sum(row.status == "failed" for row in result.trials)
    pruned = sum(row.status == "pruned" for row in result.trials)
    counts = f"{len(finished)} of {result.planned} trials finished, {pruned} pruned, {failed} failed"
    out.print(f"\n[bold]{visible(result.algorithm)} on {visible(result.env)}[/]: {counts}\n")
    what = {"final": "return of the final policy", "auc": "mean height of the learning curve"}[result.objective]
    if result.finalists:
        columns = ("trial", "in the search", "fresh seeds", "95% interval", "shrinkage", "settings")
        rows = []
        for finalist in result.finalists:
            fresh = finalist.fresh
            numbers = (finalist.search_score, fresh.value)
            cells = [str(finalist.number), *map(_number, numbers), _interval(fresh), _number(finalist.shrinkage)]
            rows.append([Text(cell) for cell in (*cells, visible(format_settings(finalist.settings)))])
        out.print(fitted_table(columns, rows, out.width, numbers=range(5), right=range(5)), crop=False)
        fresh_count = len(result.finalists[0].scores)
        out.print(
            f"[dim]{what.capitalize()}, interquartile mean over {len(result.seeds)} seeds in the search and "
            f"{fresh_count} fresh seeds. Shrinkage: how much lower the second is.[/]\n"
        )
    elif finished:
        best = sorted(finished, key=lambda row: -(row.score or 0.0))[:SHOWN]
        for row in best:
            out.print(f"trial {row.number:>3}  {_number(row.score)}  {visible(row.format_settings())}", markup=False)
        out.print()
    lines = []
    if result.winner:
        lines.append(f"Winner    trial {result.winner.number}: {format_settings(result.winner.settings)}")
    if result.interrupted:
        lines.append(f"Continue  the same command with --study {result.study}")
    lines += [f"Study     {result.study}, in {result.folder}"]
    lines += [f"{'Files' if not place else '':10}{file.name}" for place, file in enumerate(result.files)]
    if result.run_id:
        lines.append(f"MLflow    run {result.study}; its child runs are the trials")
    if result.preset:
        run = f"pgzoo run {result.algorithm} --env {result.env} --preset {result.preset}"
        lines += [f"Preset    {result.preset}", f"Next      {run}"]
    out.print(visible("\n".join(lines)), soft_wrap=True, markup=False)


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "-"
    return f"[{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".replace("-", "−")
