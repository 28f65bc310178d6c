"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the dynamics."""
    registry.dynamics(
        "my-plugin",
        "pgzoo_my_plugin.dynamics:dynamics",
        envs=["MyPlugin-v0"],
        summary="flies to the origin of a line and stops there",
    )
