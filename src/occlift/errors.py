"""Errors that a user can act on.

Everything that goes wrong because of the user's input is raised as an `OccliftError` whose text says which file
or token, what was expected, what came, and what to do. The command line prints the text and no stack trace.
Our own mistakes are `assert`s.
"""


class OccliftError(Exception):
    """A mistake in the input or the call; its text tells the user what to do."""


class DataError(OccliftError):
    """A file of a data set, of labels, of predictions or of a checkpoint is missing, broken or inconsistent."""


class ConfigError(OccliftError):
    """Options contradict one another, or do not fit what is on the disk."""
