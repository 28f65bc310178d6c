import pgzoo.testing


class TestMyPlugin(pgzoo.testing.PluginSuite):
    name = "my-plugin"


class TestMyPluginDiagnostic(pgzoo.testing.DiagnosticSuite):
    name = "my-plugin"
