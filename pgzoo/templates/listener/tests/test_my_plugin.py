import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginListener(pgzoo.testing.ListenerSuite):
    name = "my-plugin"
