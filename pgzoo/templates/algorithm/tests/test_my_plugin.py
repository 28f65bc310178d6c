import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginAlgorithm(pgzoo.testing.AlgorithmSuite):
    name = "my-plugin"
