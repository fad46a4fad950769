"""The base class of errors that are told in one paragraph, without a traceback."""


class CrackPluginError(Exception):
    """An error a user can act on: the message names what is wrong, where, and what to do.

    Subclasses take the message as their one argument, because torch makes them anew from a text where a data worker
    raised them. Most also derive from the builtin that fits, for ``except ValueError``.
    """


class ConfigError(CrackPluginError, ValueError):
    """A setting in the config cannot be used, or does not fit the rest of it."""


class UnsuitableModelError(CrackPluginError, TypeError):
    """A hook needs what this model does not have."""


class MissingPackageError(CrackPluginError, ModuleNotFoundError):
    """A package that is needed is not installed."""


class ToolError(CrackPluginError, RuntimeError):
    """A command line cannot be carried out."""


def message(error: CrackPluginError) -> str:
    """The message of an error, also of one that was raised in a data worker.

    torch raises such an error again in the main process: as the same class, with the whole traceback of the worker as
    its text, which ends in the name of the class and the message.
    """
    name = f'{type(error).__module__}.{type(error).__qualname__}'
    return str(error).rpartition(f'\n{name}: ')[2].strip()
