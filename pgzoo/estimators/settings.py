"""Settings of the estimators that have some."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pgzoo.config import ComponentConfig


class NStepConfig(ComponentConfig):
    """Settings of `n-step`."""

    n: Annotated[PositiveInt, Field(description="rewards before the critic takes over")] = 5


class TDLambdaConfig(ComponentConfig):
    """Settings of `td-lambda`."""

    lam: Annotated[float, Field(ge=0, le=1, description="0 trusts the critic, 1 the rewards")] = 0.95


class GAEConfig(ComponentConfig):
    """Settings of `gae`."""

    lam: Annotated[float, Field(ge=0, le=1, description="0 trusts the critic, 1 the rewards")] = 0.95


class VTraceConfig(ComponentConfig):
    """Settings of `v-trace`."""

    lam: Annotated[float, Field(ge=0, le=1, description="0 trusts the critic, 1 the rewards")] = 1.0
    rho_bar: Annotated[float, Field(gt=0, description="clip importance weights of TD errors and advantages here")] = 1.0
    c_bar: Annotated[float, Field(gt=0, description="clip importance weights along the chain of TD errors here")] = 1.0


class UPGOConfig(ComponentConfig):
    """Settings of `upgo`."""

    lam: Annotated[
        float, Field(ge=0, le=1, description="of the critic's target: 0 trusts the critic, 1 the rewards")
    ] = 0.8
