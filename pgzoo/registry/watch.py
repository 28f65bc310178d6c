"""Name a plugin that takes long to load while it is loading, because it may never end."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from pgzoo.registry.catalog import PluginInfo

__all__ = ["PATIENCE", "LoadWatch"]

_log = logging.getLogger("pgzoo")

PATIENCE = 10.0
"""Seconds after which a plugin that is still loading is named."""


class LoadWatch:
    """Within its context, a thread watches the plugin that was passed to `loading` last. It interrupts nothing."""

    def __init__(self) -> None:
        self._current: tuple[PluginInfo, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pgzoo-load-watch", daemon=True)

    def __enter__(self) -> LoadWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def loading(self, plugin: PluginInfo) -> None:
        """Watch this plugin from now on, instead of the one before. Built-in plugins are not watched."""
        self._current = None if plugin.source == "built-in" else (plugin, time.monotonic())
        if self._current and not self._thread.ident:
            self._thread.start()

    def _watch(self) -> None:
        named: PluginInfo | None = None
        while not self._ended.wait(PATIENCE / 10):
            plugin, since = self._current or (None, 0.0)
            if plugin is not None and plugin is not named and time.monotonic() - since >= PATIENCE:
                named = plugin
                way = "" if plugin.source == "import" else f" and disable it: PGZOO_DISABLE_PLUGINS={plugin.name}"
                _log.warning(
                    "Plugin %s is still loading after %g seconds. If it never ends, press Ctrl-C%s",
                    *(plugin, PATIENCE, way or "."),
                )
