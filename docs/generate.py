"""Write the text that is made from the code; with --check, fail if it isn't what the code gives.

python docs/generate.py [--check]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
COMMANDS = [
    "",
    "run",
    "run reinforce",
    "evaluate",
    "compare",
    "ui",
    "sync",
    "algorithms",
    "policies",
    "estimators",
    "presets",
    "plugins",
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


def main() -> int:
    """Write or check every generated page."""
    stale = []
    for path, text in {DOCS / "cli.md": cli()}.items():
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
