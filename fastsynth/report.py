"""``report``: one HTML file on what copies are good for and what they give away.

Here are the front end, the model that is fitted to both, and the file. Module ``sections`` makes plain records of what
was measured, and the template knows nothing but these.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from fastsynth.columns import is_text
from fastsynth.compared import Compared, as_synthesis, open_compared
from fastsynth.disclosure import disclosure as measure_disclosure
from fastsynth.disclosure import identical_rows
from fastsynth.errors import FastsynthError, OptionError, OutputError
from fastsynth.page import SMALLEST_CELL, Shown
from fastsynth.pictures import clean
from fastsynth.pooling import Analyses, Comparison, Pooled, pool
from fastsynth.sections import make_page
from fastsynth.utility import utility as measure_utility

Audience = Literal["internal", "public"]


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a report was written from.

    Attributes
    ----------
    utility : Utility
    disclosure : Disclosure or None
        None without keys.
    comparison : Comparison or None
        Of the model, if a formula was given.
    path : Path
        The HTML file.
    """

    utility: Any
    disclosure: Any
    comparison: Comparison | None
    path: Path

    def __repr__(self) -> str:
        return f"Report: {self.path}"


def report(
    original: Any,
    synthetic: Any,
    path: str | os.PathLike[str],
    *,
    keys: Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    formula: str | Callable[[Any], Any] | None = None,
    holdout: Any = None,
    shadows: int = 0,
    recipe: Any = None,
    audience: Audience = "internal",
    columns: Sequence[str] | None = None,
    weights: str | None = None,
    random_state: int = 0,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
    utility: Any = None,
    disclosure: Any = None,
    attacks: Mapping[str, pl.DataFrame] | None = None,
) -> Report:
    """Write one HTML file on what copies are good for and what they give away.

    It needs no network and no JavaScript, opens on a phone, prints, follows light and dark, and speaks to screen
    readers. The same copies give the same bytes.

    Parameters
    ----------
    original
        Any table or path that ``synthesize`` reads.
    synthetic : Synthesis, table, path, or list of tables or paths
        Copies; those of a Synthesis, or of a folder that ``synthesize(out=...)`` wrote, tell how they were made.
    path : path
        New file; an existing one is never overwritten.
    keys : list of str, optional
        Columns that an intruder may know. Without them identity and attribute disclosure are not measured.
    target : str or list of str, optional
        What an intruder wants to learn; the default is all other columns.
    formula : str or callable, optional
        A model in the words of statsmodels (patsy), fitted to the original and to every copy: least squares, or
        logistic for an outcome that is true or false, or 0 or 1. Or a function of a pandas DataFrame that gives what
        ``pool`` reads.
    holdout : table, path or share, optional
    shadows : int, default 0
    recipe : Synthesizer, optional
        Attacks, as in ``disclosure``; they need keys.
    audience : {"internal", "public"}
        A public report shows no cell, level or pattern of fewer than 10 real rows, weighted or not (they are merged),
        no minimum, maximum or outer per cent of a number, shares in steps of 10 rows or a little more, classes instead
        of exact measures of tables, no model of which a coefficient rests on fewer than 10 real rows, no records and no
        random state.
    columns : list of str, optional
        What to compare; the default is all that the copies have.
    weights : str, optional
        Column of survey weights, for ``utility``. The model is fitted without.
    random_state : int, default 0
    threads, client, memory_limit
        As in ``synthesize``.
    utility, disclosure : optional
        What ``utility`` and ``disclosure`` gave already for the same tables; they are measured otherwise. Of weighted
        results give ``weights``, too.
    attacks : dict of str to polars.DataFrame, optional
        Tables such as ``Disclosure.attacks`` of other copies by a name, such as "minbucket 1", to stand beside those of
        these copies; "these copies" replaces the latter.

    Returns
    -------
    Report

    Raises
    ------
    OptionError
        An unknown audience, a formula that cannot be fitted, and what ``utility`` and ``disclosure`` refuse.
    OutputError
        The file exists, or cannot be written.
    FastsynthError
        jinja2 is not installed, or statsmodels with a formula.

    Notes
    -----
    Cost is that of ``utility`` and ``disclosure``, one model for each table, and no more than the 40 worst margins and
    60 columns of the heat map, so that the file stays below a few MB for any number of columns.

    References
    ----------
    Raab, Nowok and Dibben (2021), Assessing, visualizing and improving the utility of synthetic data, arXiv 2109.12717.
    Raab (2024), Privacy risk from synthetic data: practical proposals, PSD 2024.

    Examples
    --------
    >>> import tempfile
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> syn = fs.synthesize(boys, m=2, random_state=1)
    >>> path = f"{tempfile.mkdtemp()}/report.html"
    >>> fs.report(boys, syn, path, keys=["age", "reg"], target="phb").path.name
    'report.html'
    """
    if audience not in ("internal", "public"):
        raise OptionError(f"audience={audience!r}: must be 'internal' or 'public'.")
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"path={path!r}: must be the path of a new HTML file.")
    if not (formula is None or isinstance(formula, str) or callable(formula)):
        raise OptionError(f"formula={formula!r}: must be text such as 'income ~ age', or a function of a DataFrame.")
    asked = {"target": target is not None, "holdout": holdout is not None, "shadows": shadows != 0}
    if keys is None and any(asked.values()):
        named = ", ".join(name for name, is_given in asked.items() if is_given)
        raise OptionError(f"{named}: disclosure is measured by keys=[...], what an intruder may know. Name some.")
    _check_measured(original, synthetic, utility, disclosure, attacks, weights)
    template, place = _template(), check_new_report(path)
    shared: dict[str, Any] = {"threads": threads, "client": client, "memory_limit": memory_limit}
    synthesis = as_synthesis(synthetic)
    pooled, comparison = None, None
    too_few = False
    if formula is not None:
        if audience == "public" and not isinstance(formula, str):
            raise OptionError("A public report needs a formula as text: of a function, rare terms cannot be found.")
        pooled, comparison, too_few = compare_models(original, synthetic, formula, **shared)
    if utility is None:
        utility = measure_utility(
            original, synthetic, columns=columns, weights=weights, random_state=random_state, **shared
        )
    if disclosure is None and keys is not None:
        disclosure = measure_disclosure(
            original,
            synthetic,
            keys=keys,
            target=target,
            holdout=holdout,
            shadows=shadows,
            recipe=recipe,
            random_state=random_state,
            **shared,
        )
    identical = None
    if disclosure is None:
        whole = synthetic if isinstance(synthetic, list | tuple) else [synthetic]
        identical = identical_rows(original, whole if synthesis is None else synthesis)
    least = 0.0
    if audience == "public":
        least = SMALLEST_CELL * (1 / utility.n if weights is None else _largest_share(original, weights, **shared))
    page = make_page(
        utility,
        disclosure,
        synthesis,
        Shown(audience == "public", least),
        formula=formula if isinstance(formula, str) else "the given function",
        identical=identical,
        pooled=pooled,
        comparison=comparison,
        too_few=too_few and audience == "public",
        attacks=attacks or {},
    )
    try:
        with place.open("x", encoding="utf-8", newline="\n") as file:
            file.write(template.render(page))
    except FileExistsError:
        raise _exists(place) from None
    except OSError as error:
        raise OutputError(f"Cannot write {str(place)!r} ({type(error).__name__}).") from None
    return Report(utility, disclosure, comparison, place)


