import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginEstimator(pgzoo.testing.EstimatorSuite):
    name = "my-plugin"
