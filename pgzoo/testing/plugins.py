"""The checks of a plugin itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from pgzoo.config import Layer
from pgzoo.registry import KINDS, Entry
from pgzoo.registry.manager import HEAVY
from pgzoo.runs.resolve import compose
from pgzoo.testing.target import Check, CheckTarget, NotApplicable, checks_by_name

__all__ = ["CHECKS"]

IMPORTED_MODULES = """
import sys
from importlib import import_module
from pgzoo.registry import PluginInfo, Registry
module, source = sys.argv[1:]
register = getattr(import_module(module), "pgzoo_register", None)
if register:
    register(registry=Registry(PluginInfo("check", source, module)))
print(*sys.modules)
"""


def registers(target: CheckTarget) -> None:
    """It is discovered and registers without an error."""
    target.expect(
        target.plugin.status == "ok",
        f"is {target.plugin.status}" + (f": {target.plugin.error.removesuffix('.')}" if target.plugin.error else ""),
        "See: pgzoo plugins",
    )


def light(target: CheckTarget) -> None:
    """Registering imports no slow package, which would slow down every command."""
    if target.plugin.source == "inline" or target.plugin.module.endswith(".py"):
        raise NotApplicable("it is a single file, which is read only by commands that name it")
    words = [sys.executable, "-c", IMPORTED_MODULES, target.plugin.module.partition(":")[0], target.plugin.source]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    target.expect(not done.returncode, f"can't be registered by itself: {last}", "See: pgzoo doctor")
    heavy = sorted(set(HEAVY) & set(done.stdout.split()))
    target.expect(
        not heavy,
        f"imports {', '.join(heavy)} when it registers",
        'Register by strings, "pkg.module:attr", in a module that imports nothing else.',
    )


def resolves(target: CheckTarget) -> None:
    """Every component and every settings model can be imported."""
    for entry in _entries(target):
        with target.errors_fail_check(
            f'to import {entry.kind} "{entry.name}"', "Correct the dotted name that it is registered with."
        ):
            entry.load()
            entry.load_config()


def summaries(target: CheckTarget) -> None:
    """Every component has a summary for the listings."""
    silent = [entry.name for entry in _entries(target) if not entry.summary]
    target.expect(
        not silent, f"has no summary for {', '.join(silent)}", 'Register with summary="...", or write a docstring.'
    )


def presets(target: CheckTarget) -> None:
    """Every preset is a valid configuration."""
    found = [entry for entry in _entries(target) if entry.kind == "preset"]
    if not found:
        raise NotApplicable("it has no presets")
    for entry in found:
        given = {"algorithm": entry.target.algorithm, "env": entry.target.env or "CartPole-v1"}
        with target.errors_fail_check(f'on preset "{entry.name}"', "Correct its settings."):
            compose(Layer(given, ".".join), target.catalog, preset=entry.name)


CHECKS: Mapping[str, Check] = checks_by_name((registers, light, resolves, summaries, presets))


def _entries(target: CheckTarget) -> list[Entry]:
    catalog, name = target.catalog, target.plugin.name
    return [entry for kind in KINDS for entry in catalog.entries(kind) if entry.plugin.name == name]
