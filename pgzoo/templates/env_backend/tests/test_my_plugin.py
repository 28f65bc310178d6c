import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginEnvBackend(pgzoo.testing.EnvBackendSuite):
    name = "my-plugin"
