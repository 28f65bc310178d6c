"""`pgzoo run ALGO`: train. Its options are the settings of the run, the algorithm, the policy and the estimator."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli.common import (
    F,
    command_line,
    echo,
    json_option,
    open_catalog,
    plugin_options,
    progress_mode_option,
    stdout_to_stderr,
    unparsed_values,
)
from pgzoo.cli.completion import complete_component, complete_env, complete_run_or_folder
from pgzoo.runs.waiting import ProgressMode, Waiting

if TYPE_CHECKING:
    from pgzoo.config import RunConfig
    from pgzoo.registry import ComponentKind, PluginCatalog

__all__ = ["AlgorithmGroup", "catalog_of", "command", "file_options", "resolved"]

SKIPPED = ("algorithm", "env", "policy", "estimator", "settings")
"""Fields of RunConfig that don't become options here: they have separate options."""

COMPLETED = {
    "--env": complete_env,
    "--policy": complete_component("policy"),
    "--estimator": complete_component("estimator"),
    "--preset": complete_component("preset"),
    "--init-from": complete_run_or_folder,
}
"""Options whose values a shell completes."""


class AlgorithmGroup(click.Group):
    """The algorithms as subcommands. Their options depend on the components that the arguments name.

    `body` has the callback of all subcommands, and options that they have besides the settings. With an option in
    `alone`, the group is called without an algorithm.
    """

    def __init__(self, *args: Any, body: click.Command, alone: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.body, self.alone = body, alone

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the algorithm, also in the `--config` file, and put it first."""
        helps = [arg for arg in args if arg in ctx.help_option_names]
        name = _algorithm_of(args)
        is_alone = any(arg.partition("=")[0] in self.alone for arg in args)
        if name is None and not helps and args and not is_alone:
            raise click.UsageError(
                f"The algorithm comes first: {ctx.command_path} ALGO --env ID; or name it in a --config file. "
                "See: pgzoo algorithms",
                ctx,
            )
        if name is not None:
            rest = list(args)
            if name in rest[:1]:
                (name, *rest) = _with_files_imported(rest)
            ctx.meta["arguments"] = rest
            args = [name, *rest]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all algorithms."""
        return catalog_of(ctx).names("algorithm")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Make the command of one algorithm. Raises UnknownName with the nearest one."""
        last = next(iter(ctx.meta.get("arguments", [])[-1:]), "")
        if ctx.resilient_parsing and last in COMPLETED:  # complete a value without importing the algorithm
            option = click.Option([last], shell_complete=COMPLETED[last])
            return click.Command(cmd_name, params=[option], context_settings={"ignore_unknown_options": True})
        return _command_for(cmd_name, catalog_of(ctx), ctx.meta.get("arguments", []), self.body)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the algorithms by their summaries; none of them is imported."""
        with formatter.section("Algorithms"):
            formatter.write_dl([(entry.name, entry.summary) for entry in catalog_of(ctx).entries("algorithm")])


class _TrainingGroup(AlgorithmGroup):
    """`pgzoo run`: it uploads to MLflow."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Make the command of one algorithm, which takes a second, while another process gets ready to upload."""
        args = ctx.meta.get("arguments", [])
        if not ctx.resilient_parsing and not set(args) & set(ctx.help_option_names):
            from pgzoo.tracking import Home, resolve_uri
            from pgzoo.tracking.session import prepare_uploader

            home = Home.find()
            prepare_uploader(home, resolve_uri(next(iter(unparsed_values(args, "--tracking-uri")), None), home))
        return super().get_command(ctx, cmd_name)


def _with_files_imported(args: Sequence[str]) -> list[str]:
    """Replace `FILE.py:NAME` as the algorithm, policy or estimator by `module:NAME`, and add `--import FILE.py`.

    `args` start with the algorithm.
    """
    if not any(".py:" in arg for arg in args):
        return list(args)
    from pgzoo.registry.objects import names_of_references

    args = list(args)
    places = {0: ""}  # position -> what comes before the name
    for kind in ("policy", "estimator"):
        places |= {k + 1: "" for k, arg in enumerate(args[:-1]) if arg == f"--{kind}"}
        places |= {k: f"--{kind}=" for k, arg in enumerate(args) if arg.startswith(f"--{kind}=")}
    given = unparsed_values(args, "--import")
    names, imports = names_of_references([args[k].removeprefix(before) for k, before in places.items()], given)
    for (k, before), name in zip(places.items(), names, strict=True):
        args[k] = before + name
    return args + [word for path in imports[len(given) :] for word in ("--import", path)]


def catalog_of(ctx: click.Context) -> PluginCatalog:
    """Return the catalog with the plugins that `--import` and `--no-plugin` ask for, made once."""
    if "catalog" not in ctx.meta:
        args = ctx.meta.get("arguments", [])
        ctx.meta["catalog"] = open_catalog(
            blocked=unparsed_values(args, "--no-plugin"), imports=unparsed_values(args, "--import")
        )
    return ctx.meta["catalog"]  # type: ignore[no-any-return]


def _algorithm_of(args: Sequence[str]) -> str | None:
    if args and not args[0].startswith("-"):
        return args[0]
    from pgzoo.config import read_yaml

    for path in unparsed_values(args, "--config"):
        name = read_yaml(path).values.get("algorithm")
        if isinstance(name, str):
            return name
    return None


def _command_for(name: str, catalog: PluginCatalog, args: Sequence[str], body: click.Command) -> click.Command:
    """Build the command of one algorithm, with an option for each setting of the components that are chosen.

    A setting with the name of an option of `body` has no option of its own.
    """
    from pgzoo.cli.options import GroupedCommand, GroupedOption, options
    from pgzoo.config import AlgorithmConfig, ComponentConfig, RunConfig
    from pgzoo.registry.components import look_up
    from pgzoo.runs.resolve import check_algorithm

    entry = look_up(catalog, "algorithm", name, _where_named("algorithm", name, args))
    target, settings = entry.load(), entry.load_config() or AlgorithmConfig
    check_algorithm(entry, settings)
    defaults = dict(getattr(target, "defaults", {}))
    params: list[click.Parameter] = [
        GroupedOption(
            ["--env", "env"],
            group="Run",
            path=("env",),
            help="gymnasium id (pgzoo envs)",
            metavar="ID",
            shell_complete=complete_env,
        ),
        GroupedOption(
            ["--seed", "seed"], group="Run", path=("seed",), help="train this seed only", metavar="N", callback=_seed
        ),
        *options(RunConfig, group="Run", defaults=defaults, skip=SKIPPED),
        *options(settings, group=f"Algorithm {name}", defaults=defaults),
    ]
    presets = _presets(name, catalog, args)
    parts: tuple[tuple[ComponentKind, str], ...] = (("policy", "mlp"), ("estimator", target.estimator))
    for kind, fallback in parts:
        chosen = _chosen(kind, fallback, defaults, presets, args)
        component = look_up(catalog, kind, chosen, _where_named(kind, chosen, args))
        own = defaults.get(kind)
        shown = own if isinstance(own, dict) and own.get("name") == chosen else {}
        group = f"{kind.capitalize()} {chosen}"
        listed = "pgzoo policies" if kind == "policy" else "pgzoo estimators"
        about = f"which {kind} ({listed})  [default: {fallback}]"
        params.append(
            GroupedOption(
                [f"--{kind}"],
                group=group,
                path=(kind, "name"),
                metavar="NAME",
                help=about,
                shell_complete=COMPLETED[f"--{kind}"],
            )
        )
        params += options(component.load_config() or ComponentConfig, group=group, prefix=(kind,), defaults=shown)
    taken = {flag for param in body.params for flag in param.opts}
    return GroupedCommand(
        name,
        params=[*(param for param in params if not taken & set(param.opts)), *body.params],
        callback=body.callback,
        help=_about(target, entry.summary),
        options_metavar="--env ID [OPTIONS]",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _where_named(kind: str, name: str, args: Sequence[str]) -> str:
    """Return the file and line of the `--config` file that names this component, or ""."""
    from pgzoo.config import read_yaml

    for path in unparsed_values(args, "--config"):
        layer = read_yaml(path)
        part = layer.values.get(kind)
        if name in (part, part.get("name") if isinstance(part, Mapping) else None):
            return layer.where((kind,))
    return ""


def _chosen(
    kind: str, fallback: str, defaults: Mapping[str, Any], presets: Sequence[Mapping[str, Any]], args: Sequence[str]
) -> str:
    """Return the name of the policy or estimator that the arguments choose."""
    from pgzoo.config import read_yaml

    if option := unparsed_values(args, f"--{kind}"):
        return option[-1]
    layers = [read_yaml(path).values for path in unparsed_values(args, "--config")]
    for layer in [*layers, *presets, defaults]:
        part = layer.get(kind)
        name = part.get("name") if isinstance(part, Mapping) else part
        if isinstance(name, str):
            return name
    return fallback


def _presets(algorithm: str, catalog: PluginCatalog, args: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the settings of the preset that the arguments ask for, which may choose a policy or an estimator."""
    from pgzoo.config import read_yaml
    from pgzoo.runs.presets import preset_layer

    in_files = [read_yaml(path).values for path in unparsed_values(args, "--config")[-1:]]
    envs = [*unparsed_values(args, "--env")[-1:], *(file.get("env") for file in in_files), None]
    presets = [*unparsed_values(args, "--preset")[-1:], *(str(file["preset"]) for file in in_files if "preset" in file)]
    found = preset_layer([*presets, "auto"][0], catalog, algorithm, envs[0])
    return [found.layer.values] if found else []


def file_options(command: F) -> F:
    """Add `--preset` (`preset`) and `--config` (`file`)."""
    command = click.option(
        "--config", "file", metavar="FILE", help="YAML file with settings; command-line options take precedence."
    )(command)
    return click.option(
        "--preset",
        default="auto",
        metavar="NAME|FILE",
        help="auto, none, a preset (pgzoo presets), or a YAML file of settings or of RL Zoo's hyperparameters.",
        show_default=True,
    )(command)


@click.command("train")
@file_options
@plugin_options
@json_option
@progress_mode_option
@click.pass_context
def _train(
    ctx: click.Context, /, preset: str, file: str | None, progress: ProgressMode, as_json: bool, **_: Any
) -> None:
    """Hold the options and the body that the commands of all algorithms share; it is no command itself."""
    from pgzoo.cli import summary

    config, catalog = resolved(ctx, preset, file, progress)
    with stdout_to_stderr():
        from pgzoo.runs.runner import run_config

        result = run_config(config, catalog, command=command_line(), progress=progress, own_process=True)
    summary.conclude(ctx, result, as_json, progress)


@click.command(
    "run",
    cls=_TrainingGroup,
    body=_train,
    options_metavar="",
    subcommand_metavar="ALGO --env ID [OPTIONS]",
    epilog="See the options of one: pgzoo run reinforce --help",
)
def command() -> None:
    """Train an algorithm on an environment, evaluate it, and log everything to MLflow."""


def resolved(
    ctx: click.Context, preset: str, file: str | None, progress: ProgressMode
) -> tuple[RunConfig, PluginCatalog]:
    """Return the settings that the options of an algorithm's command give, and the catalog.

    Raises:
        UsageError: a setting is wrong.
    """
    from pgzoo.cli.options import given_settings, option_of
    from pgzoo.config import Layer, read_yaml
    from pgzoo.errors import ConfigError

    if ctx.params.get("seed") is not None and ctx.params.get("seeds") is not None:
        raise click.UsageError("--seed and --seeds can't be combined.", ctx)
    if ctx.params.get("env") is None and not (file and read_yaml(file).values.get("env")):
        raise ConfigError("env is missing: give --env ID. See: pgzoo envs")
    catalog = catalog_of(ctx)
    given = given_settings(ctx)
    algorithm = str(ctx.info_name)
    if ":" in algorithm and not (file and read_yaml(file).values.get("name")):
        given.setdefault("name", algorithm.rpartition(":")[2])
    layer = Layer({"algorithm": algorithm, **given}, option_of(ctx))
    with stdout_to_stderr():
        with Waiting("Loading torch and gymnasium", progress):
            import pgzoo.runs.runner  # noqa: F401  (loads torch)
            from pgzoo.envs.ids import newer
            from pgzoo.runs.resolve import compose

            applied: list[str] = []
            config = compose(layer, catalog, preset=preset, file=file, report=applied.append)
        if version := newer(config.env):
            echo(f"Note: {config.env} has a newer version, {version}.", err=True)
        if progress != "none":
            for line in applied:
                echo(line, err=True)
    return config, catalog


def _seed(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None or value.isdecimal():
        return None if value is None else int(value)
    raise click.BadParameter(f"expected a whole number, 0 or greater, got {value!r}", ctx, param)


def _about(target: object, summary: str) -> str:
    """Return the help text: the docstring without the line on shapes; equations keep their layout."""
    lines = (inspect.getdoc(target) or summary).splitlines()
    blocks = "\n".join(line for line in lines if not line.startswith("Shapes:")).split("\n\n")
    return "\n\n".join(f"\b\n{block}" if block.startswith(" ") else " ".join(block.split()) for block in blocks)
