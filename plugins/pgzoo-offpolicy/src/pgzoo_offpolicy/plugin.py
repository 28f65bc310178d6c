"""Registers the plugin's components as strings. Every pgzoo command imports this module, so it must be fast."""

from pathlib import Path

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"

PRESETS = Path(__file__).parent / "presets"
"""Folder of the presets, one file each."""


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the algorithms, the policy of DDPG and TD3, and presets."""
    registry.algorithm(
        "ddpg",
        "pgzoo_offpolicy.td3:DDPG",
        config="pgzoo_offpolicy.td3:DDPGConfig",
        summary="deep deterministic policy gradient: off-policy, with a replay buffer",
        family="off-policy",
        actions="Box",
        recurrent=False,
        source="Lillicrap et al. (2016)",
    )
    registry.algorithm(
        "td3",
        "pgzoo_offpolicy.td3:TD3",
        config="pgzoo_offpolicy.td3:TD3Config",
        summary="DDPG with two critics, delayed policy updates and smoothed targets",
        family="off-policy",
        actions="Box",
        recurrent=False,
        source="Fujimoto et al. (2018)",
    )
    registry.algorithm(
        "sac",
        "pgzoo_offpolicy.sac:SAC",
        config="pgzoo_offpolicy.sac:SACConfig",
        summary="soft actor-critic: off-policy, maximizes return plus entropy",
        family="off-policy",
        actions="Box",
        recurrent=False,
        source="Haarnoja et al. (2018)",
    )
    registry.algorithm(
        "sac-discrete",
        "pgzoo_offpolicy.sac_discrete:DiscreteSAC",
        config="pgzoo_offpolicy.sac_discrete:DiscreteSACConfig",
        summary="soft actor-critic for Discrete actions",
        family="off-policy",
        actions="Discrete",
        recurrent=False,
        source="Christodoulou (2019)",
    )
    registry.policy(
        "deterministic",
        "pgzoo_offpolicy.deterministic:Deterministic",
        config="pgzoo_offpolicy.deterministic:DeterministicConfig",
        summary="a multilayer perceptron from observations to one action, explored by added noise; for ddpg and td3",
    )
    registry.presets(PRESETS)
