"""Registers the built-in commands by the same hook that plugins use."""

from __future__ import annotations

from pgzoo.markers import hookimpl
from pgzoo.registry import Registry


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the commands that come with pgzoo, in the order of `pgzoo --help`."""
    command = registry.command
    command("run", "pgzoo.cli.run:command", summary="Train an algorithm on an environment.")
    command("sweep", "pgzoo.cli.sweep:command", summary="Search for good hyperparameters, with Optuna.")
    command(
        "resume", "pgzoo.cli.resume:command", summary="Continue a run that was interrupted, or train it for longer."
    )
    command("compile", "pgzoo.cli.compile:command", summary="Compile ahead of time what a run needs.")
    command("repro", "pgzoo.cli.repro:command", summary="Repeat a run and report the first difference.")
    command("evaluate", "pgzoo.cli.evaluate:command", summary="Play episodes with the policy of a run.")
    command("video", "pgzoo.cli.video:command", summary="Record episodes with the policy of a run.")
    command("compare", "pgzoo.cli.compare:command", summary="Compare runs, with seeds as the unit of replication.")
    command("runs", "pgzoo.cli.runs:command", summary="List runs, newest first, or delete runs.")
    command("export", "pgzoo.cli.export:command", summary="Export the policy of a run: safetensors, ONNX, MLflow.")
    command("ui", "pgzoo.cli.ui:command", summary="Open the runs in MLflow's web interface.")
    command("sync", "pgzoo.cli.sync:command", summary="Send MLflow what it hasn't received yet.")
    command("algorithms", "pgzoo.cli.listing:algorithms", summary="List the algorithms, or show one.")
    command("policies", "pgzoo.cli.listing:policies", summary="List the policies, or show one.")
    command("estimators", "pgzoo.cli.listing:estimators", summary="List the return estimators, or show one.")
    command("diagnostics", "pgzoo.cli.listing:diagnostics", summary="List the diagnostics, or show one.")
    command("presets", "pgzoo.cli.presets:command", summary="List presets, or show the settings of one.")
    command("plugins", "pgzoo.cli.plugins:command", summary="List, check, write, install or uninstall plugins.")
    command("envs", "pgzoo.cli.envs:command", summary="List environments, or describe one and try it.")
    command("doctor", "pgzoo.cli.doctor:command", summary="Check the installation, the plugins and the store.")
