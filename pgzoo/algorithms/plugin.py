"""Registers the built-in algorithms and their presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pgzoo.markers import hookimpl


class BuiltIn(NamedTuple):
    """Metadata of a built-in algorithm for the listings.

    Its class `cls` and the model of its settings, `{cls}Config`, are in the module of the same name.
    """

    name: str
    cls: str
    summary: str
    source: str = ""
    actions: str = "any"
    recurrent: bool = True


ALGORITHMS = {
    "Monte Carlo": (
        BuiltIn("reinforce", "Reinforce", "Monte Carlo policy gradient", "Williams 1992"),
        BuiltIn(
            "reinforce-baseline",
            "ReinforceBaseline",
            "REINFORCE with a learned value function as the baseline",
            "Williams 1992; Sutton & Barto 2018",
        ),
        BuiltIn(
            "rloo",
            "RLOO",
            "REINFORCE with the mean return of the other episodes as the baseline",
            "Kool et al. 2019; Ahmadian et al. 2024",
        ),
    ),
    "actor-critic": (
        BuiltIn(
            "vpg",
            "VPG",
            "plain policy gradient: one gradient step of the policy, many of the critic",
            "Sutton et al. 2000; Achiam 2018",
        ),
        BuiltIn("a2c", "A2C", "synchronous advantage actor-critic", "Mnih et al. 2016"),
        BuiltIn(
            "impala", "IMPALA", "actor-critic with V-trace corrections for off-policy data", "Espeholt et al. 2018"
        ),
    ),
    "trust region": (
        BuiltIn(
            "npg",
            "NPG",
            "natural policy gradient with a step size in KL divergence",
            "Kakade 2001; Rajeswaran et al. 2017",
        ),
        BuiltIn("trpo", "TRPO", "natural-gradient steps with a line search within a KL bound", "Schulman et al. 2015"),
        BuiltIn("ppo", "PPO", "several epochs per rollout with a clipped objective", "Schulman et al. 2017"),
        BuiltIn(
            "rpo",
            "RPO",
            "PPO with noise on the policy's mean in each update, to keep exploring",
            "Rahman & Xue 2022",
            actions="Box, gaussian or tanh",
        ),
        BuiltIn("spo", "SPO", "PPO with a quadratic penalty instead of clipping", "Xie et al. 2025"),
        BuiltIn("ano", "ANO", "PPO with a smooth objective that suppresses outliers", "Zhang et al. 2026"),
        BuiltIn("bpo", "BPO", "regresses probability ratios onto those of a bounded best policy", "Ao et al. 2026"),
        BuiltIn("ppg", "PPG", "PPO with auxiliary phases that distill the value function", "Cobbe et al. 2021"),
    ),
    "action values": (
        BuiltIn(
            "reppo",
            "REPPO",
            "follows the gradient of a learned Q with respect to the policy's own actions, within a KL bound",
            "Voelcker et al. 2025",
            actions="Box, gaussian or tanh",
            recurrent=False,
        ),
        BuiltIn(
            "pqn",
            "PQN",
            "Q-learning from parallel environments, without replay or target network",
            "Gallici et al. 2025",
            actions="Discrete",
        ),
    ),
    "weighted regression": (
        BuiltIn("vmpo", "VMPO", "fits the better half of the actions within a KL bound", "Song et al. 2020"),
        BuiltIn("awr", "AWR", "on-policy advantage-weighted regression", "Peng et al. 2019"),
    ),
    "parameter search": (
        BuiltIn("ars", "ARS", "random search: finite differences in parameter space", "Mania et al. 2018"),
        BuiltIn("cem", "CEM", "cross-entropy method: refits a Gaussian to the best", "Szita & Lőrincz 2006"),
        BuiltIn(
            "snes",
            "SNES",
            "natural evolution strategies: ascends the natural gradient of a Gaussian over parameters",
            "Schaul et al. 2011; Wierstra et al. 2014",
        ),
        BuiltIn("eggroll", "EGGROLL", "evolution strategies with low-rank perturbations", "Sarkar et al. 2025"),
    ),
    "for comparison": (BuiltIn("random", "Random", "acts at random and learns nothing: the score to beat"),),
}
"""The algorithms by family, in the order of the listings. To add one, add a module and a line here."""

PRESETS = Path(__file__).parents[1] / "presets"
"""Folder of the presets, one file each."""


@hookimpl
def pgzoo_register(registry: Any) -> None:
    """Register the algorithms as strings, so that listing them doesn't import torch."""
    for family, algorithms in ALGORITHMS.items():
        for name, cls, summary, source, actions, recurrent in algorithms:
            target = f"pgzoo.algorithms.{name.replace('-', '_')}:{cls}"
            facts = {"family": family, "actions": actions, "source": source, "recurrent": recurrent}
            registry.algorithm(name, target, config=f"{target}Config", summary=summary, **facts)
    registry.presets(PRESETS)
