"""Settings: one source for the command line, YAML files, Python keywords and what is logged.

A run's settings have one nested form everywhere:

    algorithm: reinforce            # run keys and the algorithm's own keys side by side
    env: CartPole-v1
    seeds: [0, 1, 2]
    learning_rate: 0.01
    policy: {name: mlp, hidden: [64, 64]}
    estimator: reward-to-go         # a component may be just its name

Layers of settings are merged (pgzoo's defaults < the algorithm's < preset < file < options: later ones win), and the
result is validated once, before anything is created.
"""

from pgzoo.config.files import Layer, read_yaml
from pgzoo.config.run import EVAL_MAX_STEPS, Component, Member, RunConfig
from pgzoo.config.settings import (
    ActionConfig,
    ActorCriticConfig,
    AlgorithmConfig,
    CGSteps,
    ClipRange,
    ComponentConfig,
    CriticHidden,
    CriticLearningRate,
    CriticSteps,
    Damping,
    EntropyCoef,
    Epochs,
    GammaT,
    LearningRate,
    LearningRateSchedule,
    MaxGradNorm,
    MinibatchConfig,
    Minibatches,
    NormalizeAdvantages,
    OptimizerEps,
    OptimizerName,
    RolloutSteps,
    SDEConfig,
    SearchConfig,
    Settings,
    Static,
    ValueCoef,
)

__all__ = [
    "EVAL_MAX_STEPS",
    "ActionConfig",
    "ActorCriticConfig",
    "AlgorithmConfig",
    "CGSteps",
    "ClipRange",
    "Component",
    "ComponentConfig",
    "CriticHidden",
    "CriticLearningRate",
    "CriticSteps",
    "Damping",
    "EntropyCoef",
    "Epochs",
    "GammaT",
    "Layer",
    "LearningRate",
    "LearningRateSchedule",
    "MaxGradNorm",
    "Member",
    "MinibatchConfig",
    "Minibatches",
    "NormalizeAdvantages",
    "OptimizerEps",
    "OptimizerName",
    "RolloutSteps",
    "RunConfig",
    "SDEConfig",
    "SearchConfig",
    "Settings",
    "Static",
    "ValueCoef",
    "read_yaml",
]
