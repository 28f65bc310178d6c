"""Registers the plugin's components as strings. Every pgzoo command imports this module, so it must be fast."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the backend."""
    registry.env_backend(
        "envpool",
        "pgzoo_envpool.backend:EnvpoolBackend",
        summary="in C++ threads; physics, and old gymnasium ids (LunarLander-v2, HalfCheetah-v4 ...)",
    )
