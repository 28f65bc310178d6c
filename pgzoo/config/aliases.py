"""Names of settings in SB3, CleanRL and RL Zoo, and pgzoo's name for each."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["OPTIONS", "REMARKS", "setting_hint"]

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
    "log-std-init": "policy.log-std",
    "use-sde": "policy.sde",
    "sde-sample-freq": "policy.sde-sample-freq",
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
    "batch-size": "the number of minibatches, not their size",
    "minibatch-size": "the number of minibatches, not their size",
    "cuda": "cpu or cuda",
    "gpu": "cpu or cuda",
    "vec-env": "sync, async, native or compiled",
    "anneal-lr": "constant or linear",
}

SETTINGS = {"env-kwarg": "env_kwargs"}
"""Names of settings in YAML and Python that differ from the option by more than hyphens."""


def setting_hint(key: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" for an unknown setting in YAML or Python; empty if the table has no such name.

    `known` are the settings that there are. Settings of the policy and the estimator are not among them.
    """
    typed = key.replace("_", "-").lower()
    if typed not in OPTIONS:
        return ""
    name = SETTINGS.get(OPTIONS[typed], OPTIONS[typed].replace("-", "_"))
    if "." not in name and name not in known:
        return ""
    remark = f" ({REMARKS[typed]})" if typed in REMARKS else ""
    component, dot, part = name.partition(".")
    if dot:
        return f' Did you mean "{part}" of the {component}: {component}={{"name": ..., "{part}": ...}}?{remark}'
    return f' Did you mean "{name}"?{remark}'
