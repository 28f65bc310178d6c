"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the policy."""
    registry.policy(
        "my-plugin",
        "pgzoo_my_plugin.policy:my_plugin",
        config="pgzoo.config:ActionConfig",
        summary="two layers with normalized features",
    )
