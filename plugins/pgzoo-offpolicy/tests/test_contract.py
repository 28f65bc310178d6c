"""The plugin, its algorithms and its policy pass pgzoo's conformance checks."""

from __future__ import annotations

import pgzoo.testing


class TestOffPolicy(pgzoo.testing.PluginSuite):
    name = "offpolicy"


class TestDDPG(pgzoo.testing.AlgorithmSuite):
    name = "ddpg"


class TestTD3(pgzoo.testing.AlgorithmSuite):
    name = "td3"


class TestSAC(pgzoo.testing.AlgorithmSuite):
    name = "sac"


class TestDiscreteSAC(pgzoo.testing.AlgorithmSuite):
    name = "sac-discrete"


class TestDeterministic(pgzoo.testing.PolicySuite):
    name = "deterministic"
