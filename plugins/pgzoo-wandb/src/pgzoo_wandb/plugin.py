"""Registers the plugin's components as strings. Every pgzoo command imports this module, so it must be fast."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the listener."""
    registry.listener(
        "wandb",
        "pgzoo_wandb.listener:create",
        summary="runs for Weights & Biases, if PGZOO_WANDB is offline or online",
    )
