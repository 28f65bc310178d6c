"""`pgzoo plugins new NAME`: write a package with a working plugin, to be changed by its author."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from pgzoo.cli import common
from pgzoo.errors import StoreError, UsageError
from pgzoo.registry import ComponentKind, PluginCatalog
from pgzoo.registry.catalog import kind_label

__all__ = ["new"]

KINDS: dict[str, ComponentKind] = {
    "algorithm": "algorithm",
    "estimator": "estimator",
    "policy": "policy",
    "listener": "listener",
    "diagnostic": "diagnostic",
    "env-backend": "env_backend",
    "dynamics": "dynamics",
}
USES = {
    "algorithm": "pgzoo run my-plugin --env CartPole-v1",
    "estimator": "pgzoo run reinforce --env CartPole-v1 --estimator my-plugin",
    "policy": "pgzoo run ppo --env CartPole-v1 --policy my-plugin",
    "listener": "pgzoo run reinforce --env CartPole-v1",
    "diagnostic": "pgzoo run reinforce --env CartPole-v1 --diagnostics my-plugin",
    "env-backend": "pgzoo run reinforce --env CartPole-v1 --backend my-plugin",
    "dynamics": "pgzoo run ppo --env pgzoo_my_plugin.environment:MyPlugin-v0 --backend compiled",
}
RENAMED = {"pyproject-template.toml": "pyproject.toml", "github-workflow.yml": ".github/workflows/test.yml"}
"""Templates with another name than the file that they become, because tools look for files of these names."""

LONGEST = 40
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command(
    short_help="Write a package with a new plugin.",
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},  # --kind env_backend
)
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default="algorithm", show_default=True, help="What the plugin provides."
)
@common.json_option
@common.progress_option
@click.pass_context
def new(ctx: click.Context, name: str, kind: str, as_json: bool) -> None:
    """Write a package with a working plugin into the new folder pgzoo-NAME.

    The package has source files to start from, tests, a README and a workflow for GitHub. Nothing is overwritten.
    """
    catalog = ctx.find_root().obj
    assert isinstance(catalog, PluginCatalog)
    name = name.removeprefix("pgzoo-")
    texts = package(name, kind)
    _check_free(name, kind, catalog)
    folder = Path(f"pgzoo-{name}")
    try:
        folder.mkdir()
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except FileExistsError:
        raise UsageError(f"{folder} exists already, so nothing was written. Choose another name.") from None
    except OSError as error:
        raise StoreError(f"Can't write {folder}: {error.strerror}.") from error
    if as_json:
        common.print_json({"name": name, "kind": kind, "folder": str(folder), "files": list(texts)})
        return
    common.echo("\n".join(f"{folder}/{path}" for path in texts))
    common.echo(f"\nNext      pgzoo plugins install --editable ./{folder}")
    common.echo(f"          {_replaced(USES[kind], _words(name))}")
    common.echo(f"          pgzoo plugins check {name}")
    common.echo(f'          pip install --editable "./{folder}[dev]" && pytest ./{folder}')


def package(name: str, kind: str) -> dict[str, str]:
    """Return the text of every file of a new package, by its path in the package's folder.

    Raises:
        UsageError: the name can't be used.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        lower = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        near = f' Did you mean "{lower}"?' if _NAME.fullmatch(lower) and len(lower) <= LONGEST else ""
        raise UsageError(
            f"The name of a plugin starts with a letter and consists of at most {LONGEST} lowercase letters, digits "
            f"and hyphens; got {name[: 2 * LONGEST]!a}.{near}"
        )
    words = _words(name)
    root = files("pgzoo") / "templates"
    templates = dict(sorted([*_read(root / "common"), *_read(root / KINDS[kind])]))
    own = {words["my_plugin"], words["MyPlugin"], f"{words['MyPlugin']}Config"}
    taken = own & set(re.findall(r"\w+", "".join(text for path, text in templates.items() if path.endswith(".py"))))
    if reserved := sorted(taken) or sorted(filter(keyword.iskeyword, own)):
        raise UsageError(f'A plugin can\'t be named "{name}", because its code needs the word {reserved[0]} itself.')
    return {_replaced(path, words): _replaced(text, words) for path, text in templates.items()}


def _words(name: str) -> dict[str, str]:
    """Return the words of the templates that stand for the name, and what replaces them."""
    class_name = "".join(part.capitalize() for part in name.split("-"))
    return {"my-plugin": name, "my_plugin": name.replace("-", "_"), "MyPlugin": class_name}


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every template in a folder."""
    for item in folder.iterdir():
        if item.name.startswith(".") or item.name == "__pycache__":  # caches of tools
            continue
        if item.is_dir():
            yield from _read(item, f"{prefix}{item.name}/")
        else:
            yield prefix + RENAMED.get(item.name, item.name), item.read_text(encoding="utf-8")


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text


def _check_free(name: str, kind: str, catalog: PluginCatalog) -> None:
    """Raise UsageError if an installed plugin or component has the name."""
    entry = next((entry for entry in catalog.entries(KINDS[kind]) if entry.name == name), None)
    plugin = next((plugin for plugin in catalog.plugins if plugin.name == name), None)
    if entry is not None:
        raise UsageError(
            f'There is already the {kind_label(KINDS[kind])} "{name}", from plugin {entry.plugin}. Choose another name.'
        )
    if plugin is not None:
        raise UsageError(f"There is already a plugin {plugin}. Choose another name.")