def _check_measured(
    original: Any, synthetic: Any, utility: Any, disclosure: Any, attacks: Any, weights: str | None
) -> None:
    """Refuse results that are none, or of other tables."""
    for name, given in (("utility", utility), ("disclosure", disclosure)):
        if given is None:
            continue
        if not all(hasattr(given, count) for count in ("n", "k", "m")):
            raise OptionError(f"{name}={type(given).__name__}: must be what {name}() gave.")
        both = open_compared(original, synthetic)
        if (given.n, given.k, given.m) != (both.n, both.k, both.m):
            raise OptionError(
                f"{name}= was measured on {given.m} copies of {given.k:,} rows of {given.n:,}, and these are "
                f"{both.m} of {both.k:,} of {both.n:,}."
            )
    if utility is not None and weights is None and getattr(utility, "n_effective", utility.n) != utility.n:
        raise OptionError("utility= was measured with survey weights: give weights=, the name of their column, too.")
    tables = attacks.values() if isinstance(attacks, Mapping) else [attacks]
    whole = {"attack", "statistic", "value", "low", "high", "baseline"}
    if attacks is not None and not all(isinstance(t, pl.DataFrame) and whole <= set(t.columns) for t in tables):
        raise OptionError("attacks= must be a dict of tables as Disclosure.attacks, by name.")


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise FastsynthError("Reports need jinja2: pip install 'fastsynth[report]'.") from None
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        # Figures are markup already, of another class.
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    return environment.from_string((files("fastsynth") / "report.html.j2").read_text(encoding="utf-8"))


def check_new_report(path: str | os.PathLike[str]) -> Path:
    """Refuse a file that exists, and one in a folder that does not."""
    place = Path(path)
    if place.exists():
        raise _exists(place)
    if not place.absolute().parent.is_dir():
        raise OutputError(f"No folder {str(place.absolute().parent)!r} for the report.")
    return place


def _exists(place: Path) -> OutputError:
    return OutputError(f"{str(place)!r} exists. Name a new file for the report, or remove this one.")


def _largest_share(original: Any, weights: str, **shared: Any) -> float:
    """Share of the weights that one row has at most: a cell of ten times that has ten rows at least."""
    pieces = open_compared(original, original, columns=[weights], **shared).map(_sums, weights, [weights], [0])[0]
    total = math.fsum(part[0] for part in pieces)
    return max(part[1] for part in pieces) / total if total > 0 else 1.0


def _sums(name: str, rows: pl.DataFrame, _first: int) -> tuple[float, float]:
    weights = rows[name].cast(pl.Float64).fill_null(0.0)
    return float(weights.sum()), float(weights.max() or 0.0)  # type: ignore[arg-type]


