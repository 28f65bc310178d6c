"""The example keeps to the contract of a plugin: what any author writes."""

from __future__ import annotations

import pgzoo.testing


class TestExample(pgzoo.testing.PluginSuite):
    name = "example"


class TestPositiveReinforce(pgzoo.testing.AlgorithmSuite):
    name = "positive-reinforce"
