"""Registers the plugin by strings. Every pgzoo command imports this module, so it must import nothing slow."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the environment backend."""
    registry.env_backend(
        "my-plugin",
        "pgzoo_my_plugin.env_backend:MyPluginBackend",
        summary="steps the environments one after the other",
    )
