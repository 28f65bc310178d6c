"""What the plugin offers, by dotted name: every command of pgzoo imports this, so it is light."""

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
