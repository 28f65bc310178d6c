"""Metadata of a run: versions, plugins, command and git commit."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from pgzoo.registry.changes import plugin_tags
from pgzoo.registry.files import file_of
from pgzoo.training.plan import Plan

if TYPE_CHECKING:
    from pgzoo.registry import PluginCatalog

__all__ = ["MEMBERS", "sources", "tags", "versions"]

MEMBERS = "pgzoo.members"
"""The tag with the number of members that a process trains together: compiled, one alone differs in the last bits."""


def versions() -> dict[str, str]:
    """Return the versions of the distributions that affect the results of a run."""
    return {name: version(name) for name in ("pgzoo", "torch", "gymnasium", "numpy")}


def sources(catalog: PluginCatalog) -> dict[str, bytes]:
    """Return the files that the user imported by path and the inline plugin, by name, with the content that was run."""
    modules = (catalog.objects.get(plugin.name) for plugin in catalog.plugins if plugin.source in ("import", "inline"))
    files = (file_of(module) for module in modules)
    return {path.name: content for path, content in filter(None, files)}


def tags(plan: Plan, catalog: PluginCatalog, command: str) -> dict[str, str]:
    """Return the MLflow tags with the versions, plugins, command and git commit of the runs."""
    found = {
        "mlflow.source.name": command or f"pgzoo run {plan.config.algorithm}",
        "mlflow.source.type": "LOCAL",
        "pgzoo.version": version("pgzoo"),
        "torch.version": version("torch"),
        "gymnasium.version": version("gymnasium"),
        "cpu.threads": str(plan.config.threads),
        MEMBERS: str(len(plan.members)),
        **({"gpu": torch.cuda.get_device_name()} if plan.config.device == "cuda" else {}),
        **plugin_tags(catalog),
        **({"pgzoo.init_from": plan.config.init_from} if plan.config.init_from else {}),
        **plan.config.tags,
    }
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        if git.returncode == 0:
            found["mlflow.source.git.commit"] = git.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass  # git is missing or hangs
    return found
