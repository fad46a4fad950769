"""Errors of datasets. Each is also the builtin error that fits, so that ``except ValueError`` goes on working."""

from crack_plugin.errors import CrackPluginError


class DatasetError(CrackPluginError, ValueError):
    """A dataset, one of its files, or an argument that cannot be used as it stands."""


class DatasetNotFoundError(CrackPluginError, FileNotFoundError):
    """A dataset, a split, or files of it are missing."""


class DatasetExistsError(CrackPluginError, FileExistsError):
    """A folder to write a dataset to holds something else."""


class PipelineError(CrackPluginError, RuntimeError):
    """A pipeline of transforms gave no sample."""
