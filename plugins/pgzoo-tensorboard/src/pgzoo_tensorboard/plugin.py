"""Registers the plugin's components as strings. Every pgzoo command imports this module, so it must be fast."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the listener."""
    registry.listener(
        "tensorboard",
        "pgzoo_tensorboard.listener:create",
        summary="event files for TensorBoard, into the folder that PGZOO_TENSORBOARD names",
    )
