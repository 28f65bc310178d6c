"""What the plugin offers, by dotted name: every command of pgzoo imports this, so it is light."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the backend."""
    registry.env_backend(
        "envpool",
        "pgzoo_envpool.backend:EnvpoolBackend",
        summary="in C++ threads; physics and old ids of gymnasium (LunarLander-v2, HalfCheetah-v4 ...)",
    )
