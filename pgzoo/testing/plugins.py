"""What a plugin keeps to as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from pgzoo.config import Layer
from pgzoo.registry import KINDS, Entry
from pgzoo.registry.manager import HEAVY
from pgzoo.runs.runner import compose
from pgzoo.testing.subject import Check, NotApplicable, Subject, called

__all__ = ["CHECKS"]

LOOK = """
import sys
from importlib import import_module
from pgzoo.registry import PluginInfo, Registry
module, source = sys.argv[1:]
register = getattr(import_module(module), "pgzoo_register", None)
if register:
    register(registry=Registry(PluginInfo("check", source, module)))
print(*sys.modules)
"""


def registers(subject: Subject) -> None:
    """It is found and registers without an error."""
    subject.expect(
        subject.plugin.status == "ok",
        f"is {subject.plugin.status}" + (f": {subject.plugin.error}" if subject.plugin.error else ""),
        "See: pgzoo plugins",
    )


def light(subject: Subject) -> None:
    """Registering imports nothing that makes every command slow."""
    if subject.plugin.source == "inline" or subject.plugin.module.endswith(".py"):
        raise NotApplicable("it is one file, read when it is asked for")
    words = [sys.executable, "-c", LOOK, subject.plugin.module.partition(":")[0], subject.plugin.source]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    subject.expect(not done.returncode, f"can't be registered by itself: {last}", "See: pgzoo doctor")
    heavy = sorted(set(HEAVY) & set(done.stdout.split()))
    subject.expect(
        not heavy,
        f"imports {', '.join(heavy)} when it registers",
        'Register by strings, "pkg.module:attr", in a module that imports nothing else.',
    )


def resolves(subject: Subject) -> None:
    """Every component, and every model of settings, can be imported."""
    for entry in _entries(subject):
        with subject.doing(f'to give {entry.kind} "{entry.name}"', "Mend the name that it is registered under."):
            entry.load()
            entry.load_config()


def summaries(subject: Subject) -> None:
    """Every component has a summary for the listings."""
    silent = [entry.name for entry in _entries(subject) if not entry.summary]
    subject.expect(
        not silent, f"gives no summary of {', '.join(silent)}", 'Register with summary="...", or write a docstring.'
    )


def presets(subject: Subject) -> None:
    """Every preset is a valid configuration."""
    found = [entry for entry in _entries(subject) if entry.kind == "preset"]
    if not found:
        raise NotApplicable("it has no presets")
    for entry in found:
        given = {"algorithm": entry.target.algorithm, "env": entry.target.env or "CartPole-v1"}
        with subject.doing(f'on preset "{entry.name}"', "Mend its settings."):
            compose(Layer(given, ".".join), subject.catalog, preset=entry.name)


CHECKS: Mapping[str, Check] = called((registers, light, resolves, summaries, presets))


def _entries(subject: Subject) -> list[Entry]:
    catalog, name = subject.catalog, subject.plugin.name
    return [entry for kind in KINDS for entry in catalog.entries(kind) if entry.plugin.name == name]
