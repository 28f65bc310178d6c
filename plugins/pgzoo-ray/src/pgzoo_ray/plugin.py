"""Registers the launcher as a string. Every pgzoo command imports this module, so it must be fast."""

from pgzoo.registry import Registry, hookimpl

pgzoo_api = "1"


@hookimpl
def pgzoo_register(registry: Registry) -> None:
    """Register the launcher."""
    registry.launcher("ray", "pgzoo_ray.launcher:launch", summary="seeds split among the machines of a Ray cluster")
