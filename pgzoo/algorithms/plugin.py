"""Registers the built-in algorithms and their presets."""

from __future__ import annotations

from typing import Any

from pgzoo.markers import hookimpl


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
        "reinforce-baseline",
        "pgzoo.algorithms.reinforce_baseline:ReinforceBaseline",
        config="pgzoo.algorithms.reinforce_baseline:ReinforceBaselineConfig",
        summary="REINFORCE with a learned value as its baseline",
        family="Monte Carlo",
        source="Williams 1992; Sutton & Barto 2018",
    )
    registry.algorithm(
        "rloo",
        "pgzoo.algorithms.rloo:RLOO",
        config="pgzoo.algorithms.rloo:RLOOConfig",
        summary="REINFORCE, each episode against the mean of the others",
        family="Monte Carlo",
        source="Kool et al. 2019; Ahmadian et al. 2024",
    )
    registry.algorithm(
        "vpg",
        "pgzoo.algorithms.vpg:VPG",
        config="pgzoo.algorithms.vpg:VPGConfig",
        summary="plain policy gradient: one step of the policy, many of the critic",
        family="actor-critic",
        source="Sutton et al. 2000; Achiam 2018",
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
        "impala",
        "pgzoo.algorithms.impala:IMPALA",
        config="pgzoo.algorithms.impala:IMPALAConfig",
        summary="actor-critic with V-trace, which corrects for data of an older policy",
        family="actor-critic",
        source="Espeholt et al. 2018",
    )
    registry.algorithm(
        "npg",
        "pgzoo.algorithms.npg:NPG",
        config="pgzoo.algorithms.npg:NPGConfig",
        summary="natural policy gradient: steps of one size, as the policy sees it",
        family="trust region",
        source="Kakade 2001; Rajeswaran et al. 2017",
    )
    registry.algorithm(
        "trpo",
        "pgzoo.algorithms.trpo:TRPO",
        config="pgzoo.algorithms.trpo:TRPOConfig",
        summary="trust region policy optimization: natural steps, searched until they hold",
        family="trust region",
        source="Schulman et al. 2015",
    )
    registry.algorithm(
        "ppo",
        "pgzoo.algorithms.ppo:PPO",
        config="pgzoo.algorithms.ppo:PPOConfig",
        summary="proximal policy optimization: several steps on the same data, clipped",
        family="trust region",
        source="Schulman et al. 2017",
    )
    registry.algorithm(
        "rpo",
        "pgzoo.algorithms.rpo:RPO",
        config="pgzoo.algorithms.rpo:RPOConfig",
        summary="PPO whose mean is moved by noise in the update, so that it goes on exploring",
        family="trust region",
        actions="Box, gaussian or tanh",
        source="Rahman & Xue 2022",
    )
    registry.algorithm(
        "spo",
        "pgzoo.algorithms.spo:SPO",
        config="pgzoo.algorithms.spo:SPOConfig",
        summary="PPO with a quadratic penalty on the ratio in place of clipping",
        family="trust region",
        source="Xie et al. 2025",
    )
    registry.algorithm(
        "ppg",
        "pgzoo.algorithms.ppg:PPG",
        config="pgzoo.algorithms.ppg:PPGConfig",
        summary="PPO in phases: now and then the policy's layers learn what the critic knows",
        family="trust region",
        source="Cobbe et al. 2021",
    )
    registry.algorithm(
        "vmpo",
        "pgzoo.algorithms.vmpo:VMPO",
        config="pgzoo.algorithms.vmpo:VMPOConfig",
        summary="the better half of the actions, weighted by advantage, within a KL",
        family="weighted regression",
        source="Song et al. 2020",
    )
    registry.algorithm(
        "awr",
        "pgzoo.algorithms.awr:AWR",
        config="pgzoo.algorithms.awr:AWRConfig",
        summary="advantage-weighted regression, on-policy",
        family="weighted regression",
        source="Peng et al. 2019",
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
    registry.preset(
        "ppo-cartpole",
        algorithm="ppo",
        env="CartPole-v1",
        auto=True,
        summary="fewer epochs at a larger step size: solved in fewer gradient steps",
        settings={"learning_rate": 7e-3, "epochs": 3},
    )
    registry.preset(
        "ppo-pendulum",
        algorithm="ppo",
        env="Pendulum-v1",
        auto=True,
        summary="a short horizon; actions, observations and rewards near 1",
        settings={
            "total_steps": 200_000,
            "num_envs": 4,
            "rollout_steps": 512,
            "gamma": 0.9,
            "minibatches": 8,
            "policy": {"rescale": True},
            "normalize_obs": True,
            "normalize_reward": True,
        },
    )
    registry.preset(
        "ppo-acrobot",
        algorithm="ppo",
        env="Acrobot-v1",
        auto=True,
        summary="16 environments, fewer epochs; observations and rewards near 1",
        settings={
            "total_steps": 300_000,
            "num_envs": 16,
            "gamma": 0.99,
            "estimator": {"lam": 0.94},
            "epochs": 4,
            "minibatches": 8,
            "normalize_obs": True,
            "normalize_reward": True,
        },
    )
