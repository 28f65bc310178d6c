"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the diagnostic."""
    registry.diagnostic(
        "my-plugin",
        "pgzoo_my_plugin.diagnostic:MyPlugin",
        summary="fraction of steps with a reward other than 0",
    )
