"""The program `pgzoo`: a group of commands, each registered by a plugin and imported when it is called."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import Any

import click
from click.shell_completion import CompletionItem

from pgzoo.cli import common, output
from pgzoo.cli.aliases import command_hint, option_hint
from pgzoo.cli.completion import VARIABLE, is_completing
from pgzoo.errors import PgzooError, PluginError, UnknownName
from pgzoo.process import collect_garbage_rarely, keep_freed_memory
from pgzoo.registry import PluginCatalog, discover

__all__ = ["main", "program"]

INTERRUPTED = 130


class Program(click.Group):
    """A group whose commands are the catalog's; `--help` reads their summaries and imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in order of registration."""
        return _catalog(ctx).names("command")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Raises PluginError if the import fails or the object isn't a click command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        entry = _catalog(ctx).get("command", cmd_name)
        command = entry.load()
        if not isinstance(command, click.Command):
            raise PluginError(f'"{entry.target}" of plugin {entry.plugin} is not a click command.')
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Raises:
            UnknownName: there is no such command; the message suggests the equivalent or the most similar one.
            UsageError: an option that takes one value is given twice.
        """
        names = self.list_commands(ctx)
        if args[0] not in names and (hint := command_hint(args[0])):
            raise UnknownName(f'No command "{args[0]}". Use: {hint}')
        _catalog(ctx).get("command", args[0])
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, click.Group):
            common.refuse_repeated(ctx, command, rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, with those of plugins in a separate section."""
        entries = _catalog(ctx).entries("command")
        own = [entry for entry in entries if entry.plugin.source == "built-in"]
        for title, group in (
            ("Commands", own),
            ("Plugin commands", [e for e in entries if e not in own]),
        ):
            if group:
                with formatter.section(title):
                    formatter.write_dl([(entry.name, common.summary_line(entry)) for entry in group])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command, importing none."""
        found = [entry for entry in _catalog(ctx).entries("command") if entry.name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(entry.name, help=common.summary_line(entry)) for entry in found] + options

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A PgzooError ends the program with one message and its exit code.

        With PGZOO_DEBUG=1 the traceback comes before the message. Raises UsageError for an unknown option, with the
        one that does what is meant.
        """
        blocked = common.unparsed_values(ctx.args, "--no-plugin")
        try:
            if not set(ctx.args) & set(ctx.help_option_names):
                common.warn_of_broken(discover(inline=False, blocked=blocked) if blocked else _catalog(ctx))
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if error.ctx is not None and (
                hint := option_hint(error.option_name, _flags(error.ctx), error.ctx.command_path)
            ):
                raise click.UsageError(f"No such option '{error.option_name}'. {hint}", error.ctx) from error
            raise
        except PgzooError as error:
            if os.environ.get("PGZOO_DEBUG"):
                traceback.print_exc()
            common.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            common.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.command(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: pgzoo run reinforce --env CartPole-v1. PGZOO_DEBUG=1 shows the traceback of an error.",
)
@click.version_option(package_name="pgzoo", message="%(prog)s %(version)s")
def program() -> None:
    """Policy-gradient algorithms, each of them a plugin."""


def main() -> None:
    """Run the program. This is the console script, and what `python -m pgzoo` calls."""
    collect_garbage_rarely()
    keep_freed_memory()
    out, code = output.guard(), 1
    if is_completing(os.environ.get(VARIABLE)):  # a message would be written into the line that the user types
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
    try:
        program(prog_name="pgzoo")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    code = output.exit_code(code, out)
    gc.freeze()  # the process ends now: collecting the compiler's garbage would take two seconds
    sys.exit(code)


def _flags(ctx: click.Context) -> set[str]:
    """Return the options of a command, with their hyphens."""
    return {flag for param in ctx.command.get_params(ctx) for flag in (*param.opts, *param.secondary_opts)}


def _catalog(ctx: click.Context) -> PluginCatalog:
    """Return the catalog of built-in and installed plugins, discovered once; `run` also takes what its options name."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = discover(inline=False)
    assert isinstance(root.obj, PluginCatalog)
    return root.obj
