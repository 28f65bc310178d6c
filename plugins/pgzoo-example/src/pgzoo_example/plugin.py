"""Registers the plugin's components as strings. Every pgzoo command imports this module, so it must be fast."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the algorithm."""
    registry.algorithm(
        "positive-reinforce",
        "pgzoo_example.positive:PositiveReinforce",
        config="pgzoo_example.positive:PositiveReinforceConfig",
        summary="REINFORCE that learns only from above-average returns",
    )
