"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the algorithm."""
    registry.algorithm(
        "my-plugin",
        "pgzoo_my_plugin.algorithm:MyPlugin",
        config="pgzoo_my_plugin.algorithm:MyPluginConfig",
        summary="REINFORCE with an entropy bonus",  # shown by `pgzoo algorithms`
    )
