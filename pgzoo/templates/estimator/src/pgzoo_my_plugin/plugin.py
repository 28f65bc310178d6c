"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the estimator."""
    registry.estimator(
        "my-plugin",
        "pgzoo_my_plugin.estimator:my_plugin",
        config="pgzoo_my_plugin.estimator:MyPluginConfig",
        summary="discounted sum of the clipped rewards to the end of the episode",
    )
