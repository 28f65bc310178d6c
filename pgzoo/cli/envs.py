"""`pgzoo envs [ID]`: list the registered environments, or describe one and try it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import common, tables
from pgzoo.cli.completion import complete_env
from pgzoo.registry import PluginCatalog

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from pgzoo.envs.ids import EnvInfo

__all__ = ["command"]


def _read_kwargs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
    from pgzoo.cli.options import read_pairs

    return read_pairs("--env-kwarg")(ctx, param, value)


@click.command("envs")
@click.argument("env_id", required=False, metavar="[ID]", shell_complete=complete_env)
@click.option("--all", "every", is_flag=True, help="Also list old versions and environments that can't run here.")
@click.option(
    "--env-kwarg",
    "env_kwargs",
    multiple=True,
    metavar="K=V",
    callback=_read_kwargs,
    help="Keyword for the environment; repeat for more.",
)
@common.plugin_options
@common.json_option
@common.progress_option
@click.pass_context
def command(
    ctx: click.Context,
    env_id: str | None,
    every: bool,
    env_kwargs: dict[str, Any],
    imports: tuple[str, ...],
    blocked: tuple[str, ...],
    as_json: bool,
) -> None:
    """List environments, or describe ID and test whether it runs here.

    ID may have the form module:EnvId. The list only shows whether an environment's code can be loaded. With ID one is
    made and a few steps are played, as `pgzoo run` does before it trains. Exit code 2 if it doesn't run here.

    docs/environments.md lists environments that train, including those of other packages, with the commands.
    """
    catalog = common.open_catalog(blocked=blocked, imports=imports)
    if env_id is None:
        _list(every, as_json)
    elif not _describe(env_id, env_kwargs, catalog, as_json):
        ctx.exit(2)


def _list(every: bool, as_json: bool) -> None:
    from gymnasium.envs.registration import registry

    from pgzoo.envs.ids import obstacle, successor

    found = [(spec, obstacle(spec), successor(spec.id)) for spec in sorted(registry.values(), key=_by_name)]
    shown = [(spec, why) for spec, why, newer in found if every or not (newer or "not supported" in why)]
    if as_json:
        origins: dict[str, tuple[str | None, str | None]] = {}
        common.print_json([_as_json(spec, why, origins) for spec, why in shown])
        return
    rows = [
        (spec.id, "[yellow]no" if why else "[green]yes", _number(spec.max_episode_steps),
         _number(spec.reward_threshold), why)
        for spec, why in shown
    ]  # fmt: skip
    hidden = len(found) - len(shown)
    hint = "Describe one and try it: pgzoo envs ID"
    if hidden:
        hint += f"   {hidden} old or unsupported environments are hidden: --all"
    tables.print_table(("Environment", "Loads", "Max steps", "Threshold", "Fix"), rows, hint=hint)


def _describe(env_id: str, env_kwargs: dict[str, Any], catalog: PluginCatalog, as_json: bool) -> bool:
    """Print what is known of an environment. Return whether a run would accept it."""
    from pgzoo.envs.choice import IGNORES_SEED, choose_backend, foreign_backends, inspect_environment, make_backend
    from pgzoo.envs.ids import describe
    from pgzoo.errors import EnvError, UnfitError
    from pgzoo.types import EnvRequest

    with common.stdout_to_stderr():
        info, request = describe(env_id, env_kwargs), EnvRequest(env_id, env_kwargs, None, rows=8)
        fitting, auto, masked, seeded = foreign_backends(catalog, request), None, False, True
        try:
            auto, backend = choose_backend("auto", catalog, request)
            every = {entry.name: make_backend(entry, catalog) for entry in catalog.entries("env_backend")}
            fitting = [name for name, one in every.items() if not one.fits(request)]
            spec = inspect_environment(request, backend)
            masked, seeded = spec.masked, spec.seeded
        except (EnvError, UnfitError) as error:
            info = replace(info, runs=False, problem=str(error))
    if as_json:
        about = {"summary": info.problem or "runs here", **asdict(info), "backends": fitting, "auto": auto}
        common.print_json({"name": info.id, **about, "action_masks": masked, "seeded": seeded})
    elif info.runs:
        _print(info, [f"{name} (auto)" if name == auto else name for name in fitting], masked)
    else:
        common.echo(f"Error: {info.problem}", err=True)
    if not seeded:
        common.echo(f"Warning: {info.id} {IGNORES_SEED}.", err=True)
    return info.runs


def _print(info: EnvInfo, backends: Sequence[str], masked: bool) -> None:
    rows = [
        ("environment", info.id),
        ("runs here", "[green]yes"),
        ("observations", info.observation_space or ""),
        ("actions", info.action_space or ""),
        ("max episode steps", _number(info.max_episode_steps) or "no limit"),
        ("reward threshold", _number(info.reward_threshold) or "none"),
        ("backends", ", ".join(backends)),
        ("code", info.entry_point or ""),
    ]
    if info.successor:
        rows.insert(1, ("newest version", info.successor))
    if info.nondeterministic:
        rows.append(("note", "not deterministic, even with a seed"))
    if masked:
        rows.insert(4, ("action masks", "yes"))
    tables.print_pairs(rows, hint=f"Train on it: pgzoo run reinforce --env {info.id}")


def _as_json(spec: EnvSpec, why: str, origins: dict[str, tuple[str | None, str | None]]) -> dict[str, Any]:
    module = spec.entry_point if isinstance(spec.entry_point, str) else getattr(spec.entry_point, "__module__", "")
    package = str(module).partition(":")[0].partition(".")[0]
    if package not in origins:
        origins[package] = _distribution(package)
    distribution, version = origins[package]
    return {
        "name": spec.id,
        "summary": why or "its code can be loaded here",
        "distribution": distribution,
        "version": version,
        "loads": not why,
        "max_episode_steps": spec.max_episode_steps,
        "reward_threshold": spec.reward_threshold,
        "entry_point": str(module),
    }


def _distribution(package: str) -> tuple[str | None, str | None]:
    """Return the distribution that a package comes from, and its version.

    A distribution with the name of the package is preferred.
    """
    try:
        return package, metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        name = next(iter(metadata.packages_distributions().get(package, ())), None)
        return name, metadata.version(name) if name else None


def _by_name(spec: EnvSpec) -> tuple[str, str, int]:
    return spec.namespace or "", spec.name, spec.version or 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
