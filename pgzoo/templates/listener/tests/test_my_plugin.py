import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"
