"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the listener."""
    registry.listener(
        "my-plugin",
        "pgzoo_my_plugin.listener:create",
        summary="stores the mean return of each evaluation in my-plugin.json",
    )
