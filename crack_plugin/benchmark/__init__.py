"""The former place of :mod:`crack_plugin.comparison`, which configs saved by version 0.1 import by this name."""
