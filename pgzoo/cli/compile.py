"""`pgzoo compile ALGO`: compile ahead of time what a run with the same options needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.common import echo, json_option, plugin_options, progress_mode_option, stdout_to_stderr
from pgzoo.cli.run import AlgorithmGroup, file_options, resolved
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.runs.precompile import Precompiled

__all__ = ["command"]


@click.command("compile")
@file_options
@plugin_options
@json_option
@progress_mode_option
@click.pass_context
def _compile(
    ctx: click.Context, /, preset: str, file: str | None, progress: ProgressMode, as_json: bool, **_: Any
) -> None:
    """Hold the options and the body that the commands of all algorithms share; it is no command itself."""
    config, catalog = resolved(ctx, preset, file, progress)
    with stdout_to_stderr(), Waiting(f"Compiling {config.algorithm} on {config.env}", progress):
        from pgzoo import tracking
        from pgzoo.runs.precompile import precompile

        done = precompile(config, catalog, tracking.Home.find())
    echo(json.dumps(_as_json(done)) if as_json else _as_text(done))


@click.command(
    "compile",
    cls=AlgorithmGroup,
    body=_compile,
    options_metavar="",
    subcommand_metavar="ALGO --env ID [OPTIONS]",
    epilog="The options are those of pgzoo run: pgzoo compile ppo --help",
)
def command() -> None:
    """Compile ahead of time what a run with the same options needs. The run then only loads it.

    Takes the first two updates of the run, and keeps nothing but the compiled code. Other runs may train meanwhile. The
    code serves all seeds, and all values of settings that a loss gets as numbers, such as a learning rate.
    """


def _as_json(done: Precompiled) -> dict[str, Any]:
    config = done.plan.config
    return {
        "algorithm": config.algorithm,
        "env": config.env,
        "compile": config.compile,
        "backend": config.backend,
        "folder": str(done.folder),
        "functions": list(done.functions),
        "loops": done.loops,
        "seconds": round(done.seconds, 3),
    }


def _as_text(done: Precompiled) -> str:
    config = done.plan.config
    what = f"{config.algorithm} on {config.env}"
    if not done.compiles:
        return f"{what} compiles nothing: compile is {config.compile}, and the backend is {config.backend}."
    parts = [_count(len(done.functions), "function")] * (config.compile == "on")
    parts += [_count(done.loops, "loop") + " of the environment"] * (config.backend == "compiled")
    if not done.functions and not done.loops:
        return f"{what}: everything was compiled already ({done.seconds:.1f} s)."
    return f"{what}: compiled {' and '.join(parts)} in {done.seconds:.1f} s."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
