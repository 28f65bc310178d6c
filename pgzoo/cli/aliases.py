"""Tables of the options and commands of SB3, CleanRL and RL Zoo, and pgzoo's equivalents."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["COMMANDS", "OPTIONS", "command_hint", "option_hint"]

OPTIONS: dict[str, str] = {
    # the optimizer
    "lr": "learning-rate",
    "step-size": "learning-rate",
    "anneal-lr": "learning-rate-schedule",
    "lr-schedule": "learning-rate-schedule",
    "max-gradient-norm": "max-grad-norm",
    "grad-clip": "max-grad-norm",
    "clip-grad": "max-grad-norm",
    # how much is collected
    "n-timesteps": "total-steps",
    "timesteps": "total-steps",
    "total-timesteps": "total-steps",
    "num-timesteps": "total-steps",
    "steps": "total-steps",
    "max-steps": "total-steps",
    "episodes": "total-episodes",
    "n-episodes": "total-episodes",
    "num-episodes": "total-episodes",
    "n-envs": "num-envs",
    "envs": "num-envs",
    "n-steps": "rollout-steps",
    "num-steps": "rollout-steps",
    "horizon": "rollout-steps",
    "max-episode-length": "max-episode-steps",
    # the update
    "n-epochs": "epochs",
    "num-epochs": "epochs",
    "update-epochs": "epochs",
    "num-minibatches": "minibatches",
    "n-minibatches": "minibatches",
    "batch-size": "minibatches",
    "minibatch-size": "minibatches",
    "clip-coef": "clip-range",
    "clip-ratio": "clip-range",
    "clip-eps": "clip-range",
    "clip-vloss": "clip-value",
    "clip-range-vf": "clip-value",
    "ent-coef": "entropy-coef",
    "entropy-coefficient": "entropy-coef",
    "vf-coef": "value-coef",
    "value-loss-coef": "value-coef",
    "norm-adv": "normalize-advantages",
    "normalize-advantage": "normalize-advantages",
    "target-kl-div": "target-kl",
    # the estimator and the policy
    "discount": "gamma",
    "gae-lambda": "estimator.lam",
    "lam": "estimator.lam",
    "lambda": "estimator.lam",
    "net-arch": "policy.hidden",
    "hidden": "policy.hidden",
    "hidden-sizes": "policy.hidden",
    "activation": "policy.activation",
    "activation-fn": "policy.activation",
    "normalize": "normalize-obs",
    "norm-obs": "normalize-obs",
    "norm-reward": "normalize-reward",
    # the run
    "env-id": "env",
    "environment": "env",
    "env-kwargs": "env-kwarg",
    "vec-env": "backend",
    "random-seed": "seed",
    "n-seeds": "seeds",
    "num-seeds": "seeds",
    "num-threads": "threads",
    "cuda": "device",
    "gpu": "device",
    "eval-freq": "eval-every",
    "n-eval-episodes": "eval-episodes",
    "save-freq": "checkpoint-every",
    "log-interval": "log-every",
    "exp-name": "name",
    "run-name": "name",
    "experiment-name": "experiment",
    "track": "tracking-uri",
    "capture-video": "video",
    "conf-file": "config",
    "conf": "config",
    "hyperparams": "config",
}
"""Options without their hyphens -> pgzoo's name for the same thing, or the nearest to it."""

REMARKS = {
    "batch-size": "pgzoo sets the number of minibatches, not their size",
    "minibatch-size": "pgzoo sets the number of minibatches, not their size",
    "cuda": "takes cpu or cuda",
    "gpu": "takes cpu or cuda",
    "vec-env": "takes sync, async or native",
    "anneal-lr": "takes constant or linear",
}

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
    "runs": "pgzoo ui",
    "dashboard": "pgzoo ui",
    "mlflow": "pgzoo ui",
    "tensorboard": "pgzoo ui",
    "list": "pgzoo algorithms, policies, estimators, presets, plugins or envs",
    "ls": "pgzoo algorithms, policies, estimators, presets, plugins or envs",
    "environments": "pgzoo envs",
    "continue": "pgzoo resume RUN_ID",
    "restart": "pgzoo resume RUN_ID",
    "reproduce": "pgzoo repro RUN_ID",
    "save": "pgzoo export RUN_ID --to DIR",
    "sweep": "pgzoo run ALGO --env ID --sweep-axis KEY=A,B,...",
    "optimize": "pgzoo run ALGO --env ID --sweep-axis KEY=A,B,...",
    "help": "pgzoo --help",
    "version": "pgzoo --version",
}
"""Commands of other programs -> the command that does it here."""


def option_hint(option: str, known: Iterable[str], command: str) -> str:
    """Return a hint for an unknown option; empty if the table has no such option.

    `known` are the options that the command has, with their hyphens.
    """
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
