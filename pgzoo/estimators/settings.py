"""Settings of the return estimators."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pgzoo.config import ComponentConfig

Lambda = Annotated[
    float, Field(ge=0, le=1, description="weight of long returns; 0: bootstrap after each step, 1: only rewards")
]


class NStepConfig(ComponentConfig):
    """Settings of `n-step`."""

    n: Annotated[PositiveInt, Field(description="number of rewards before the critic's value")] = 5


class TDLambdaConfig(ComponentConfig):
    """Settings of `td-lambda`."""

    lam: Lambda = 0.95


class GAEConfig(ComponentConfig):
    """Settings of `gae`."""

    lam: Lambda = 0.95


class VTraceConfig(ComponentConfig):
    """Settings of `v-trace`."""

    lam: Lambda = 1.0
    rho_bar: Annotated[
        float, Field(gt=0, description="upper bound of the importance weights of TD errors and advantages")
    ] = 1.0
    c_bar: Annotated[
        float, Field(gt=0, description="upper bound of the importance weights along the sum of TD errors")
    ] = 1.0


class UPGOConfig(ComponentConfig):
    """Settings of `upgo`."""

    lam: Annotated[
        float, Field(ge=0, le=1, description="lambda of the critic's target, which is the lambda-return")
    ] = 0.8
