import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginDynamics(pgzoo.testing.DynamicsSuite):
    name = "my-plugin"
