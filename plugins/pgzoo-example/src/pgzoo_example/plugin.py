"""What the plugin offers, by dotted name: every command of pgzoo imports this, so it is light."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the algorithm."""
    registry.algorithm(
        "positive-reinforce",
        "pgzoo_example.positive:PositiveReinforce",
        config="pgzoo_example.positive:PositiveReinforceConfig",
        summary="REINFORCE that learns only from what went better than average",
    )
