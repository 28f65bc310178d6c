"""What the shell completes on the command line: runs, environments, and the names of components."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from pgzoo.registry.catalog import ComponentKind

__all__ = ["VARIABLE", "complete_component", "complete_env", "complete_run", "complete_run_or_folder", "is_completing"]

VARIABLE = "_PGZOO_COMPLETE"
"""Environment variable by which the shell asks for completions."""

NEWEST = 1000
"""Number of runs that are considered."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def is_completing(value: str | None) -> bool:
    """Return whether the value of `VARIABLE` asks for completions (and not for the script that the shell loads)."""
    return bool(value) and str(value).endswith("_complete")


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names and groups of this machine's newest runs; run keys if the text fits none of them."""
    from pgzoo.tracking import Home
    from pgzoo.tracking.ledger import journal_folders, names_of, start_of_seed

    names: dict[str, str] = {}
    groups: dict[str, str] = {}
    keys: dict[str, str] = {}
    for folder in sorted(journal_folders(Home.find()), key=lambda folder: folder.name, reverse=True)[:NEWEST]:
        if start := start_of_seed(folder):
            about = f"{start['algorithm']} on {start['env']}"
            for name in names_of(start["name"], start["seed"], start.get("tags", {}))[1:]:
                names.setdefault(name, about)
            groups.setdefault(start["group"], about)
            keys[folder.name] = f"{about}, seed {start['seed']}"
    return _items({**names, **groups}, incomplete) or _items(keys, incomplete)


def complete_run_or_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return what `complete_run` returns; if that is nothing, let the shell complete folders."""
    return complete_run(ctx, param, incomplete) or [CompletionItem(incomplete, type="dir")]


def complete_env(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ids of registered environments, without those that have a newer version."""
    from gymnasium.envs.registration import registry

    from pgzoo.envs.ids import successor

    return _items({name: "" for name in sorted(registry) if not successor(name)}, incomplete)


def complete_component(*kinds: ComponentKind) -> Complete:
    """Return a function that completes the names of components of these kinds."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from pgzoo.cli.common import open_catalog

        catalog = open_catalog()
        return _items({entry.name: entry.summary for kind in kinds for entry in catalog.entries(kind)}, incomplete)

    return complete


def _items(values: dict[str, str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=about or None) for name, about in values.items() if name.startswith(incomplete)]
