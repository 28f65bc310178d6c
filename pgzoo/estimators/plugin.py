"""Registers the built-in return estimators: pure functions of `pgzoo.ops.returns`."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl

ESTIMATORS = (
    # name, function, config, summary
    ("reward-to-go", "reward_to_go", None, "discounted rewards from each step to the end of its episode"),
    ("total-return", "total_return", None, "the whole episode's discounted return, at each of its steps"),
    ("notebook", "notebook", None, "(reward + t) read backwards, discounted and divided by its maximum"),
    ("leave-one-out", "leave_one_out", None, "return minus the mean of the other episodes' (Kool et al. 2019)"),
    ("n-step", "n_step", "NStepConfig", "rewards of n steps, then the critic's value"),
    ("td-lambda", "td_lambda", "TDLambdaConfig", "lambda-return: n-step returns of all n, weighted geometrically"),
    ("gae", "gae", "GAEConfig", "generalized advantage estimation (Schulman et al. 2016)"),
    (
        "v-trace",
        "v_trace",
        "VTraceConfig",
        "lambda-return, corrected for another policy's steps (Espeholt et al. 2018)",
    ),
    ("upgo", "upgo", "UPGOConfig", "rewards while they exceed the critic's value, then that (Vinyals et al. 2019)"),
)


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing the estimators doesn't import torch."""
    for name, function, config, summary in ESTIMATORS:
        config = config and f"pgzoo.estimators.settings:{config}"
        registry.estimator(name, f"pgzoo.ops.returns:{function}", config=config, summary=summary)
