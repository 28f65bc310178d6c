"""Registers the built-in return estimators: pure functions of `pgzoo.ops.returns`."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no torch."""
    registry.estimator(
        "reward-to-go",
        "pgzoo.ops.returns:reward_to_go",
        summary="discounted rewards from each step to the end of its episode",
    )
    registry.estimator(
        "total-return",
        "pgzoo.ops.returns:total_return",
        summary="the whole episode's discounted return, at each of its steps",
    )
    registry.estimator(
        "notebook",
        "pgzoo.ops.returns:notebook",
        summary="(reward + t) read backwards, discounted and divided by its maximum",
    )
    registry.estimator(
        "leave-one-out",
        "pgzoo.ops.returns:leave_one_out",
        summary="an episode's return less the mean of the others' (Kool et al. 2019)",
    )
    registry.estimator(
        "n-step",
        "pgzoo.ops.returns:n_step",
        config="pgzoo.estimators.settings:NStepConfig",
        summary="rewards of n steps, then the critic",
    )
    registry.estimator(
        "td-lambda",
        "pgzoo.ops.returns:td_lambda",
        config="pgzoo.estimators.settings:TDLambdaConfig",
        summary="lambda-return: n-step returns of all n, weighted geometrically",
    )
    registry.estimator(
        "gae",
        "pgzoo.ops.returns:gae",
        config="pgzoo.estimators.settings:GAEConfig",
        summary="generalized advantage estimation (Schulman et al. 2016)",
    )
    registry.estimator(
        "v-trace",
        "pgzoo.ops.returns:v_trace",
        config="pgzoo.estimators.settings:VTraceConfig",
        summary="lambda-return, corrected for another policy's steps (Espeholt et al. 2018)",
    )
    registry.estimator(
        "upgo",
        "pgzoo.ops.returns:upgo",
        config="pgzoo.estimators.settings:UPGOConfig",
        summary="rewards while they beat the critic, then the critic (Vinyals et al. 2019)",
    )
