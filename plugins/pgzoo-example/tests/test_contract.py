"""The example passes pgzoo's conformance checks; the author of any plugin would write such a file."""

from __future__ import annotations

import pgzoo.testing


class TestExample(pgzoo.testing.PluginSuite):
    name = "example"


class TestPositiveReinforce(pgzoo.testing.AlgorithmSuite):
    name = "positive-reinforce"
