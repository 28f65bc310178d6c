"""The marker that plugins put on their hooks. It imports only pluggy, so that every package of pgzoo may use it."""

import pluggy

__all__ = ["hookimpl"]

hookimpl = pluggy.HookimplMarker("pgzoo")
