"""Expressions that callers give: polars expressions, or SQL text that polars reads. Never Python to be evaluated."""

from __future__ import annotations

from typing import Any

import polars as pl

from fastsynth.errors import OptionError


def parse(what: str, given: Any) -> pl.Expr:
    """An expression from itself or from SQL text; ``what`` names it in messages.

    Raises
    ------
    OptionError
        Neither an expression nor text, or text that is no SQL.
    """
    if isinstance(given, pl.Expr):
        return given
    if not isinstance(given, str):
        raise OptionError(f"{what} must be a polars expression or SQL text, not {type(given).__name__}.")
    try:
        return pl.sql_expr(given)
    except Exception as error:
        raise OptionError(f"{what}={given!r}: cannot be read as SQL ({error}). Powers are power(x, 2).") from None
