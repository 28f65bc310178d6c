"""Names of commands and options in other programs, and what they are called here; settings: `config.aliases`."""

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

PLAYING: dict[str, str] = {
    "greedy": "--deterministic",
    "det": "--deterministic",
    "argmax": "--deterministic",
    "mode": "--deterministic or --stochastic",
    "eval-deterministic": "--deterministic",
    "sample": "--stochastic",
    "sampled": "--stochastic",
    "eval-episodes": "--episodes",
    "n-episodes": "--episodes",
    "num-episodes": "--episodes",
    "n-eval-episodes": "--episodes",
    "total-episodes": "--episodes",
    "max-episode-steps": "--max-steps",
    "eval-max-steps": "--max-steps",
    "n-timesteps": "--max-steps",
    "output": "--out",
}
"""Options, without their hyphens, of commands that play with a trained policy -> pgzoo's name for the same thing."""

GREEDY = ("greedy", "det", "deterministic", "eval-deterministic")
"""Options that ask a command which doesn't play for greedy actions."""

_BOTH = (
    "The final policy is evaluated with sampled and with greedy actions. Again: pgzoo evaluate RUN_ID --deterministic"
)
GREEDY_HINTS = {"run": _BOTH, "sweep": _BOTH, "compare": "Did you mean --metric eval/greedy_return_mean?"}
"""Commands -> where they have the results with greedy actions."""


def option_hint(option: str, known: Iterable[str], command: str) -> str:
    """Return a hint which option of `command` replaces an unknown one; empty if the tables have no such option.

    `known` are the options that the command has, with their hyphens; `command` is, for example, "pgzoo run ppo".
    """
    from pgzoo.config.aliases import OPTIONS, REMARKS  # imports pydantic

    typed = option.removeprefix("--").removeprefix("no-").replace("_", "-").lower()
    name, remark, verb = f"--{typed}", "", "".join(command.split()[1:2])
    if name not in known and (played := PLAYING.get(typed, "")).partition(" ")[0] in known:
        return f"Did you mean {played}?"
    if typed in GREEDY and verb in GREEDY_HINTS:
        return GREEDY_HINTS[verb]
    if name not in known:
        if typed not in OPTIONS:
            return ""
        name, remark = f"--{OPTIONS[typed]}", f" ({REMARKS[typed]})" if typed in REMARKS else ""
    if name not in known:
        trains = verb in ("run", "sweep")
        return f"The equivalent option is {name}{remark}, but {command} doesn't have it." if trains else ""
    return f"Did you mean {name}{remark}?"


def command_hint(name: str) -> str:
    """Return which command does what another program calls `name`; empty if the table has no such command."""
    return COMMANDS.get(name.lower(), "")
