"""Named exceptions. Every message says which column, what was given, what is allowed and what to do.

Messages carry column names, counts and types, never a value of the data.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
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


class ConvergenceWarning(UserWarning):
    """The chains of a joint model have not mixed: what is drawn from them is not yet from its posterior."""


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


def is_real(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_count(name: str, value: Any, error: type[FastsynthError] = OptionError) -> int:
    """Give an integer of at least 1 back as a plain one; refuse anything else."""
    if not is_whole(value) or not 1 <= int(value) < 2**62:
        raise error(f"{name}={value!r}: must be an integer of at least 1.")
    return int(value)


def check_random_state(value: Any) -> int:
    """Give an integer of at least 0 back as a plain one; refuse anything else."""
    if not is_whole(value) or value < 0:
        raise OptionError(f"random_state={value!r}: must be a non-negative integer.")
    return int(value)


def check_column_list(option: str, given: Any, allowed: Collection[str] | None = None) -> list[str]:
    """Give column names back as a list; refuse an empty one, and names that are not allowed."""
    is_list = isinstance(given, Collection) and not isinstance(given, str) and len(given) > 0
    if not is_list or not all(isinstance(name, str) and (allowed is None or name in allowed) for name in given):
        names = "" if allowed is None else f"; allowed are {', '.join(allowed)}"
        raise OptionError(f"{option}={given!r}: must be a list of columns{names}.")
    return list(given)


def check_known(where: str, given: Any, names: Sequence[str]) -> None:
    """Refuse names of columns that the table does not have."""
    unknown = [name for name in given if name not in names]
    if unknown:
        known = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise PlanError(f"{where}: no column {', '.join(map(repr, unknown))}. The table has {known}.")
