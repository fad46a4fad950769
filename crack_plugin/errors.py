"""The base class of errors that are told in one paragraph, without a traceback."""


class CrackPluginError(Exception):
    """An error a user can act on: the message names what is wrong, where, and what to do."""
