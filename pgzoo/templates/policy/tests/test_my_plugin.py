import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginPolicy(pgzoo.testing.PolicySuite):
    name = "my-plugin"
