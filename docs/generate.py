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
from typing import Any

import numpy as np

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


REFUSALS = {
    "windows": "needs whole episodes",
    "no gradient": "takes no gradient steps",
    "no parameters": "policy",
}
"""What a cell of the page of pairs says for a refusal with these words."""

PAIRS = """# Which pairs train

Made by `make docs`, which starts a run of each pair.

## Algorithms and return estimators

- *trains*: the algorithm learns from what the estimator gives.
- *trains, critic added*: the estimator requires the values of a critic, and the algorithm learns none by itself: the
  engine adds one ([estimators](estimators.md#a-critic-where-the-algorithm-has-none)).
- *not used*: the run starts; the algorithm looks at whole episode returns (or at none) and never asks the estimator.
- *no: windows*: refused, because the estimator needs whole episodes and the algorithm collects windows of steps.
- *no: no gradient*: refused, because the estimator requires a critic and the algorithm takes no gradient steps to
  train one.
"""

POLICY_PAIRS = """## Algorithms and policies

- *trains*: the algorithm learns the policy.
- *plays only*: the run starts, but the policy has no parameters or the algorithm doesn't learn.
- *no: no parameters*: refused, because the algorithm needs a critic or parameters, and the policy has none.

`tabular` fits Discrete observations only. Which actions an algorithm takes is said in [algorithms](algorithms.md).
"""


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
        collects = target.collect if not callable(target.collect) else target().collect(model())
        defaults = {"estimator": target.estimator} | dict(target.defaults)
        run = ", ".join(
            f"`{k}: {v if isinstance(v, str) else json.dumps(v, default=list)}`"
            for k, v in defaults.items()
            if k not in model.model_fields
        )
        what = f"windows of {collects.count} steps" if hasattr(collects, "count") else "whole episodes"
        parts.append(f"## {entry.name}\n\n```text\n{about}\n```\n\nCollects {what}. Settings of the run: {run}.\n")
        settings = [
            [f"`--{name.replace('_', '-')}`", field.description or "", said(defaults.get(name, field.get_default()))]
            for name, field in model.model_fields.items()
        ]
        if settings:
            parts.append(table(["setting", "what it does", "default"], settings))
    return "\n".join(parts)


def pairs() -> str:
    """Return the page of pairs: which algorithms train with which estimators and policies, and why the others don't."""
    from pgzoo.registry import discover

    catalog = discover(inline=False)

    def rows(kind: str) -> tuple[list[str], list[list[str]]]:
        others = [e.name for e in catalog.entries(kind) if e.plugin.source == "built-in"]
        names = [e.name for e in catalog.entries("algorithm") if e.plugin.source == "built-in"]
        return ["algorithm", *(f"`{other}`" for other in others)], [
            [f"`{name}`", *(pair(catalog, name, kind, other) for other in others)] for name in names
        ]

    return "\n".join([PAIRS, table(*rows("estimator")), POLICY_PAIRS, table(*rows("policy"))])


def pair(catalog: Any, algorithm: str, kind: str, other: str) -> str:
    """Return what comes of an algorithm with an estimator or a policy: start a run, which checks that all fits."""
    from pgzoo.config import AlgorithmConfig, Layer
    from pgzoo.errors import UnfitError
    from pgzoo.runs.resolve import resolve
    from pgzoo.runs.runner import make_plan
    from pgzoo.testing import probes
    from pgzoo.training.loop import train

    assert "pgzoo/AnySpaces-v0" in probes.PROBES
    action = "one" if "box" in str(catalog.get("algorithm", algorithm).facts["actions"]).lower() else "discrete"
    world = {"env": "pgzoo/AnySpaces-v0", "env_kwargs": {"observation": "discrete", "action": action}}
    config = resolve([Layer({"algorithm": algorithm, kind: other, **world, "total_steps": 1}, ".".join)], catalog)
    try:
        plan = make_plan(config, catalog)
        run = train(plan)
        next(run)
        run.close()
    except UnfitError as refusal:
        return next(f"no: {cell}" for cell, words in REFUSALS.items() if words in str(refusal))
    if kind == "estimator" and not isinstance(config.settings, AlgorithmConfig):
        return "not used"
    learns = getattr(plan.algorithm, "learns", True) and plan.policy.init(np.random.default_rng(0))
    if kind == "policy" and not learns:
        return "plays only"
    return "trains, critic added" if plan.added_critic else "trains"


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
    for path, text in {
        DOCS / "cli.md": cli(),
        DOCS / "algorithms.md": algorithms(),
        DOCS / "pairs.md": pairs(),
    }.items():
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
