"""The plugin itself comes by its entry point; here is only what this checkout's tests add."""

pytest_plugins = ("pytester",)
