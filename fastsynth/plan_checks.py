"""Options that do not go together, or not with the table, are refused before a plan is made of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from fastsynth.blocks import Block, Copula, LatentNormal
from fastsynth.clusters import Cluster
from fastsynth.columns import Variable
from fastsynth.errors import DataError, OptionError, PlanError, check_known
from fastsynth.expressions import parse
from fastsynth.identifiers import Pattern
from fastsynth.methods import Nested
from fastsynth.options import PLAIN, Column
from fastsynth.terms import Terms
from fastsynth.visit_sequence import check_earlier

# Each level of an unordered category but one is a latent normal.
MOST_LATENT_LEVELS = 50


def check_columns(columns: Mapping[str, Column] | None, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Refuse records of other kinds or of unknown columns; give back the missing codes of each column that has some."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise OptionError(f"columns must be a dict of name: Column(...), not {type(columns).__name__}.")
    check_known("columns", columns, names)
    for name, column in columns.items():
        if not isinstance(column, Column):
            raise OptionError(f"columns[{name!r}] must be a Column(...), not {type(column).__name__}.")
        check_known(f"predictors of {name!r}", column.predictors or (), names)
        for rule in column.rules:
            check_known(f"rule of {name!r}", rule.expression().meta.root_names(), names)
    return {name: column.cont_na for name, column in columns.items() if len(column.cont_na)}


def over_whole_table(whole: Block, blocks: Sequence[Block], names: list[str]) -> list[Block]:
    """The joint model of all columns that have no method of their own."""
    if blocks or whole.columns:
        raise OptionError(
            f"method={whole!r} is for all columns: name none, and leave out blocks=. For some columns use blocks=[...]."
        )
    if not names:
        raise OptionError(f"method={whole!r}: all columns are kept, computed, or have methods of their own.")
    return [whole.over(names)]


def check_strata(
    strata: Sequence[str], names: list[str], columns: Mapping[str, Column], patterns: Mapping[str, Pattern]
) -> None:
    """Refuse columns that tell strata apart but are to be drawn otherwise."""
    if isinstance(strata, str) or not all(isinstance(name, str) for name in strata):
        raise OptionError("strata must be a list of column names.")
    check_known("strata", strata, names)
    for name in strata:
        column = columns.get(name, PLAIN)
        if name in patterns or column.method not in (None, "keep") or column.passive is not None or column.special():
            raise OptionError(
                f"strata: {name!r} is drawn as part of the strata, or kept with Column(method='keep'); it takes no "
                "other method and no rules."
            )


def check_cluster(
    cluster: Cluster,
    names: Sequence[str],
    columns: Mapping[str, Column],
    patterns: Mapping[str, Pattern],
    kept: Collection[str],
    level2: Collection[str],
    strata: Sequence[str],
    where: Collection[str] | None,
) -> None:
    """Refuse what does not go together with clusters."""
    check_known("cluster", [cluster.column], names)
    check_known("structure", cluster.structure, names)
    own = columns.get(cluster.column, PLAIN)
    if strata or where is not None:
        raise OptionError(
            f"cluster={cluster.column!r} does not go with {'strata' if strata else 'where'}=: rows of a cluster belong "
            "together. Leave one out."
        )
    coded = own.coding is not None or own.rare_levels is not None
    if own.method not in (None, "keep", "identifier") or own.passive is not None or own.special() or coded:
        raise OptionError(
            f"Column {cluster.column!r} says which rows belong together: it gets fresh names, or is kept with "
            "Column(method='keep'). Nothing else can be said of it."
        )
    if cluster.column not in kept and kept:
        raise PlanError(
            f"{', '.join(map(repr, kept))} are kept, so rows are those of the original, but clusters are drawn anew. "
            f"Keep {cluster.column!r} as well, with Column(method='keep')."
        )
    if cluster.column in kept and cluster.structure:
        raise OptionError(
            f"structure: the clusters of {cluster.column!r} are kept, so nothing is resampled. Keep these columns, "
            "too, or leave them out."
        )
    for name in cluster.structure:
        column = columns.get(name, PLAIN)
        if name == cluster.column or name in level2 or name in patterns:
            raise OptionError(
                f"structure: {name!r} is the same in all rows of a cluster, or an identifier: leave it out."
            )
        if column.method is not None or column.passive is not None or column.special():
            raise OptionError(
                f"structure: {name!r} is taken from donor clusters as it is, so it takes no method and no rules."
            )


def check_levels(
    name: str, predictors: Sequence[str], cluster: Cluster | None, of_clusters: bool, upper: Collection[str]
) -> None:
    """Refuse names of clusters as predictors, and for what is constant within clusters whatever is not."""
    if cluster is None:
        return
    wrong = [other for other in predictors if other == cluster.column or (of_clusters and other not in upper)]
    if wrong:
        raise PlanError(
            f"{', '.join(map(repr, wrong))} cannot predict {name!r}: clusters have random effects of their own, and "
            "what is constant within clusters is predicted from such columns only. Leave them out."
        )


def check_blocks(
    blocks: Sequence[Block],
    names: Sequence[str],
    fixed: Collection[str],
    columns: Mapping[str, Column],
    variables: Sequence[Variable],
    cluster: Cluster | None,
    where: bool,
) -> dict[str, Block]:
    """Refuse joint models that cannot be; give back the one of each column."""
    if isinstance(blocks, Block) or not isinstance(blocks, Sequence) or not all(isinstance(b, Block) for b in blocks):
        raise OptionError(f"blocks={blocks!r}: must be a list of LatentNormal('a', 'b', ...) or Copula('a', 'b', ...).")
    if blocks and where:
        raise OptionError("blocks: with where= single cells are replaced, which a joint model cannot. Leave one out.")
    by_name = {variable.name: variable for variable in variables}
    block_of: dict[str, Block] = {}
    for block in blocks:
        if not block.columns:
            raise OptionError(
                f"{block!r} names no columns. Name those that are drawn together, or say method={block!r}."
            )
        check_known(repr(block), block.columns, names)
        if isinstance(block, Copula) and cluster is not None:
            raise OptionError(
                f"{block!r} takes rows as independent, and with cluster={cluster.column!r} they are not. Use "
                "LatentNormal, or trees."
            )
        for name in block.columns:
            column, variable = columns.get(name, PLAIN), by_name[name]
            if name in fixed or name in block_of:
                why = (
                    "is in two blocks" if name in block_of else "is kept, computed, an identifier, or tells rows apart"
                )
                raise OptionError(f"{block!r}: {name!r} {why}. Leave it out.")
            taken = [f for f in ("predictors", "numtocat", "guard") if getattr(column, f) is not None]
            taken += ["semicont"] * bool(column.semicont) + ["method"] * (column.method is not None)
            if taken:
                raise OptionError(f"Column {name!r} is drawn jointly with others: it takes no {', '.join(taken)}.")
            block_of[name] = block
            if isinstance(block, LatentNormal):
                _check_latent(name, variable, column)
        if isinstance(block, LatentNormal):
            _check_latent_options(block, by_name, cluster)
    return block_of


def _check_latent(name: str, variable: Variable, column: Column) -> None:
    if column.cont_na:
        raise OptionError(
            f"cont_na of {name!r}: a latent normal model fills in what is missing, and has no kinds of it. Leave the "
            "column out of the block, so that trees draw it."
        )
    if column.smoothing is not None:
        raise OptionError(f"smoothing of {name!r}: its numbers are new ones, drawn from a normal. Leave it out.")
    if variable.n_used < 2:
        raise DataError(f"Column {name!r} has fewer than two different values. Leave it out of the joint model.")
    if variable.kind == "unordered" and variable.n_used > MOST_LATENT_LEVELS:
        raise DataError(
            f"Column {name!r} has {variable.n_used} levels without order; a latent normal model takes at most "
            f"{MOST_LATENT_LEVELS}. Group them (rare_levels=), or leave the column out of the block."
        )


def _check_latent_options(block: LatentNormal, by_name: Mapping[str, Variable], cluster: Cluster | None) -> None:
    if not isinstance(block.transform, str):
        outside = [name for name in block.transform if name not in block.columns]
        if outside:
            raise PlanError(f"transform: {', '.join(map(repr, outside))} are not among the columns of {block!r}.")
        wrong = [name for name in block.transform if by_name[name].kind != "numeric"]
        if wrong:
            raise OptionError(f"transform: {', '.join(map(repr, wrong))} are categories; it is for numbers.")
    check_known("slopes", block.slopes, list(by_name))
    if block.slopes and cluster is None:
        raise OptionError("slopes: they differ between clusters; say with cluster= which rows belong together.")
    wrong = [name for name in block.slopes if by_name[name].kind != "numeric" or name in block.columns]
    if wrong:
        raise OptionError(
            f"slopes: {', '.join(map(repr, wrong))} must be numbers that the block is predicted from (kept, or of an "
            "earlier block)."
        )
    if block.model is not None:
        _check_model(block, Terms.parse(block.model), by_name, cluster)


def _check_model(block: LatentNormal, terms: Terms, by_name: Mapping[str, Variable], cluster: Cluster | None) -> None:
    """Refuse an analyst's model that does not fit to its block; ``_check_covariates`` does the rest."""
    check_known("model", [terms.outcome, *terms.covariates], list(by_name))
    if terms.outcome not in block.columns:
        raise OptionError(f"model={block.model!r}: the outcome {terms.outcome!r} has to be a column of the block.")
    variable = by_name[terms.outcome]
    if variable.kind == "unordered" and variable.n_used > 2:
        raise DataError(
            f"model: column {terms.outcome!r} is a category of {variable.n_used} levels without order. Outcomes are "
            "numbers, categories of two levels, or ordered ones: declare the order, or model another column."
        )
    if isinstance(block.transform, Mapping) and terms.outcome in block.transform:
        raise OptionError(f"transform: {terms.outcome!r} is the outcome of model=, which is of the column as it is.")
    used = {terms.outcome, *terms.covariates}
    both = [name for group in block.interactions for name in group if name in used]
    if both:
        raise OptionError(
            f"interactions: {', '.join(map(repr, both))} are columns of model=, which says itself what they interact "
            "with. Leave them out of interactions=."
        )
    if terms.cluster is not None and (cluster is None or cluster.column != terms.cluster):
        found = "rows have no clusters" if cluster is None else f"cluster={cluster.column!r}"
        raise OptionError(
            f"model={block.model!r}: effects are of {terms.cluster!r}, but {found}. Name the column of cluster=."
        )


