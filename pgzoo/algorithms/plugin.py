"""Registers the built-in algorithms and their presets."""

from __future__ import annotations

from typing import Any

from pgzoo.registry import hookimpl


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register by dotted name, so that listing them imports no torch."""
    registry.algorithm(
        "reinforce",
        "pgzoo.algorithms.reinforce:Reinforce",
        config="pgzoo.algorithms.reinforce:ReinforceConfig",
        summary="Monte-Carlo policy gradient",
        family="Monte Carlo",
        source="Williams 1992",
    )
    registry.algorithm(
        "a2c",
        "pgzoo.algorithms.a2c:A2C",
        config="pgzoo.algorithms.a2c:A2CConfig",
        summary="advantage actor-critic, in step",
        family="actor-critic",
        source="Mnih et al. 2016",
    )
    registry.algorithm(
        "ppo",
        "pgzoo.algorithms.ppo:PPO",
        config="pgzoo.algorithms.ppo:PPOConfig",
        summary="proximal policy optimisation: several steps on the same data, clipped",
        family="trust region",
        source="Schulman et al. 2017",
    )
    registry.algorithm(
        "ars",
        "pgzoo.algorithms.ars:ARS",
        config="pgzoo.algorithms.ars:ARSConfig",
        summary="augmented random search: finite differences in the space of parameters",
        family="search",
        source="Mania et al. 2018",
    )
    registry.algorithm(
        "cem",
        "pgzoo.algorithms.cem:CEM",
        config="pgzoo.algorithms.cem:CEMConfig",
        summary="cross-entropy method: a Gaussian over parameters, fitted to the best",
        family="search",
        source="Szita & Lőrincz 2006",
    )
    registry.algorithm(
        "random",
        "pgzoo.algorithms.random:Random",
        config="pgzoo.config:SearchConfig",
        summary="acts at random and learns nothing: the score to beat",
        family="baseline",
        source="",
    )
    registry.preset(
        "notebook",
        algorithm="reinforce",
        summary="one episode per update, as teaching notebooks do: 4-64-2 network, Adam 1e-3, 1000 episodes",
        settings={
            "num_envs": 1,
            "total_episodes": 1000,
            "max_episode_steps": 500,
            "gamma": 0.99,
            "estimator": "notebook",
            "policy": {"name": "mlp", "hidden": (64,), "activation": "leaky_relu", "init": "default"},
            "learning_rate": 1e-3,
            "learning_rate_schedule": "constant",
            "optimizer": "adam",
            "baseline": "none",
            "normalize_returns": False,
            "average": "episodes",
            "entropy_coef": 0.0,
            "eval_episodes": 1000,
        },
    )
