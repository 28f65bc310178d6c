"""Command-line options made from the models that validate them, one option for each field."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pgzoo.cli.common import refuse_repeated
from pgzoo.cli.completion import complete_run_or_folder
from pgzoo.config.run import MERGED
from pgzoo.config.validation import has_own_none

__all__ = ["GroupedCommand", "GroupedOption", "format_value", "given_settings", "option_of", "options", "read_pairs"]

NOTHING = object()
"""Placeholder for `none` on the command line; `given_settings` replaces it by None. (click: None means "not given".)"""

SINGULAR = {"env_kwargs": "--env-kwarg", "tags": "--tag", "wrappers": "--wrapper"}
LONGEST = 50
METAVARS = {
    "seeds": "N|A,B,...",
    "tracking_uri": "URI",
    "init_from": "RUN_ID|FOLDER",
    "sweep_axis": "K=A,B,...",
    "diagnostics": "NAME,...",
    **dict.fromkeys(("backend", "experiment", "launcher", "name"), "NAME"),
}


class GroupedOption(click.Option):
    """An option with its group in the help, and the path of its setting, such as ("policy", "hidden")."""

    def __init__(self, *args: Any, group: str, path: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.path = group, path


class GroupedCommand(click.Command):
    """A command whose help lists options by group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Raises UsageError for a repeated option."""
        refuse_repeated(ctx, self, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group, in order of first appearance."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                groups.setdefault(getattr(param, "group", "Program"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def options(
    model: type[BaseModel],
    *,
    group: str,
    prefix: tuple[str, ...] = (),
    defaults: Mapping[str, Any],
    skip: Sequence[str] = (),
) -> Iterator[GroupedOption]:
    """Yield an option for every field of a model except those in `skip`.

    `defaults` take the place of the model's own in the help. `prefix` comes before each name: ("policy",) gives
    `--policy.hidden`.
    """
    for name, field in model.model_fields.items():
        if name in skip:
            continue
        yield _option(name, field, group, prefix, defaults.get(name, field.get_default(call_default_factory=True)))
    for former, name in getattr(model, "renamed", {}).items():
        option = _option(former, model.model_fields[name], group, prefix, None)
        option.hidden = True
        yield option


def given_settings(ctx: click.Context) -> dict[str, Any]:
    """Return the settings that the user gave, nested by component; those left out are absent."""
    nested: dict[str, Any] = {}
    for param in _settings(ctx):
        value = ctx.params.get(param.name or "")
        if value is None or value == {} or (param.multiple and not value):
            continue
        at = nested
        for key in param.path[:-1]:
            at = at.setdefault(key, {})
        at[param.path[-1]] = None if value is NOTHING else value
    return nested


def option_of(ctx: click.Context) -> Callable[[tuple[str, ...]], str]:
    """Return a function that names the option which gave the setting at a path."""
    flags = {param.path: param.opts[0] for param in _settings(ctx)}
    if ctx.params.get("seed") is not None:
        flags["seeds",] = "--seed"
    return lambda path: flags.get(path, ".".join(path))


def _settings(ctx: click.Context) -> list[GroupedOption]:
    return [param for param in ctx.command.params if isinstance(param, GroupedOption)]


def _option(name: str, field: FieldInfo, group: str, prefix: tuple[str, ...], default: Any) -> GroupedOption:
    flag = SINGULAR.get(name, "--" + ".".join((*prefix, name.replace("_", "-"))))
    path, kind = (*prefix, name), _unwrapped_type(field.annotation)
    shown = format_value(default)
    about = (field.description or "").rstrip(".")
    help_text = f"{about}  [default: {shown}]" if shown else about
    common: dict[str, Any] = {"group": group, "path": path, "help": help_text, "default": None}
    identifier = "__".join(path)
    if kind is bool:
        off = "--" + ".".join((*prefix, "no-" + name.replace("_", "-")))
        return GroupedOption([f"{flag}/{off}", identifier], **common)
    if name in MERGED:
        metavar = METAVARS.get(name, "K=V")
        return GroupedOption([flag, identifier], multiple=True, metavar=metavar, callback=read_pairs(flag), **common)
    if name == "wrappers":
        return GroupedOption([flag, identifier], multiple=True, metavar="MODULE:CLASS", **common)
    if typing.get_origin(kind) is Literal:
        choices = [str(a) for a in typing.get_args(kind)]
        if len("|".join(choices)) > LONGEST:  # too wide for the help's first column
            common |= {"metavar": "NAME", "help": f"{', '.join(choices)}: {help_text}"}
        return GroupedOption([flag, identifier], type=click.Choice(choices), **common)
    if typing.get_origin(kind) is tuple:
        return GroupedOption([flag, identifier], metavar=METAVARS.get(name, "A,B,..."), callback=_comma, **common)
    if name == "init_from":
        common["shell_complete"] = complete_run_or_folder
    if has_own_none(kind):
        return GroupedOption([flag, identifier], metavar=METAVARS.get(name, "TEXT"), **common)
    metavar = METAVARS.get(name) or {int: "N", float: "X"}.get(kind, "TEXT")
    return GroupedOption([flag, identifier], metavar=metavar, callback=_whole if kind is int else _none, **common)


def _unwrapped_type(annotation: Any) -> Any:
    """The type beneath Annotated and `| None`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _unwrapped_type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        kept = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _unwrapped_type(kept[0]) if len(kept) == 1 else annotation
    return annotation


def format_value(default: Any) -> str:
    """Format a default as it would be typed on the command line; empty for None and for what isn't given."""
    if default is None or default in ({}, (), (0,)) or type(default).__name__ == "PydanticUndefinedType":
        return ""
    if isinstance(default, tuple | list):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def _comma(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    if value is None or "," not in value:
        return value if value is None or param.name == "seeds" else tuple(v for v in (value,) if v)
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _none(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read `none` as None, so that a setting with a default can be switched off."""
    return NOTHING if value is not None and value.lower() == "none" else value


def _whole(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read 1e5 as the whole number 100000; everything else is left to the model's validation."""
    try:
        return int(float(value)) if value is not None and float(value).is_integer() else _none(ctx, param, value)
    except ValueError:
        return _none(ctx, param, value)


def read_pairs(flag: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, Any]]:
    """Return a click callback that reads the K=V pairs of a repeated option into a dict."""

    def read(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for item in value or ():
            key, equals, text = item.partition("=")
            if not key or not equals:
                raise click.BadParameter(f"expected {param.metavar}, got {item!r}", ctx, param)
            match flag:
                case "--env-kwarg":
                    pairs[key] = _scalar(text)
                case "--sweep-axis":
                    axis = key.strip().replace("-", "_")
                    if axis in pairs:
                        raise click.BadParameter(f"{axis} is given twice; give all its values at once", ctx, param)
                    pairs[axis] = tuple(part.strip() for part in text.split(",") if part.strip())
                case _:
                    pairs[key] = text
        return pairs

    return read


def _scalar(text: str) -> Any:
    """Read a keyword's value as YAML does: 3, 0.5, 1e-3, true, text."""
    import yaml

    from pgzoo.config.files import yaml_loader

    try:
        return yaml.load(text, yaml_loader())  # a safe one
    except (yaml.YAMLError, ValueError):
        return text
