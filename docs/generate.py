"""Write the text that is made from the code; with --check, fail if it isn't what the code gives.

python docs/generate.py [--check]
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
COMMANDS = [
    "",
    "run",
    "run reinforce",
    "run ppo",
    "resume",
    "repro",
    "evaluate",
    "video",
    "export",
    "compare",
    "ui",
    "sync",
    "algorithms",
    "policies",
    "estimators",
    "presets",
    "plugins",
    "plugins check",
    "envs",
    "doctor",
]


def help_of(command: str) -> str:
    """Return what `pgzoo COMMAND --help` prints at 100 columns, with the built-ins alone."""
    environment = os.environ | {"COLUMNS": "100", "PGZOO_DISABLE_PLUGINS": "pgzoo-example"}
    words = [sys.executable, "-m", "pgzoo", *command.split(), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=DOCS, check=True)
    return done.stdout.rstrip()


def cli() -> str:
    """Return the page of all commands."""
    parts = ["# Commands\n\nMade by `make docs` from the program itself.\n"]
    for command in COMMANDS:
        typed = f"pgzoo {command}".strip()
        parts.append(f"## `{typed}`\n\n```text\n{help_of(command)}\n```\n")
    return "\n".join(parts)


def algorithms() -> str:
    """Return the page of all algorithms: what each is, where it comes from, and its settings."""
    from pgzoo.registry import discover
    from pgzoo.runs.planning import collection_of

    entries = [e for e in discover(inline=False).entries("algorithm") if e.plugin.source == "built-in"]
    rows = [[f"[`{e.name}`](#{e.name})", e.summary, *map(said, e.facts.values())] for e in entries]
    head = ["algorithm", "what it is", "family", "actions", "memory", "seeds", "source"]
    parts = [
        "# Algorithms\n\nMade by `make docs` from the algorithms themselves. Memory: whether a policy may remember;\n"
        "seeds, whether they train together as one computation.\n",
        table(head, rows),
    ]
    for entry in entries:
        target, model = entry.load(), entry.load_config()
        about = inspect.getdoc(target) or ""
        collects = collection_of(target(), model())
        defaults = {"estimator": target.estimator} | dict(target.defaults)
        run = ", ".join(
            f"`{k}: {v if isinstance(v, str) else json.dumps(v, default=list)}`"
            for k, v in defaults.items()
            if k not in model.model_fields
        )
        what = f"rollouts of {collects.count} steps per environment" if hasattr(collects, "count") else "whole episodes"
        parts.append(f"## {entry.name}\n\n```text\n{about}\n```\n\nCollects {what}. Settings of the run: {run}.\n")
        settings = [
            [f"`--{name.replace('_', '-')}`", field.description or "", said(defaults.get(name, field.get_default()))]
            for name, field in model.model_fields.items()
        ]
        if settings:
            parts.append(table(["setting", "what it does", "default"], settings))
    return "\n".join(parts)


def said(value: object) -> str:
    """A value as a reader writes it."""
    return {True: "yes", False: "no", None: "none"}[value] if isinstance(value, bool | None) else str(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def main() -> int:
    """Write or check every generated page."""
    stale = []
    for path, text in {DOCS / "cli.md": cli(), DOCS / "algorithms.md": algorithms()}.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"Not what the code gives: docs/{', docs/'.join(stale)}. Run: make docs", file=sys.stderr)
        return 1
    print(f"docs: {', '.join(stale) + ' written' if stale else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
