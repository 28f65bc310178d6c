"""The backend keeps to the contract of every backend."""

from __future__ import annotations

import pgzoo.testing


class TestPlugin(pgzoo.testing.PluginSuite):
    name = "envpool"


class TestEnvpool(pgzoo.testing.EnvBackendSuite):
    name = "envpool"
