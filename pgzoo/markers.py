"""The marker that plugins put on their hooks. It imports nothing but pluggy, so that every room may use it."""

import pluggy

__all__ = ["hookimpl"]

hookimpl = pluggy.HookimplMarker("pgzoo")