def compare_models(
    original: Any, synthetic: Any, formula: str | Callable[[Any], Any], **shared: Any
) -> tuple[Pooled, Comparison, bool]:
    """Fit a model to every copy and to the original, pool, and compare; ``formula`` as in ``report``.

    The third result says whether a coefficient rests on fewer than ten real rows.
    """
    whole = open_compared(original, synthetic, **shared)
    used = [name for name in whole.names if not isinstance(formula, str) or name in formula]
    if not used:
        raise OptionError(f"formula={formula!r} names no column of the copies; they have {', '.join(whole.names)}.")
    compared = open_compared(original, synthetic, columns=used, **shared)
    fit = formula_fit(formula) if isinstance(formula, str) else formula
    if isinstance(formula, str):
        _refuse_missing_levels(compared)
    try:
        fits = [fit(frame.to_pandas()) for frame in _same_levels([compared.frame(i) for i in range(compared.m + 1)])]
    except ModuleNotFoundError:
        raise FastsynthError("Models need statsmodels and pandas: pip install 'fastsynth[analysis]'.") from None
    if compared.design is not None:
        pooled = pool(Analyses(fits[1:], compared.design))
    else:
        pooled = pool(fits[1:], "raab2016", n=compared.n, k=compared.k)
    return pooled, pooled.compare(fits[0]), isinstance(formula, str) and _few_behind(fits[0])


def _refuse_missing_levels(compared: Compared) -> None:
    """A level that one table lacks is a term that cannot be estimated there."""
    for name in compared.names:
        if is_text(compared.schema.field(name).type):
            levels = [
                set(compared.frame(side, [name])[name].cast(pl.String).unique()) for side in range(compared.m + 1)
            ]
            if any(own != levels[0] for own in levels):
                raise OptionError(
                    f"formula: {name!r} has levels that not every table has, so their terms cannot "
                    "be compared. Leave it out, or merge rare levels."
                )


def _same_levels(frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Tables whose categories have one order, so that every model has the same reference level."""
    dtypes = {}
    for name, dtype in frames[0].schema.items():
        if dtype in (pl.String, pl.Categorical):
            found = {level for frame in frames for level in frame[name].cast(pl.String).drop_nulls().unique()}
            dtypes[name] = pl.Enum(sorted(found))
    return [
        frame.with_columns(pl.col(name).cast(pl.String).cast(dtype) for name, dtype in dtypes.items())
        for frame in frames
    ]


def _few_behind(fit: Any) -> bool:
    """Whether fewer than ten rows decide a coefficient of a fit of statsmodels.

    These are rows that share a combination of levels, and the outcome where that has two values; rows in which a term
    is not 0; and rows of a leverage beyond that of ten equal ones, which is how few rows behind other contrasts show.
    """
    design, outcome = np.asarray(fit.model.exog, np.float64), np.asarray(fit.model.endog, np.float64)
    coded = [x for x in (*design.T, outcome) if len(np.unique(x)) <= 2 or np.isin(x, (-1, 0, 1)).all()]
    if len(outcome) < SMALLEST_CELL:
        return True
    if coded:
        rows = pl.DataFrame({f"c{i}": x for i, x in enumerate(coded)})
        if int(rows.group_by(rows.columns).len()["len"].min()) < SMALLEST_CELL:  # type: ignore[arg-type]
            return True
    nonzero = (design != 0).sum(axis=0)
    if ((nonzero > 0) & (nonzero < SMALLEST_CELL)).any():
        return True
    leverage = (np.linalg.qr(design)[0] ** 2).sum(axis=1)
    return bool(leverage.max() > (1 + 1e-9) / SMALLEST_CELL)


def formula_fit(formula: str) -> Callable[[Any], Any]:
    """Give a function that fits a formula to a pandas DataFrame: logistic for outcomes of 0 and 1, else linear."""
    try:
        import statsmodels.formula.api as smf
    except ImportError:
        raise FastsynthError("Models need statsmodels: pip install 'fastsynth[analysis]'.") from None
    outcome = re.fullmatch(r"Q\((['\"])(.*)\1\)", formula.partition("~")[0].strip())
    name = outcome[2] if outcome else formula.partition("~")[0].strip()

    def fit(table: Any) -> Any:
        logistic = False
        if name in table:
            known = table[name].dropna()
            logistic = len(known) > 0 and bool(known.isin([0, 1]).all())
            if logistic:
                table = table.assign(**{name: table[name].astype("Float64").astype(float)})
        try:
            return smf.logit(formula, table).fit(disp=0) if logistic else smf.ols(formula, table).fit()
        except Exception as error:
            # Errors of the fit may quote values of the data.
            raise OptionError(
                f"formula={formula!r} cannot be fitted ({type(error).__name__}). Outcomes are numbers, or true and "
                "false; predictors are columns, C(column) or Q('a name with spaces')."
            ) from None

    return fit
