"""The plugin passes pgzoo's conformance checks."""

from __future__ import annotations

import pgzoo.testing


class TestTensorboard(pgzoo.testing.PluginSuite):
    name = "tensorboard"


class TestListener(pgzoo.testing.ListenerSuite):
    name = "tensorboard"
