"""Commands and options of SB3, CleanRL and RL Zoo, and what they are called here; settings: `config.aliases`."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["COMMANDS", "command_hint", "option_hint"]

COMMANDS: dict[str, str] = {
    "train": "pgzoo run ALGO --env ID",
    "learn": "pgzoo run ALGO --env ID",
    "start": "pgzoo run ALGO --env ID",
    "enjoy": "pgzoo video RUN_ID (watch a policy) or pgzoo evaluate RUN_ID (measure it)",
    "play": "pgzoo video RUN_ID (watch a policy) or pgzoo evaluate RUN_ID (measure it)",
    "record": "pgzoo video RUN_ID",
    "eval": "pgzoo evaluate RUN_ID",
    "test": "pgzoo evaluate RUN_ID",
    "plot": "pgzoo compare RUN_ID ... --out FILE.html, or pgzoo ui",
    "plot-train": "pgzoo compare RUN_ID ... --out FILE.html, or pgzoo ui",
    "dashboard": "pgzoo ui",
    "mlflow": "pgzoo ui",
    "tensorboard": "pgzoo ui",
    "history": "pgzoo runs",
    "list": "pgzoo algorithms, policies, estimators, presets, plugins, envs or runs",
    "ls": "pgzoo algorithms, policies, estimators, presets, plugins, envs or runs",
    "environments": "pgzoo envs",
    "continue": "pgzoo resume RUN_ID",
    "restart": "pgzoo resume RUN_ID",
    "reproduce": "pgzoo repro RUN_ID",
    "save": "pgzoo export RUN_ID --to DIR",
    "optimize": "pgzoo sweep ALGO --env ID --search KEY=A,B,...",
    "help": "pgzoo --help",
    "version": "pgzoo --version",
}
"""Commands of other programs -> the command that does it here."""


def option_hint(option: str, known: Iterable[str], command: str) -> str:
    """Return a hint which option of `command` replaces an unknown one; empty if the table has no such option.

    `known` are the options that the command has, with their hyphens.
    """
    from pgzoo.config.aliases import OPTIONS, REMARKS  # imports pydantic

    typed = option.removeprefix("--").removeprefix("no-").replace("_", "-").lower()
    name = f"--{typed}"
    remark = ""
    if name not in known:
        if typed not in OPTIONS:
            return ""
        name, remark = f"--{OPTIONS[typed]}", f" ({REMARKS[typed]})" if typed in REMARKS else ""
    if name not in known:
        return f"The equivalent option is {name}{remark}, but {command} doesn't have it."
    return f"Did you mean {name}{remark}?"


def command_hint(name: str) -> str:
    """Return which command does what another program calls `name`; empty if the table has no such command."""
    return COMMANDS.get(name.lower(), "")
