"""Named exceptions. Every message says which column, what was given, what is allowed and what to do.

Messages carry column names, counts and types, never a value of the data.
"""

from __future__ import annotations

import numbers
from typing import Any


class FastsynthError(Exception):
    """Base of all errors raised on purpose."""


class DataError(FastsynthError, ValueError):
    """The table cannot be synthesised as it is."""


class OptionError(FastsynthError, ValueError):
    """An option has a value that is not allowed, or two options contradict each other."""


class PlanError(OptionError):
    """Visit sequence, predictors or passive columns do not fit together."""


class PoolError(FastsynthError, ValueError):
    """The analyses cannot be pooled, or not by this rule."""


class DataWarning(UserWarning):
    """Something about the table that the copies do not have, or have otherwise."""


class PrivacyWarning(UserWarning):
    """Something that takes a guarantee of privacy away."""


class PoolWarning(UserWarning):
    """Pooled estimates that deserve a second look."""


class ModelFileError(FastsynthError, ValueError):
    """A model file is damaged, or was written by a version that this one cannot read."""


class OutputError(FastsynthError, OSError):
    """The output folder cannot be used."""


class ClusterError(FastsynthError, RuntimeError):
    """The Dask cluster cannot do the work."""


class NotFittedError(FastsynthError, ValueError, AttributeError):
    """The synthesizer has to be fitted first."""


def check_count(name: str, value: Any, error: type[FastsynthError] = OptionError) -> int:
    """Give an integer of at least 1 back as a plain one; refuse anything else."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= int(value) < 2**62:
        raise error(f"{name}={value!r}: must be an integer of at least 1.")
    return int(value)
