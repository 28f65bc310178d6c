"""The plugin and its backend pass pgzoo's conformance checks."""

from __future__ import annotations

import pgzoo.testing


class TestPlugin(pgzoo.testing.PluginSuite):
    name = "envpool"


class TestEnvpool(pgzoo.testing.EnvBackendSuite):
    name = "envpool"
