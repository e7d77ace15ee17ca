"""What the tests of this checkout need besides the plugin, which its entry point loads."""

pytest_plugins = ("pytester",)
