"""The packaged table for examples and the demo, with its holes and without."""

from __future__ import annotations

from importlib.resources import files

import polars as pl


def load_boys(*, completed: bool = True) -> pl.DataFrame:
    """748 Dutch boys, complete as in Volker and Vink (2021), or with the missing values of the published table.

    Parameters
    ----------
    completed : bool, default True
        False leaves what was not measured null: gen and phb of 503 boys, tv of 522, some of hgt, wgt, bmi, hc and reg.

    Returns
    -------
    polars.DataFrame of shape (748, 9)
        age (years), hgt (cm), wgt (kg), bmi (kg/m2, cut to two decimals), hc (head circumference, cm), gen (genital
        Tanner stage, Enum G1-G5), phb (pubic hair, Enum P1-P6), tv (testicular volume, ml), reg (region, Categorical
        by name: Enum would give it an order).

    References
    ----------
    Fredriks et al. (2000), Pediatric Research 47:316 (Fourth Dutch Growth Study; table ``boys`` of the R package mice).
    Volker and Vink (2021), Anonymiced shareable data, Psych 3:703 (missing values filled in).

    Examples
    --------
    >>> load_boys().shape
    (748, 9)
    >>> load_boys(completed=False)["tv"].null_count()
    522
    """
    stages = {
        "gen": pl.Enum([f"G{i}" for i in range(1, 6)]),
        "phb": pl.Enum([f"P{i}" for i in range(1, 7)]),
        "reg": pl.Categorical,
    }
    name = "boys.csv" if completed else "boys_published.csv"
    with (files("fastsynth") / "data" / name).open("rb") as file:
        return pl.read_csv(file, infer_schema_length=None).cast(stages)  # type: ignore[arg-type]