def check_blur(variable: Variable, column: Column) -> None:
    """Refuse smoothing or noise of what is no number."""
    if variable.kind != "numeric" and (column.smoothing is not None or column.noise is not None):
        what = "smoothing" if column.smoothing is not None else "noise"
        raise OptionError(f"Column {variable.name!r} is {variable.dtype}: {what} is for numbers and dates.")


def check_nested(
    name: str, method: Nested, names: list[str], position: Mapping[str, int], patterns: Mapping[str, Pattern]
) -> None:
    """Refuse coarse codes that are not there, made anew, or drawn later."""
    check_known(f"within of {name!r}", [method.within], names)
    refuse_identifiers(name, [method.within], patterns)
    check_earlier(name, [method.within], position, "column of coarse codes")


def refuse_identifiers(name: str, others: Sequence[str], patterns: Mapping[str, Pattern]) -> None:
    """Refuse identifiers as predictors."""
    fresh = [other for other in others if other in patterns]
    if fresh:
        raise PlanError(
            f"{', '.join(map(repr, fresh))} cannot predict {name!r}: identifiers are made anew and say nothing. Leave "
            "them out, or give them another method."
        )


def refuse_limits_of(
    patterns: Mapping[str, Pattern], columns: Mapping[str, Column], forbid: Sequence[pl.Expr | str]
) -> None:
    """Nothing can be said of identifiers that are made anew."""
    asked = list(forbid) if isinstance(forbid, Sequence) and not isinstance(forbid, str) else []
    expressions = [parse("forbid", given) for given in asked] + [
        expression for name, column in columns.items() for expression in column.limits(name)
    ]
    for column in columns.values():
        own = [column.expression(), *(rule.expression() for rule in column.rules)]
        expressions += [expression for expression in own if expression is not None]
    named = sorted({name for expression in expressions for name in expression.meta.root_names()} & patterns.keys())
    if named:
        raise PlanError(
            f"{', '.join(map(repr, named))}: identifiers are made anew, so no rule, limit or expression can use them."
        )
