"""What the settings of components are made of: base models, and the fields that several of them share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator

from pgzoo.config.validation import normalize

__all__ = [
    "ActionConfig",
    "ActorCriticConfig",
    "AlgorithmConfig",
    "CGSteps",
    "ClipRange",
    "ComponentConfig",
    "CriticSteps",
    "Damping",
    "EntropyCoef",
    "Epochs",
    "LearningRate",
    "LearningRateSchedule",
    "MaxGradNorm",
    "MinibatchConfig",
    "Minibatches",
    "NormalizeAdvantages",
    "OptimizerEps",
    "OptimizerName",
    "RolloutSteps",
    "SearchConfig",
    "Settings",
    "Static",
    "ValueCoef",
]


class Static:
    """Marks a float setting that Python reads as one number for all members: `Annotated[float, Static, Field(...)]`.

    Every other float of an algorithm or an estimator may differ between members: a loss and an estimator find it as a
    tensor `[S, 1, 1]`, and code that works member by member in `ctx.plan.members[s].config.settings`.
    """


class Settings(BaseModel):
    """Frozen settings. Unknown names, infinite numbers and NaN are refused; `normalize` reads each value first."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _normalize(cls, value: Any, info: ValidationInfo) -> Any:
        return normalize(value, cls.model_fields[info.field_name or ""].annotation)


class ComponentConfig(Settings):
    """Base of the settings of a policy or an estimator."""


class ActionConfig(ComponentConfig):
    """Base of the settings of a policy that ends in one of pgzoo's distributions over actions."""

    distribution: Annotated[
        Literal["auto", "categorical", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta"],
        Field(description="over actions; auto: what fits the space, gaussian for Box"),
    ] = "auto"
    log_std: Annotated[float, Field(description="initial log standard deviation, for Box actions")] = 0.0
    state_std: Annotated[
        bool, Field(description="the standard deviation depends on the state, for gaussian and tanh")
    ] = False
    rescale: Annotated[
        bool, Field(description="gaussian actions in [-1, 1] fill the Box, else they are clipped to it")
    ] = False


LearningRate = Annotated[float, Field(gt=0, description="step size of the optimizer")]
LearningRateSchedule = Annotated[
    Literal["constant", "linear"], Field(description="keep the step size, or anneal it to 0 at the last step")
]
OptimizerName = Annotated[Literal["adam", "rmsprop", "sgd"], Field(description="first-order optimizer")]
OptimizerEps = Annotated[
    float | None, Static, Field(gt=0, description="keeps its denominators from 0; default: adam 1e-8, rmsprop 1e-5")
]
MaxGradNorm = Annotated[
    float | None, Field(gt=0, description="clip each seed's gradient to this norm; none: don't clip")
]
RolloutSteps = Annotated[PositiveInt, Field(description="steps that each environment plays per update")]
Epochs = Annotated[PositiveInt, Field(description="times that an update goes through what was collected")]
Minibatches = Annotated[PositiveInt, Field(description="parts that an epoch goes through it in, a gradient step each")]
NormalizeAdvantages = Annotated[bool, Field(description="shift and scale to mean 0 and deviation 1, per gradient step")]
ValueCoef = Annotated[float, Field(ge=0, description="weight of the critic's loss, half the squared error")]
ClipRange = Annotated[float, Field(gt=0, description="how far the ratio may leave 1 and still gain")]
EntropyCoef = Annotated[float, Field(ge=0, description="weight of an entropy bonus")]
CriticSteps = Annotated[PositiveInt, Field(description="gradient steps of the critic per update, on everything")]
CGSteps = Annotated[PositiveInt, Field(description="steps of the conjugate gradient, a Fisher product each")]
Damping = Annotated[float, Field(ge=0, description="added to the diagonal of the Fisher matrix")]


class SearchConfig(Settings):
    """Base of the settings of an algorithm that takes no gradient steps."""


class AlgorithmConfig(Settings):
    """Base of the settings of an algorithm that learns by gradient: what the engine needs to take a gradient step.

    A default is changed by naming the field again: `learning_rate: LearningRate = 3e-4`.
    """

    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: LearningRateSchedule = "constant"
    optimizer: OptimizerName = "adam"
    optimizer_eps: OptimizerEps = None
    max_grad_norm: MaxGradNorm = None


class ActorCriticConfig(AlgorithmConfig):
    """Base of the settings of an algorithm that collects windows and learns a critic beside the policy."""

    rollout_steps: RolloutSteps = 128
    value_coef: ValueCoef = 0.5
    entropy_coef: EntropyCoef = 0.0
    max_grad_norm: MaxGradNorm = 0.5


class MinibatchConfig(ActorCriticConfig):
    """Base of the settings of an actor-critic that goes through a collection several times, in minibatches."""

    learning_rate_schedule: LearningRateSchedule = "linear"
    epochs: Epochs = 10
    minibatches: Minibatches = 4
    normalize_advantages: NormalizeAdvantages = True
