"""The error of a model that cannot be built, or used, as it was asked for."""

from crack_plugin.errors import CrackPluginError


class ModelError(CrackPluginError, ValueError):
    """An argument of the model is out of its range; the message names it and says what to give."""
