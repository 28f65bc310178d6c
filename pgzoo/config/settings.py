"""Base models of the settings of components, and the fields that several components share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator

from pgzoo.config.validation import normalize

__all__ = [
    "ActionConfig",
    "ActorCriticConfig",
    "AlgorithmConfig",
    "CGSteps",
    "ClipRange",
    "ComponentConfig",
    "CriticHidden",
    "CriticLearningRate",
    "CriticSteps",
    "Damping",
    "EntropyCoef",
    "Epochs",
    "GammaT",
    "LearningRate",
    "LearningRateSchedule",
    "MaxGradNorm",
    "MinibatchConfig",
    "Minibatches",
    "NormalizeAdvantages",
    "OptimizerEps",
    "OptimizerName",
    "RolloutSteps",
    "SDEConfig",
    "SearchConfig",
    "Settings",
    "Static",
    "ValueCoef",
]


class Static:
    """Marks a float setting that must be the same for all members: `Annotated[float, Static, Field(...)]`.

    Every other float of an algorithm or an estimator may differ between the members of a sweep. Losses and estimators
    get it as a tensor `[S, 1, 1]`; code that works on one member at a time reads `ctx.members[s].config.settings`.
    """


class Settings(BaseModel):
    """Base of all settings: immutable, unknown names are errors, and numbers are finite.

    Each value is first read by `normalize`, so that the command line, YAML and Python take the same forms. `renamed`
    maps former names of settings to the current ones. A former name is accepted wherever settings are given, with a
    warning. Remove the entry one release after the renaming.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    renamed: ClassVar[Mapping[str, str]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _normalize(cls, value: Any, info: ValidationInfo) -> Any:
        return normalize(value, cls.model_fields[info.field_name or ""].annotation)


class ComponentConfig(Settings):
    """Base of the settings of a policy or an estimator."""


class ActionConfig(ComponentConfig):
    """Base of the settings of a policy that ends in one of pgzoo's distributions over actions."""

    distribution: Annotated[
        Literal["auto", "categorical", "epsilon-greedy", "multi-categorical", "bernoulli", "gaussian", "tanh", "beta"],
        Field(
            description="distribution over actions; auto: the one that fits the action space (gaussian for Box) and "
            "the algorithm; epsilon-greedy: the outputs of the network are action values"
        ),
    ] = "auto"
    log_std: Annotated[float, Field(description="initial log standard deviation, for Box actions")] = 0.0
    state_std: Annotated[
        bool,
        Field(description="compute the standard deviation from the observation, for gaussian and tanh"),
    ] = False
    rescale: Annotated[
        bool, Field(description="map gaussian actions in [-1, 1] onto the Box; otherwise they are only clipped to it")
    ] = False


class SDEConfig(ActionConfig):
    """Base of the settings of a policy that supports generalized state-dependent exploration (gSDE)."""

    sde: Annotated[
        bool,
        Field(
            description="generalized state-dependent exploration (gSDE), for gaussian and tanh: the noise of an action "
            "is a linear function of the policy's features, by a random matrix that is kept for several steps"
        ),
    ] = False
    sde_sample_freq: Annotated[
        PositiveInt | None,
        Field(
            description="number of steps for which gSDE keeps a noise matrix; none: a new one only at the start "
            "of each rollout"
        ),
    ] = 4


LearningRate = Annotated[float, Field(gt=0, description="learning rate")]
CriticLearningRate = Annotated[float, Field(gt=0, description="learning rate of the critic")]
LearningRateSchedule = Annotated[
    Literal["constant", "linear"], Field(description="keep the learning rate, or anneal it linearly to 0")
]
OptimizerName = Annotated[Literal["adam", "rmsprop", "sgd"], Field(description="optimizer")]
OptimizerEps = Annotated[
    float | None,
    Static,
    Field(gt=0, description="epsilon in the optimizer's denominator; default: 1e-8 for adam, 1e-5 for rmsprop"),
]
MaxGradNorm = Annotated[float | None, Field(gt=0, description="maximum gradient norm (per seed); none: no clipping")]
RolloutSteps = Annotated[PositiveInt, Field(description="steps per environment and update")]
Epochs = Annotated[PositiveInt, Field(description="number of passes over each rollout")]
Minibatches = Annotated[PositiveInt, Field(description="number of minibatches per epoch")]
NormalizeAdvantages = Annotated[
    bool, Field(description="standardize advantages in each minibatch: mean 0, standard deviation 1")
]
ValueCoef = Annotated[float, Field(ge=0, description="weight of the value loss, half the mean squared error")]
ClipRange = Annotated[
    float, Field(gt=0, description="clip range of the probability ratio: 1 - clip_range to 1 + clip_range")
]
EntropyCoef = Annotated[float, Field(ge=0, description="weight of the entropy bonus")]
GammaT = Annotated[
    bool, Field(description="weight step t by gamma^t, as the gradient of the discounted return requires")
]
CriticHidden = Annotated[
    tuple[PositiveInt, ...], Field(description="sizes of the hidden layers of the algorithm's own network")
]
CriticSteps = Annotated[PositiveInt, Field(description="gradient steps of the critic per update, on the whole rollout")]
CGSteps = Annotated[PositiveInt, Field(description="conjugate gradient iterations, one Fisher-vector product each")]
Damping = Annotated[float, Field(ge=0, description="multiple of the identity added to the Fisher matrix")]


class SearchConfig(Settings):
    """Base of the settings of an algorithm that takes no gradient steps and ranks or weights the returns of episodes.

    What would have no effect on such an algorithm is refused: `gamma`, `estimator`, `normalize_reward`, `compile`.
    """


class AlgorithmConfig(Settings):
    """Base of the settings of an algorithm that takes gradient steps.

    To change a default, declare the field again: `learning_rate: LearningRate = 3e-4`.
    """

    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: LearningRateSchedule = "constant"
    optimizer: OptimizerName = "adam"
    optimizer_eps: OptimizerEps = None
    max_grad_norm: MaxGradNorm = None


class ActorCriticConfig(AlgorithmConfig):
    """Base of the settings of an algorithm that learns policy and critic from rollouts of `rollout_steps`."""

    rollout_steps: RolloutSteps = 128
    value_coef: ValueCoef = 0.5
    entropy_coef: EntropyCoef = 0.0
    max_grad_norm: MaxGradNorm = 0.5


class MinibatchConfig(ActorCriticConfig):
    """Base of the settings of an actor-critic that makes several passes over each rollout, in minibatches."""

    learning_rate_schedule: LearningRateSchedule = "linear"
    epochs: Epochs = 10
    minibatches: Minibatches = 4
    normalize_advantages: NormalizeAdvantages = True
