"""The front end: ``synthesize`` in one call, or ``Synthesizer(...).fit(data).sample()``."""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from tqdm.auto import tqdm

from fastsynth import model_file
from fastsynth.blocks import BLOCKS, Block, Copula, LatentNormal
from fastsynth.clusters import Cluster
from fastsynth.copies import FileCopy, Synthesis, compare, executor_of, identity, source_of, summary_of
from fastsynth.draw import BLOCK_ROWS
from fastsynth.errors import (
    ConvergenceWarning,
    DataWarning,
    NotFittedError,
    OptionError,
    PlanError,
    PrivacyWarning,
    check_count,
    check_known,
)
from fastsynth.exact import Exact
from fastsynth.execute import Executor, Tick
from fastsynth.identifiers import check_space
from fastsynth.imputation import Imputation
from fastsynth.impute import Impute, completed_plan, plan_imputation
from fastsynth.joint import Chains
from fastsynth.learn import Learned, learn, strongest_predictors
from fastsynth.methods import Calibrated, Cart, ColumnModel, Method, Sample, people_of_ranks
from fastsynth.model import Model
from fastsynth.options import Column, Guard, Rule
from fastsynth.output import Output
from fastsynth.partition import partitions, write_partitions
from fastsynth.plan import Plan, Predictors, Step, make_plan
from fastsynth.plan_checks import check_columns
from fastsynth.private import DpCart, PrivateModel, draw_entropy, fit_private
from fastsynth.recode import check_rare, coded, find_codings
from fastsynth.relations import Relations, relations_of
from fastsynth.rows import (
    check_cells,
    cluster_pattern,
    count_structure,
    find_exact,
    find_identifiers,
    find_level2,
    n_holes,
    read_given,
    read_holes,
    read_weights,
    read_where,
    replaced_cells,
    where_by_name,
)
from fastsynth.rowwise import check_rows
from fastsynth.rules import Design
from fastsynth.run import (
    Cells,
    Imputing,
    fingerprint,
    fit_plan,
    generate,
    model_arrays,
    part_names,
    with_exact,
    write_copies,
)
from fastsynth.source import (
    Source,
    bytes_a_value,
    parse_memory,
)

# Rows of each copy with ``fresh_rows`` alone: what a bootstrap sample holds.
FRESH_SHARE = 0.632
# v is found from a draw of this many times the rows of the original, if that is not too much; else from the copies.
V_ROWS, MOST_V_ROWS, MOST_V_CELLS = 20, 100_000, 5_000_000
# Share of the rows that are drawn anew as a whole above which this is told.
MANY_RESTARTS = 0.01
# A level of fewer rows is a disclosure risk by itself.
RARE_ROWS = 10

# Options that a private synthesis goes with, and why not with others.
WITH_PRIVATE = ("m", "k", "method", "visit_sequence", "random_state", "threads", "memory_limit", "progress", "out")
NOT_PRIVATE = {
    "columns": "what a column may hold is said by its domain",
    "predictors": "every column is predicted from all before it",
    "proper": "a fit for each copy would need a budget for each",
    "forbid": "the domains say what there may be",
    "where": "cells that are not replaced are real values",
    "impute": "what is filled in are real values",
    "strata": "they are found in the data, and small ones refused",
    "cluster": "which rows belong together, and how many, is found in the data",
    "blocks": "joint models have no budget",
    "weights": "a row of large weight would count as many",
    "relations": "they are found in the data",
    "fit_rows": "the budget counts all rows",
    "fresh_rows": "a fit for each copy would need a budget for each",
    "fit": "the noise of each partition would add up",
    "resume": "the models would be fitted again, and nothing that tells the data apart is written down",
    "copies": "whether a row equals a real one is looked up in the data",
    "guard": "leaves hold noisy counts, and no people",
    "client": "noise is not sent to workers",
}
GIVEN_BESIDE = (
    "given: clusters, and columns that are drawn together, cannot be given in part. Fit without them, or keep columns."
)
# A random state below is guessed by trying them all.
GUESSABLE = 2**64

RandomState = int | np.random.SeedSequence | np.random.Generator | None
Progress = bool | Callable[[str, int, int], None] | None


def synthesize(
    data: Any,
    *,
    m: int = 5,
    k: int | None = None,
    method: str | Method | Block | DpCart = "calibrated",
    columns: Mapping[str, Column] | None = None,
    visit_sequence: Sequence[str] | str = "auto",
    predictors: Predictors = "auto",
    blocks: Sequence[Block] = (),
    proper: bool = False,
    forbid: Sequence[pl.Expr | str] = (),
    where: Any = None,
    impute: bool | Impute = False,
    strata: Sequence[str] = (),
    cluster: str | Cluster | None = None,
    weights: str | None = None,
    relations: Relations | str | None = None,
    given: Any = None,
    fit_rows: int | None = None,
    fresh_rows: bool = False,
    fit: str = "whole",
    copies: str = "keep",
    guard: Guard | None = None,
    random_state: RandomState = None,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = None,
) -> Synthesis:
    """Draw m synthetic copies of a table.

    Every column is modelled given the columns before it in the visit sequence, and drawn at their *synthetic*
    values (Reiter 2005; synthpop's ``syn``). Rows of a copy belong to nobody: they are not linked to real rows.

    Parameters
    ----------
    data : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, any object with ``__arrow_c_stream__``,
        or path of a file or folder, a glob, or a list of paths
        At least 2 rows and 2 columns. Never changed. Files are Parquet, Arrow IPC or CSV, read piece by piece when
        they take more than a quarter of the memory limit; a folder may be partitioned (``year=2021/``); a path may be
        a URI (``s3://bucket/people/``). The rows of several files follow each other in the order of their paths.
    m : int, default 5
        Number of copies (synthpop: 1; mice: 5); with ``impute`` of completed tables, of each of which ``syntheses``
        copies are drawn.
    k : int, optional
        Rows of each copy. The default is the number of rows of ``data``; with ``DpCart`` there is none.
    method : str or Calibrated or Cart or Sample or LatentNormal or Copula or DpCart, default "calibrated"
        Method of all columns that have none of their own: "calibrated" (trees whose leaves are calibrated, so that
        intervals cover what they say), "cart" (plain leaves, as synthpop's and mice's default; intervals are too
        short) or "sample"; or all of them drawn together, "joint" (``LatentNormal``) or "copula" (``Copula``).
        ``DpCart(epsilon, domains)`` is the one that is differentially private: it goes with few of the other options
        (docs/private.md).
    columns : dict of str to Column, optional
        What is special about single columns: method, predictors, missing codes, spikes, rules, bounds, ...
    visit_sequence : {"auto", "table"} or list of str, default "auto"
        Order in which columns are drawn, kept columns first, then strata. "auto": numbers and dates, then categories by
        rising number of levels, and columns with ``outcome=True`` last; so relations of categories are kept better than
        where they come first. "table": the order of the table (synthpop's default). In both, passive columns, columns
        with rules and nested codes come after those that they need. A list names every column, in the order wanted.
        With ``DpCart`` both words are the order of the table.
    predictors : {"auto", "all"}, default "auto"
        What each column is predicted from: all earlier ones, or with "auto" in a table of more than 60 columns the 20
        earlier ones that are most associated with it (as mice's ``quickpred``; here between groups of values, so that
        categories, missing values and relations that are not monotone count). ``summary`` shows them. Columns that
        have predictors of their own keep those.
    blocks : list of LatentNormal or Copula, default ()
        Columns that are drawn together, by a joint model: given the kept columns, and before all others
        (docs/multilevel.md). With ``LatentNormal`` the synthesis is proper, and missing values are filled in.
    proper : bool, default False
        Fit each copy to its own bootstrap sample of the rows (as synthpop's ``proper``), or of the clusters.
    forbid : list of polars.Expr or str, default ()
        Combinations that may not occur, each an expression that is true for them; text is read as SQL. While the last
        of its columns is drawn, donors that would make it true are excluded within the leaf; a leaf without others
        gives way to the first node above that has some (``summary`` and ``audit`` count how often).
    where : dict or table of bool, optional
        Partial synthesis: only these cells are replaced, each drawn at the current row, and k is n. A dict gives for
        each column an expression, SQL text, or one bool for each row; a table has a column of bool for each. Columns
        that are not named are kept. Models are fitted to the cells that are replaced (Reiter 2003), to all where these
        are fewer than ``minbucket``.
    impute : bool or Impute, default False
        Fill in missing values before the synthesis, m times, and draw one copy of each completed table, or as many as
        ``Impute(syntheses=...)`` says (docs/imputation.md). ``pool`` then counts what is not known for the holes. The
        default keeps missing values as missing, as synthpop does.
    strata : list of str, default ()
        Columns whose combinations have models of their own. They are drawn together, in proportion to their rows; give
        them ``Column(method="keep")`` to keep the sizes.
    cluster : str or Cluster, optional
        Column that says which rows belong together (schools, households, firms). Copies have new clusters, whose sizes,
        and for trees random effects, are those of donor clusters; with ``Column(method="keep")`` for the column they
        have those of the original. Columns that are constant within all clusters are drawn once a cluster, others with
        random effects, so that rows of a cluster have in common what they have in the original (docs/multilevel.md).
    weights : str, optional
        Column of survey weights. Leaves and shares count rows by their weight, so that copies represent the population;
        the column itself is not in them, and ``n`` of the result is the number of rows that the sample is worth (Kish).
        A weight that is not named here is synthesised like any other column.
    relations : "auto" or Relations, optional
        "auto" finds relations between columns (``find_relations``) and keeps those that hold in every row: columns
        computed from others become passive, rules, orders and empty combinations are kept. Relations that were found
        before, and edited, may be given as well. What ``columns`` says of a column comes first: one with a method or
        predictors of its own is not computed, rules are kept together. ``relations_`` has those that are kept.
    given : table, optional
        As in ``Synthesizer.sample``.
    fit_rows : int, optional
        Fit models on this many rows, those with the smallest hash of random state and row number; with ``proper`` on
        as many drawn with replacement. Columns without predictors (not with ``proper``) and the lists of categories
        still come from all rows. Calibrated columns take the shape of their trees only from these rows, and all else
        from all; where some column does not, ``pool`` uses the rule for subsampled fits. The default, and what counts
        as not fewer than there are, is all rows.
    fresh_rows : bool, default False
        Whether each copy is fitted on rows of its own, ``fit_rows`` or without that 63.2 % of them (what a bootstrap
        sample holds): m times the work, and shorter intervals than with rows that all copies share. Calibrated trees
        have all rows in their leaves then, and the noise of their shapes is averaged over the copies.
    fit : {"whole", "partition"}, default "whole"
        "partition" is for tables that no machine can hold as codes: runs of some million rows (partitions of a Dask
        DataFrame) are fitted each by themselves, draw their share of every copy, and are forgotten. Rules of ``pool``
        stay as they are if rows lie in random order; else it is a stratified synthesis. Needs ``out``. The bytes depend
        on how files or partitions cut the rows.
    copies : {"keep", "fresh", "none"}, default "keep"
        What is done about rows that equal a row which occurs once in the original. "fresh": all but the share that a
        fresh sample from the population would have (twice the real rows that occur twice, over n) get another value in
        the column with the most values, from their leaf; the other columns stay. Nothing is done in a table of
        categories only, where such rows are what a correct model yields. "none": every such row; a reader of the copies
        then knows that a match is not in the data. The default keeps them, as synthpop; ``disclosure`` counts them.
    guard : Guard, optional
        What leaves must hold before copies draw from them: different people, different values; and how often a value
        may be copied. For columns that have none of their own.
    random_state : int, numpy SeedSequence or Generator, optional
        Same data, same random_state and same version give the same bytes, for any number of threads and any kind
        of table. None takes one from the system; it is kept in ``random_state_``. With ``DpCart`` it is as secret as
        the data, and best None; ``random_state_`` is another one then, which only draws.
    threads : int, optional
        The default is all processors this process may use.
    client : distributed.Client, optional
        Workers of a Dask cluster do the work instead of threads: they read files themselves (paths have to mean the
        same to all of them) or get the partitions of a Dask DataFrame, and write their parts of the copies to ``out``.
        The bytes are the same. Codes and models are gathered here in between and sent to each worker as a whole.
    memory_limit : int or str, optional
        Bytes, or text such as "6 GB", that the run should not exceed by much; the default is four fifths of what
        there is. Files that are too large are read piece by piece, codes that are too many go to a temporary file, and
        fewer columns are fitted at once. The distinct values of each column and all models have to fit.
    out : path or URI, optional
        New or empty folder to which copies are written as they are drawn, as ``copy_1.parquet``, ... or for more than
        524,288 rows as ``copy_1/part_1.parquet``, ...; then memory does not grow with k or m.
    resume : bool, default False
        Go on with what an interrupted run of the same call left in ``out``. Models are fitted again (they hold real
        values and are never kept there); finished parts are not drawn again, and the result is the same, byte for byte.
        Other data or options are refused; with ``fit="partition"`` data are told apart by the values of each column.
    progress : bool or callable, optional
        True shows a bar, False nothing; the default shows one on a terminal. A callable gets
        ``(stage, done, total)``.

    Returns
    -------
    Synthesis

    Raises
    ------
    DataError
        No rows, one row, one column, duplicate names, nested or binary types, infinite values, weights that are no
        positive numbers, strata that are too small, an unreadable file.
    OptionError
        An option has a value that is not allowed.
    PlanError
        Unknown columns, a predictor visited later than its target, a passive cycle.
    OutputError
        ``out`` is not empty, cannot be written, or holds another run.
    ClusterError
        ``client`` has no workers, or they die again and again.

    Warns
    -----
    DataWarning
        A column identifies people: fresh identifiers of its pattern stand in the copies. A column is free text: it is
        left out. Columns with a method of their own are drawn as this says.

    Notes
    -----
    O(n p q log n) for n rows, p columns and q predictors of each to fit, O(m k p log n) to draw. Missing values are
    synthesised as missing: first whether and how, then values where present. Numbers, dates and categories keep their
    exact types.

    With ``method="cart"``, and for categories always, a copy consists of values that occur in the data. Calibrated
    numbers are new values on the grid and within the range of the column. ``minbucket`` says how many people share a
    leaf. How well intervals will cover is in ``v`` of the result.

    References
    ----------
    Reiter (2005), Using CART to generate partially synthetic public use microdata, JOS 21:441.
    Nowok, Raab and Dibben (2016), synthpop: Bespoke creation of synthetic data in R, JSS 74(11).

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> syn = fs.synthesize(boys, m=2, random_state=1)
    >>> syn[0].shape
    (748, 9)
    """
    synthesizer = Synthesizer(
        m=m,
        method=method,
        columns=columns,
        visit_sequence=visit_sequence,
        predictors=predictors,
        blocks=blocks,
        proper=proper,
        forbid=forbid,
        where=where,
        impute=impute,
        strata=strata,
        cluster=cluster,
        weights=weights,
        relations=relations,
        fit_rows=fit_rows,
        fresh_rows=fresh_rows,
        copies=copies,
        guard=guard,
        random_state=random_state,
        threads=threads,
        client=client,
        memory_limit=memory_limit,
        progress=progress,
    )
    if k is not None:
        k = check_count("k", k)
    if resume and out is None:
        raise OptionError("resume=True needs out=, the folder of the interrupted run.")
    if isinstance(method, DpCart):
        chosen = {"fit": fit, "resume": resume, "given": given}
        _refuse_not_private(inspect.signature(synthesize).parameters, chosen)
        _refuse_unstated_k(k)
    output = None if out is None else Output(out, resume)
    if output is not None and random_state is None:
        # A run without a random state took one from the system, and noted it.
        random_state = output.run.get("random_state")
    synthesizer.random_state = _entropy(random_state)
    if fit == "whole":
        if given is not None and (cluster is not None or len(blocks) or _is_joint(method)):
            raise OptionError(GIVEN_BESIDE)
        return synthesizer._fit(data, k, output is None)._sample(None, k, None, output, given)
    if fit != "partition":
        raise OptionError(f"fit={fit!r}: allowed are 'whole' and 'partition'.")
    if output is None:
        raise OptionError("fit='partition' keeps no models: say with out= where the copies are to be written.")
    if fit_rows is not None or fresh_rows:
        raise OptionError("fit='partition' fits every partition on all its rows: leave out fit_rows and fresh_rows.")
    whole = {
        "where": where is not None,
        "impute": impute is not False,
        "strata": len(strata) > 0,
        "cluster": cluster is not None,
        "blocks": len(blocks) > 0 or _is_joint(method),
        "weights": weights is not None,
        "given": given is not None,
    }
    if any(whole.values()):
        named = ", ".join(name for name, is_given in whole.items() if is_given)
        raise OptionError(
            f"fit='partition' sees a part of the rows at a time: leave out {named}, or fit them as a whole."
        )
    return _by_partition(synthesizer, data, k, output)


def _by_partition(synthesizer: Synthesizer, data: Any, k: int | None, output: Output) -> Synthesis:
    """Divide and combine: models of each partition draw its share of every copy, and are forgotten."""
    m = check_count("m", synthesizer.m)
    entropy = _entropy(synthesizer.random_state)
    executor = executor_of(synthesizer.threads, synthesizer.client)
    memory = parse_memory(synthesizer.memory_limit)
    # Files are never read as a whole here: their pieces are what is fitted.
    learned, plan, _, _ = synthesizer._plan(data, executor, 0)
    n = learned.n_rows
    k = n if k is None else k
    _refuse_other_k(k, n, plan)
    _check_identifiers(plan, learned.variables, k)
    exact = find_exact(learned, plan, synthesizer.copies, executor)
    shares = partitions(learned.source.starts, k)
    model = Model(plan, learned.variables, learned.source.frame, n, None, ({},), {}, learned.slopes, exact=exact)
    names = part_names(m, k, len(shares))
    design = Design(n, k, m, plan.proper, plan.partial)
    copies = [FileCopy(output.folder, of_copy) for of_copy in names]
    records = _describe(model, synthesizer)
    synthesis = Synthesis(copies, model.frame, design, entropy, records, len(shares))
    synthesis.exact = _describe_exact(model)
    with output, _progress(synthesizer.progress, "fit and draw", m * k, "row") as tick:
        cut = {"partitions": fingerprint([(share.n_rows, share.k) for share in shares])}
        output.begin(identity(synthesis, model, learned.rows) | cut)
        write_partitions(learned, plan, exact, shares, names, m, entropy, memory, output, executor, tick)
        compare(synthesis, model, executor)
        synthesis.climbed = _count_climbed(output)
        _warn_of_restarts(synthesis.climbed, m * k)
        output.finish(synthesis.audit)
    return synthesis


class Synthesizer:
    """Fit once, sample often, also without the data.

    Parameters
    ----------
    m, method, columns, visit_sequence, predictors, blocks, proper, forbid, where, impute, strata, cluster, weights, \
    relations, fit_rows, fresh_rows, copies, guard, random_state, threads, client, memory_limit, progress
        As in ``synthesize``. ``m`` is the default number of copies of ``sample``, and with ``proper`` or ``fresh_rows``
        the number of fits. ``random_state`` is the default of ``sample``.

    Attributes
    ----------
    model_ : Model or PrivateModel
        The fitted model. It holds real values: treat it, and a saved file of it, like the data. A private one may be
        released.
    n_rows_ : int
    random_state_ : int
        What the bootstrap samples of proper synthesis were drawn with.
    differences_ : dict of str to int
        For each column that is passive, has rules or bounds, or is the last one of something forbidden, the number of
        real rows that hold something else, or break a limit.
    recoded_ : dict of str to int
        For each column with ``coding`` or ``rare_levels``, the rows that were coded.
    relations_ : Relations
        Those that are kept, beside what ``columns`` and ``forbid`` say.
    dropped_ : list of str
        Columns of free text, which are not in the copies.
    chains_ : dict of str to Chains
        Of latent normal models, by their columns: parameters, traces, R-hat. Not kept in files.
    imputation_ : Imputation or None
        Chains that filled in missing values: traces, R-hat. Not kept in files.
    rare_levels_ : dict of str to int
        For each column of categories the number of levels that fewer than 10 rows have: the people in them can be
        found in a copy. Group such levels before the synthesis.

    Examples
    --------
    >>> import fastsynth as fs
    >>> s = fs.Synthesizer(method=fs.Cart(minbucket=10)).fit(fs.load_boys())
    >>> s.sample(m=2, k=100, random_state=3)[1].shape
    (100, 9)
    """

    model_: Model | PrivateModel
    differences_: dict[str, int]
    recoded_: dict[str, int]
    rare_levels_: dict[str, int]
    dropped_: list[str]
    chains_: dict[str, Chains]
    imputation_: Imputation | None

    def __init__(
        self,
        *,
        m: int = 5,
        method: str | Method | Block | DpCart = "calibrated",
        columns: Mapping[str, Column] | None = None,
        visit_sequence: Sequence[str] | str = "auto",
        predictors: Predictors = "auto",
        blocks: Sequence[Block] = (),
        proper: bool = False,
        forbid: Sequence[pl.Expr | str] = (),
        where: Any = None,
        impute: bool | Impute = False,
        strata: Sequence[str] = (),
        cluster: str | Cluster | None = None,
        weights: str | None = None,
        relations: Relations | str | None = None,
        fit_rows: int | None = None,
        fresh_rows: bool = False,
        copies: str = "keep",
        guard: Guard | None = None,
        random_state: RandomState = None,
        threads: int | None = None,
        client: Any = None,
        memory_limit: int | str | None = None,
        progress: Progress = None,
    ) -> None:
        self.m = m
        self.method = method
        self.columns = columns
        self.visit_sequence = visit_sequence
        self.predictors = predictors
        self.blocks = blocks
        self.proper = proper
        self.forbid = forbid
        self.where = where
        self.impute = impute
        self.strata = strata
        self.cluster = cluster
        self.weights = weights
        self.relations = relations
        self.fit_rows = fit_rows
        self.fresh_rows = fresh_rows
        self.copies = copies
        self.guard = guard
        self.random_state = random_state
        self.threads = threads
        self.client = client
        self.memory_limit = memory_limit
        self.progress = progress
        self._bound_to_data = self._is_loaded = False
        self._held: _Fit | None = None

    def fit(self, data: Any, y: None = None) -> Synthesizer:  # noqa: ARG002
        """Fit the models of all columns.

        Parameters
        ----------
        data
            As in ``synthesize``.
        y : None
            Not used; scikit-learn's manners.

        Returns
        -------
        Synthesizer
            Itself.
        """
        return self._fit(data, None, False)

    def _fit(self, data: Any, k: int | None, in_memory: bool) -> Synthesizer:
        """Fit; what cannot be sampled afterwards is refused before."""
        m = check_count("m", self.m)
        if self._bound_to_data:
            raise OptionError(
                "The loaded model is private, or had where=, impute=, weights=, coding or rare levels, which are not "
                "kept: make a new Synthesizer to fit."
            )
        if isinstance(self.method, DpCart):
            return self._fit_private(data, self.method, m, k, in_memory)
        entropy = _entropy(self.random_state)
        memory = parse_memory(self.memory_limit)
        executor = executor_of(self.threads, self.client)
        fit_rows = None if self.fit_rows is None else check_count("fit_rows", self.fit_rows)
        if not isinstance(self.fresh_rows, bool):
            raise OptionError(f"fresh_rows={self.fresh_rows!r}: must be True or False.")
        self._refuse_beside_completed()
        learned, plan, cells, imputing = self._plan(data, executor, memory)
        n = learned.n_rows
        share = self.fresh_rows and fit_rows is None
        if share:
            fit_rows = max(round(FRESH_SHARE * n), 1)
        if k is not None:
            _refuse_other_k(k, n, plan)
        if in_memory:
            _refuse_beyond_memory(learned.source.frame.schema, m, k or n, memory)
        if fit_rows is not None and fit_rows >= n:
            fit_rows = None
        _refuse_parts(plan, fit_rows, self.weights, self.copies)
        if imputing is not None:
            _refuse_beside_imputation(plan, self.fresh_rows, learned)
        _refuse_few_rows(fit_rows, plan, share)
        exact = find_exact(learned, plan, self.copies, executor)
        job = _Fit(learned, plan, cells, imputing, fit_rows, m, entropy, exact)
        self._held = None if imputing is None else job
        self._fit_models(job, executor, memory)
        if self.imputation_ is not None:
            _warn_of_imputation(self.imputation_, self._fitted(), 4)
        return self

    def _fit_models(self, job: _Fit, executor: Executor, memory: int) -> None:
        plan, m, imputing, fresh = job.plan, job.m, job.imputing, self.fresh_rows
        own = plan.proper or (fresh and job.fit_rows is not None) or imputing is not None
        times = (m if own else 1) * (max(imputing.syntheses, 1) if imputing is not None and plan.proper else 1)
        n_fits = sum(step.action == "draw" for step in plan.steps) * times
        n_sweeps = 0 if imputing is None else m * imputing.sweeps
        with ExitStack() as stack:
            sweeps = stack.enter_context(_progress(self.progress if n_sweeps else False, "impute", n_sweeps, "sweep"))
            tick = stack.enter_context(_progress(self.progress, "fit", n_fits, "column"))
            imputing = None if imputing is None else replace(imputing, tick=sweeps)
            model, self.chains_, self.imputation_ = fit_plan(
                job.learned, plan, job.cells, job.fit_rows, fresh, m, job.entropy, memory, executor, tick, imputing
            )
        self.model_ = with_exact(model, job.exact, job.entropy)
        self.n_rows_ = job.learned.n_rows
        self.random_state_ = job.entropy

    def iterate(self, sweeps: int) -> Self:
        """Go on with the chains that fill in missing values, and fit all models to the tables as they stand then.

        Parameters
        ----------
        sweeps : int
            More sweeps of each chain; the same as ``Impute(maxit=...)`` that large from the beginning would be, but
            for tables of more than 100,000 rows, whose last sweep takes all rows.

        Returns
        -------
        Synthesizer
            Itself.

        Raises
        ------
        NotFittedError
            It was not fitted here with ``impute``.
        """
        if self._held is None or self.imputation_ is None or self._held.imputing is None:
            raise NotFittedError("iterate goes on with chains of imputation: fit with impute=True first, in memory.")
        more = replace(self._held.imputing, so_far=self.imputation_, sweeps=check_count("sweeps", sweeps))
        executor = executor_of(self.threads, self.client)
        self._fit_models(replace(self._held, imputing=more), executor, parse_memory(self.memory_limit))
        _warn_of_imputation(self.imputation_, self._fitted(), 3)
        return self

    def _fit_private(self, data: Any, method: DpCart, m: int, k: int | None, in_memory: bool) -> Synthesizer:
        """Fit with a guarantee: nothing else here looks at the data, and nothing is told of them."""
        _refuse_not_private(inspect.signature(type(self)).parameters, self.get_params())
        _refuse_guessed_types(data)
        secret, memory = _entropy(self.random_state), parse_memory(self.memory_limit)
        if secret < GUESSABLE:
            warnings.warn(
                "Whoever guesses the random_state can take the noise away. Use None, or 128 bits that are kept as "
                "secret as the data.",
                PrivacyWarning,
                stacklevel=4,
            )
        source = source_of(data, None, memory)
        if in_memory and k is not None:
            _refuse_beyond_memory(source.frame.schema, m, k, memory)
        with _progress(self.progress, "fit", len(source.frame.schema), "column") as tick:
            executor = executor_of(self.threads, None)
            self.model_ = fit_private(source, method, secret, self.visit_sequence, executor, tick)
        self.n_rows_ = self.model_.n_rows
        self.random_state_ = draw_entropy(secret)
        self._learn_nothing()
        return self

    def _refuse_beside_completed(self) -> None:
        """Refuse options that say how copies are made where there are none."""
        impute = Impute.of(self.impute)
        if impute is None or impute.syntheses:
            return
        special = (self.columns or {}).values()
        said = {
            "proper": self.proper,
            "where": self.where is not None,
            "strata": len(self.strata) > 0,
            "weights": self.weights is not None,
            "fit_rows": self.fit_rows is not None,
            "copies": self.copies != "keep",
            "guard": self.guard is not None,
            "coding": any(column.coding is not None for column in special),
            "rare_levels": any(column.rare_levels is not None for column in special),
        }
        named = [name for name, is_said in said.items() if is_said]
        if named:
            raise OptionError(
                "Impute(syntheses=0) gives the completed tables, with all rows and columns as they are, and "
                f"{', '.join(named)} is about synthetic copies. Leave it out."
            )

    def _plan(self, data: Any, executor: Executor, memory: int) -> tuple[Learned, Plan, Cells, Imputing | None]:
        """Learn the columns and plan; every option that says what to do with them is checked here."""
        source = source_of(data, self.client, memory)
        weights = None if self.weights is None else read_weights(source, self.weights, self.columns, executor)
        if self.weights is not None:
            source = source.without([self.weights])
        assert not isinstance(self.method, DpCart)
        names = source.frame.schema.names
        cont_na = check_columns(self.columns, names)
        source = self._coded(source, cont_na, executor)
        cluster = Cluster.of(self.cluster)
        of_cluster = None if cluster is None else cluster.column
        if of_cluster is not None and of_cluster not in names:
            raise PlanError(f"cluster: no column {of_cluster!r} in the table.")
        with _progress(self.progress, "read", source.starts[-1], "row") as tick:
            learned = learn(source, executor, tick, cont_na, of_cluster)
        named = None if self.where is None else where_by_name(self.where)
        impute = Impute.of(self.impute)
        completed = impute is not None and impute.syntheses == 0
        patterns, self.dropped_ = find_identifiers(learned, self.columns or {}, named, of_cluster, completed)
        # Of identifiers, and of text that is left out, nothing is to be kept; clusters are no categories.
        unrelated = [*patterns, *self.dropped_, *([] if of_cluster is None else [of_cluster])]
        self.relations_ = self._relations(source.without(unrelated), executor)
        columns, forbid = self._special()
        identifying = [*patterns, *self.dropped_]
        if completed:
            # Nothing is made up, and nothing left out.
            patterns, self.dropped_ = {}, []
            columns |= {name: Column(method="keep") for name in identifying}
        learned = learned.without(self.dropped_).without_values(patterns)
        level2: list[str] = []
        if of_cluster is not None:
            level2 = find_level2(learned, of_cluster, executor)
            patterns |= cluster_pattern(learned, of_cluster, columns.get(of_cluster, Column()))
        led: list[str] = []
        counts: dict[str, NDArray[np.int64]] = {}
        if cluster is not None and len(cluster.structure):
            led = [name for name in learned.source.frame.schema.names if name not in {*level2, *patterns}]
            check_known("structure", cluster.structure, learned.source.frame.schema.names)
            counts = count_structure(learned, cluster.column, cluster.structure, executor)
        learned = learned.with_calendars(of_cluster, led, counts)
        where = read_where(learned.source, self.where, executor)
        plan = make_plan(
            learned.variables,
            method=self.method,
            columns={name: column for name, column in columns.items() if name not in self.dropped_},
            visit_sequence=self.visit_sequence,
            predictors=self.predictors,
            proper=self.proper,
            strongest=partial(strongest_predictors, learned, executor),
            forbid=forbid,
            strata=self.strata,
            where=where,
            patterns=patterns,
            guard=self.guard,
            blocks=self.blocks,
            cluster=cluster,
            level2=level2,
        )
        self.differences_ = check_rows(learned.source, plan, learned.variables, executor)
        self.rare_levels_ = {
            v.name: int(np.count_nonzero((rows[v.first :] > 0) & (rows[v.first :] < RARE_ROWS)))
            for v, rows in zip(learned.variables, learned.rows, strict=True)
            if v.kind != "numeric" and v.name not in patterns and v.calendar is None
        }
        replaced = replaced_cells(plan, where)
        check_cells(plan, replaced, learned.variables)
        if impute is None:
            return learned, plan, Cells(replaced, weights), None
        holes, ignored = read_holes(learned.source, impute, executor)
        lost = n_holes(learned, holes)
        imputed = plan_imputation(
            learned.variables, impute, lost, columns=columns, forbid=forbid, unrelated=identifying
        )
        slot = {v.name: i for i, v in enumerate(learned.variables)}
        cells = Cells(replaced, weights, {slot[name]: mask for name, mask in holes.items()}, ignored)
        if impute.syntheses == 0:
            plan = completed_plan(plan)
            nothing = np.zeros(learned.n_rows, bool)
            cells = replace(cells, where={step.slot: nothing for step in plan.steps if step.action == "passive"})
        return learned, plan, cells, Imputing(imputed, impute.syntheses, None, impute.maxit, lambda _: None)

    def _coded(self, source: Source, cont_na: dict[str, Sequence[Any]], executor: Executor) -> Source:
        """The source with extremes and rare levels coded, as ``columns`` says."""
        columns = self.columns or {}
        limits = {name: column.coding for name, column in columns.items() if column.coding is not None}
        rare = {name: check_rare(c.rare_levels) for name, c in columns.items() if c.rare_levels is not None}
        codings, self.recoded_ = find_codings(source, limits, rare, cont_na, executor)
        return coded(source, codings)

    def _relations(self, source: Source, executor: Executor) -> Relations:
        """Relations to be kept beside what the caller says of columns."""
        if self.relations is None:
            return Relations(())
        if self.relations != "auto" and not isinstance(self.relations, Relations):
            raise OptionError(f"relations={self.relations!r}: must be 'auto' or what find_relations gives.")
        found = self.relations if isinstance(self.relations, Relations) else relations_of(source, executor).exact
        names = source.frame.schema.names
        found = Relations(tuple(r for r in found.found if set(r.columns) <= set(names)))
        drawn = names if self.where is None else where_by_name(self.where)
        own = isinstance(self.visit_sequence, Sequence) and not isinstance(self.visit_sequence, str)
        order = self.visit_sequence if own else None
        return found.beside(self.columns or {}, [name for name in drawn if name not in self.strata], order)

    def _special(self) -> tuple[dict[str, Column], Sequence[pl.Expr | str]]:
        """Records of columns and what is forbidden, with what relations say."""
        found, columns = self.relations_, dict(self.columns or {})
        return (found.joined(columns), [*self.forbid, *found.forbid]) if found.found else (columns, self.forbid)

    def sample(
        self,
        m: int | None = None,
        k: int | None = None,
        random_state: RandomState = None,
        *,
        given: Any = None,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Synthesis:
        """Draw copies from the fitted model.

        Parameters
        ----------
        m : int, optional
            Number of copies; the default is that of the constructor.
        k : int, optional
            Rows of each; the default is the number of rows of the original.
        random_state : int, numpy SeedSequence or Generator, optional
            The default is that of the fit.
        given : table, optional
            Columns that are fixed: a margin, a scenario, a known register. All copies have its rows, in its order, and
            k is their number; the other columns are drawn given these. They have to come first in the visit sequence
            of the fit, so that nothing is drawn before them: give it as a list. ``pool`` takes such copies as
            partially synthetic.
        out, resume
            As in ``synthesize``.

        Returns
        -------
        Synthesis

        Raises
        ------
        NotFittedError, OutputError
        OptionError
            m or k is not a positive integer; more copies than fits that are for one copy each; k other than n with
            kept columns.
        """
        if resume and out is None:
            raise OptionError("resume=True needs out=, the folder of the interrupted run.")
        return self._sample(m, k, random_state, None if out is None else Output(out, resume), given)

    def _sample(
        self, m: int | None, k: int | None, random_state: RandomState, output: Output | None, given: Any = None
    ) -> Synthesis:
        private = self._private()
        if private is not None:
            return self._sample_private(private, m, k, random_state, output, given)
        model = self._fitted()
        if given is not None:
            _refuse_given_beside(model)
            model = replace(model, given=read_given(given, model))
            k = _rows_of_given(model, k)
            _refuse_given_copies(model)
        m = check_count("m", self.m if m is None else m)
        k = check_count("k", self.n_rows_ if k is None else k)
        imputations, m = m, m * max(model.syntheses, 1)
        if model.most_copies is not None and m > model.most_copies:
            most = model.most_copies // max(model.syntheses, 1)
            what = "completed tables" if model.imputed else "copies"
            raise OptionError(f"m={imputations}: models of {most} {what} were fitted. Fit again with m={imputations}.")
        _refuse_other_k(k, self.n_rows_, model.plan)
        entropy = self.random_state_ if random_state is None else _entropy(random_state)
        _check_identifiers(model.plan, model.variables, k)
        _check_cluster_names(model, m, k, entropy)
        _check_max_copies(model, k)
        n = self.n_rows_ if model.effective is None else max(round(model.effective), 2)
        partial = (model.plan.partial and model.syntheses > 0) or model.given is not None
        made = (model.learned_rows, model.is_fresh, model.imputed, model.syntheses)
        design = Design(n, k, m, model.plan.proper, partial, *made)
        executor = executor_of(self.threads, self.client)
        records = _describe(model, self)
        told = None if model.filled is None else model.filled.record
        if output is None:
            _refuse_beyond_memory(model.frame.schema, m, k, parse_memory(self.memory_limit))
            with _progress(self.progress, "draw", m * k, "row") as tick:
                tables, climbed = generate(model, range(m), k, entropy, executor, tick)
            synthesis = Synthesis(tables, model.frame, design, entropy, records)
            synthesis.recipe, synthesis.exact = self._recipe(given), _describe_exact(model)
            synthesis.imputation = told
            synthesis.climbed = dict(sorted(climbed.items()))
            _warn_of_restarts(climbed, m * k)
            compare(synthesis, model, executor, self._large_draw(m, entropy, executor))
            return synthesis
        copies = [FileCopy(output.folder, names) for names in part_names(m, k)]
        synthesis = Synthesis(copies, model.frame, design, entropy, records)
        synthesis.recipe, synthesis.exact = self._recipe(given), _describe_exact(model)
        synthesis.imputation = told
        with output, _progress(self.progress, "draw", m * k, "row") as tick:
            output.begin(identity(synthesis, model, trees=model_arrays(model)))
            write_copies(model, m, k, entropy, output, executor, tick)
            compare(synthesis, model, executor, self._large_draw(m, entropy, executor))
            synthesis.climbed = _count_climbed(output)
            _warn_of_restarts(synthesis.climbed, m * k)
            output.finish(synthesis.audit)
        return synthesis

    def _sample_private(
        self,
        model: PrivateModel,
        m: int | None,
        k: int | None,
        random_state: RandomState,
        output: Output | None,
        given: Any,
    ) -> Synthesis:
        """Draw from noisy counts: it costs no budget, and nothing here is compared with the data."""
        _refuse_not_private(inspect.signature(synthesize).parameters, {"given": given})
        m, k = check_count("m", self.m if m is None else m), _refuse_unstated_k(k)
        entropy = self.random_state_ if random_state is None else _entropy(random_state)
        if draw_entropy(entropy) == self.random_state_:
            raise OptionError(
                "random_state: that of the fit is secret, and copies carry theirs: draw with another one."
            )
        executor, design = executor_of(self.threads, None), Design(model.n_rows, k, m, private=True)
        tables: Sequence[pa.Table | FileCopy] = []
        if output is not None:
            tables = [FileCopy(output.folder, names) for names in part_names(m, k)]
        else:
            _refuse_beyond_memory(model.frame.schema, m, k, parse_memory(self.memory_limit))
        with _progress(self.progress, "draw", m * k, "row") as tick:
            if output is None:
                tables, _ = generate(model, range(m), k, entropy, executor, tick)
            synthesis = Synthesis(tables, model.frame, design, entropy, model.records())
            synthesis.private = model.audit()
            if output is not None:
                with output:
                    output.begin(identity(synthesis))
                    write_copies(model, m, k, entropy, output, executor, tick)
                    output.finish(synthesis.audit)
        return synthesis

    def _recipe(self, given: Any) -> Synthesizer | None:
        """The options as a synthesizer that is not fitted: how to make such copies of another table."""
        bound = self._bound_to_data or self._is_loaded or given is not None or self.where is not None
        return None if bound else type(self)(**self.get_params())

    def _large_draw(self, m: int, entropy: int, executor: Executor) -> list[list[pa.Table]] | None:
        """Few rows would leave v uncertain: then it is taken from a large draw instead of the copies."""
        model, rows = self._fitted(), V_ROWS * self.n_rows_
        too_much = rows > MOST_V_ROWS or rows * len(model.variables) > MOST_V_CELLS
        fresh = any(step.action in ("identifier", "cluster") for step in model.plan.steps)
        if model.plan.partial or model.n_fits > 1 or len(model.slopes.rows) < 2 or too_much or fresh:
            return None
        return [generate(model.without_max_copies(), [m], rows, entropy, executor, lambda _: None)[0]]

    def summary(self) -> pl.DataFrame:
        """One row for each column, in visit sequence.

        Returns
        -------
        polars.DataFrame
            column, action ("draw", "keep", "passive", "identifier", "stratum"), method, n_predictors, predictors (a
            list of names), n_leaves and smallest_leaf (of the tree for the values), n_rare_levels (categories: levels
            that fewer than 10 rows have, a disclosure risk), leaf_spread (of each predictor the share of its variance
            that is left within leaves, by which slopes of plain trees are too small; null for categories), decision
            (calibrated columns: what was fitted, or why not), n_missing_kinds (null, NaN and missing codes), n_spikes
            (values on which a number piles up, drawn as classes), n_differ (real rows that hold something other than
            the passive expression or the rules say, or break a limit), n_coded (rows that ``coding`` or
            ``rare_levels`` changed).
        """
        private = self._private()
        if private is not None:
            return summary_of(private.records())
        return summary_of(_describe(self._fitted(), self))

    def save(self, path: str | os.PathLike[str], *, releasable: bool = False) -> None:
        """Write the fitted model to one file: a zip of a JSON manifest and Arrow tables, no pickle.

        The file holds real values of the data. Options of a run (threads, progress) are not kept. A private model is
        written as JSON, holds noisy counts only, and may be released.

        Parameters
        ----------
        path : path
            A new file.
        releasable : bool, default False
            Keep nothing of single people that copies would not show: what calibrated numbers leave over becomes that of
            many people, their values means of five. Who gets the file can draw copies without end, so what many
            copies tell of a leaf of ``minbucket`` people is released with it. Refused if columns are kept, or
            drawn from donors. Copies are no longer the same as those of the model itself.

        Raises
        ------
        NotFittedError, OptionError
            An expression calls Python code, which no file should carry.
        OutputError
            The file exists, or cannot be written.
        """
        private = self._private()
        if private is not None:
            return model_file.save_private(Path(path), private, {"m": int(self.m)})
        model = model_file.releasable(self._fitted()) if releasable else self._fitted()
        state = {
            "m": int(self.m),
            "random_state": self.random_state_,
            "differences": self.differences_,
            "recoded": self.recoded_,
            "dropped": self.dropped_,
            "rare_levels": self.rare_levels_,
        }
        return model_file.save(Path(path), model, state)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        client: Any = None,
        progress: Progress = None,
    ) -> Synthesizer:
        """Read a saved model. Sampling from it needs no data and gives the same bytes.

        Parameters of the constructor are those of the fit, but for ``where``, ``weights`` and ``impute``, which belong
        to the data.

        Raises
        ------
        ModelFileError
            The file is damaged, or from a version that this one cannot read.
        """
        private = model_file.load_private(Path(path))
        if private is not None:
            return cls._of_private(*private, threads=threads, client=client, progress=progress)
        model, state = model_file.load(Path(path))
        plan = model.plan
        unsaid = ("stratum", "cluster", "structure")
        special = {step.name: _column_of(step, model) for step in plan.steps if step.action not in unsaid}
        self = cls(
            m=state["m"],
            columns=special,
            visit_sequence=[step.name for step in plan.steps],
            proper=plan.proper,
            fit_rows=model.fit_rows,
            fresh_rows=model.is_fresh,
            forbid=[~limit.expression for step in plan.steps for limit in step.limits if not limit.values_only],
            strata=[model.variables[slot].name for slot in plan.strata],
            cluster=_cluster_of(plan, model),
            blocks=plan.blocks,
            copies="keep" if model.exact is None else model.exact.policy,
            random_state=state["random_state"],
            threads=threads,
            client=client,
            progress=progress,
        )
        self.model_ = model
        self.n_rows_ = model.n_rows
        self.random_state_ = state["random_state"]
        self.differences_ = state["differences"]
        self.dropped_ = state["dropped"]
        self.recoded_ = state["recoded"]
        self.relations_, self.chains_, self.imputation_ = Relations(()), {}, None
        self._bound_to_data = plan.where or model.effective is not None or bool(self.recoded_)
        self._bound_to_data |= model.filled is not None
        self._is_loaded = True
        self.rare_levels_ = state["rare_levels"]
        return self

    @classmethod
    def _of_private(cls, model: PrivateModel, state: dict[str, Any], **options: Any) -> Synthesizer:
        self = cls(m=state["m"], **options)
        self.model_, self.n_rows_ = model, model.n_rows
        # The file does not say how copies were drawn before: these are other ones, as good.
        self.random_state_ = _entropy(None)
        self._learn_nothing()
        self._bound_to_data = True
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """Arguments of the constructor by name, as in scikit-learn."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Synthesizer:
        """Change arguments of the constructor, as in scikit-learn."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise OptionError(f"No parameter {name!r}; there are {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        shown = [
            f"{name}={value!r}" for name, value in self.get_params().items() if value is not defaults[name].default
        ]
        return f"Synthesizer({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _learn_nothing(self) -> None:
        """What else is noted of data is not noted of private ones."""
        self.differences_, self.recoded_, self.rare_levels_ = {}, {}, {}
        self.dropped_, self.relations_, self.imputation_ = [], Relations(()), None

    def _private(self) -> PrivateModel | None:
        model = getattr(self, "model_", None)
        return model if isinstance(model, PrivateModel) else None

    def _fitted(self) -> Model:
        if not hasattr(self, "model_"):
            raise NotFittedError("This Synthesizer is not fitted yet: call fit(data) first, or Synthesizer.load(path).")
        assert isinstance(self.model_, Model)
        return self.model_


def _describe(model: Model, of: Synthesizer) -> list[dict[str, Any]]:
    """One record for each column in visit sequence: names, options and counts, no values."""
    records = []
    turn, block = 0, None
    for step in model.plan.steps:
        # Kept columns are there together, and those of a block are drawn together.
        turn += step.action != "keep" and (step.action != "joint" or step.method is not block)
        block = step.method if step.action == "joint" else None
        fit = model.fits[0].get(step.slot)
        variable = model.variables[step.slot]
        tree = None if fit is None else fit.values or fit.missing
        records.append(
            {
                "column": step.name,
                "kind": variable.kind,
                "action": step.action,
                "method": None if step.method is None else repr(step.method),
                "predictors": [model.variables[slot].name for slot in step.predictors],
                "n_leaves": None if tree is None else tree.n_leaves,
                "smallest_leaf": None if tree is None else tree.smallest_leaf,
                "n_rare_levels": of.rare_levels_.get(step.name),
                "leaf_spread": [
                    None if np.isnan(x) else round(x, 3) for x in (tree.spread if tree is not None else ())
                ],
                "decision": _decision(model, step, fit),
                "n_missing_kinds": variable.first - 1 + (variable.has_missing and not variable.has_nan),
                "n_spikes": None if fit is None or variable.kind != "numeric" else fit.n_spikes,
                "n_differ": of.differences_.get(step.name),
                "n_coded": of.recoded_.get(step.name),
                "level": step.level,
                "turn": turn,
                "noise": step.noise or None,
                "protection": _protection(step, (of.columns or {}).get(step.name, Column())),
            }
        )
    return records


def _decision(model: Model, step: Step, fit: ColumnModel | None) -> str | None:
    """What was fitted, in words."""
    if step.action == "joint":
        return next((of[0].note for of in model.blocks if step.slot in of[0].slots), None)
    note = fit.note if fit is not None else ""
    once = "once a cluster" if step.level == 2 and step.action in ("draw", "joint") else ""
    return "; ".join(words for words in (note, once) if words) or None


def _refuse_not_private(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Refuse options other than the default that are not accounted for, those that this list does not know included."""
    for name, value in given.items():
        default = parameters[name].default
        plain = isinstance(value, str | bool | int | type(None))
        same = (
            value is default or (plain and value == default) or (isinstance(value, list | tuple | dict) and not value)
        )
        if name not in WITH_PRIVATE and not same and not (name == "predictors" and plain and value == "all"):
            why = NOT_PRIVATE.get(name, "it is not accounted for")
            raise OptionError(f"{name}: not with method=DpCart(...): {why}. Leave it out.")


def _refuse_unstated_k(k: int | None) -> int:
    if k is None:
        raise OptionError(
            "k: with method=DpCart(...) say how many rows each copy has; how many the data have is a secret."
        )
    return check_count("k", k)


def _refuse_guessed_types(data: Any) -> None:
    """Refuse text files: their columns' types are guessed from the values."""
    paths = [data] if isinstance(data, str | os.PathLike) else data if isinstance(data, list | tuple) else []
    if any(isinstance(path, str | os.PathLike) and os.fspath(path).lower().endswith(".csv") for path in paths):
        raise OptionError(
            "data: the types of a CSV file are guessed from its values, which DpCart may not do. Read it with the "
            "types that it should have, polars.read_csv(path, schema=...), and pass the frame."
        )


def _protection(step: Step, column: Column) -> list[str]:
    """What protects a column while it is drawn, in words; of coding not the limits, which may be real values."""
    words = [name for name in ("coding", "rare_levels") if getattr(column, name) is not None]
    words += [repr(step.guard)] * (step.guard is not None)
    words += [f"smoothing={step.smoothing!r}"] * (step.smoothing is not None)
    return words + [f"noise={step.noise:g}"] * (step.noise > 0)


def _check_max_copies(model: Model, k: int) -> None:
    """Refuse more rows than values may be copied."""
    for step in model.plan.steps:
        most = None if step.guard is None else step.guard.max_copies
        columns = [] if most is None else model.columns(0, step.slot)
        drawn = [c for c in columns if c.values is not None and c.tilt is None and c.shift is None]
        limited = bool(step.rules) or step.slot in model.where or any(c.has_numbers for c in drawn)
        # What is drawn once a cluster is needed less often than there are rows.
        if most is None or limited or not drawn or len(drawn) < len(columns) or step.level == 2:
            continue
        people = int(people_of_ranks(drawn, len(model.variables[step.slot].values)).sum())
        # Missing values and spikes need no donor.
        rows = people + sum(column.n_kinds for column in drawn)
        if min(k, BLOCK_ROWS) > most * rows:
            raise OptionError(
                f"k={k}: with max_copies={most} column {step.name!r} has donors for {most * rows} rows only. Draw "
                "fewer rows, or allow more copies."
            )


def _describe_exact(model: Model) -> dict[str, Any] | None:
    exact = model.exact
    if exact is None:
        return None
    found = None if exact.found is None else round(exact.found, 6)
    name = model.variables[exact.slot].name
    return {"policy": exact.policy, "column": name, "found": found, "expected": round(exact.expected, 6)}


def _refuse_other_k(k: int, n: int, plan: Plan) -> None:
    kept = [step.name for step in plan.steps if step.action == "keep"]
    if plan.where and k != n:
        raise OptionError(f"k={k}: the rows are those of the original, so k must be {n}.")
    if kept and k != n:
        raise OptionError(f"k={k}: column(s) {', '.join(map(repr, kept))} are kept, so k must be {n}.")


def _check_identifiers(plan: Plan, variables: Sequence[Any], k: int) -> None:
    for step in plan.steps:
        if step.pattern is not None and step.action == "identifier":
            check_space(step.pattern, k, variables[step.slot].dtype, step.name)


def _check_cluster_names(model: Model, m: int, k: int, entropy: int) -> None:
    """Refuse copies of more clusters than there are names of the pattern."""
    for step in model.plan.steps:
        if step.action == "cluster" and step.pattern is not None and model.clusters is not None:
            most = max(model.clusters.layout(entropy, copy, k).n_clusters for copy in range(m))
            dtype = model.frame.schema.field(step.name).type
            try:
                check_space(step.pattern, most, dtype, step.name)
            except OptionError:
                raise OptionError(
                    f"k={k:,}: a copy would have {most:,} clusters, and {dtype} {step.name!r} has no room for as many "
                    "names like the real ones. Draw fewer rows, or cast the column to a wider type."
                ) from None


def _rows_of_given(model: Model, k: int | None) -> int:
    assert model.given is not None
    n: int = model.given.num_rows
    if k is not None and k != n:
        raise OptionError(f"k={k}: given has {n} rows, so k must be {n}, or left out.")
    return n


def _refuse_given_beside(model: Model) -> None:
    if model.clusters is not None or model.plan.blocks:
        raise OptionError(GIVEN_BESIDE)


def _is_joint(method: Any) -> bool:
    return isinstance(method, Block) or (isinstance(method, str) and method in BLOCKS)


def _refuse_parts(plan: Plan, fit_rows: int | None, weights: str | None, copies: str) -> None:
    """Refuse what joint models, and models of clusters, cannot do."""
    if any(isinstance(block, Copula) for block in plan.blocks) and (weights is not None or plan.strata):
        what = "weights" if weights is not None else "strata"
        raise OptionError(f"{what}: the tables that a Copula counts know nothing of them. Leave {what} out.")
    if any(step.action == "structure" for step in plan.steps) and copies != "keep":
        raise OptionError(
            f"copies={copies!r}: members of a cluster are drawn given its first row, so none can be drawn anew alone. "
            "Use copies='keep', or leave out structure."
        )
    chained = any(isinstance(block, LatentNormal) for block in plan.blocks)
    if chained and (fit_rows is not None or weights is not None):
        what = "fit_rows" if fit_rows is not None else "weights"
        raise OptionError(
            f"{what}: the chain of a LatentNormal takes every row once. Leave {what} out, or use Copula or trees."
        )
    if plan.cluster is not None and plan.proper and fit_rows is not None:
        raise OptionError(
            "fit_rows: with proper=True each copy is fitted to a bootstrap sample of whole clusters. Leave one out."
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What is fitted: kept where chains can go on, so that nothing is read or planned again."""

    learned: Learned
    plan: Plan
    cells: Cells
    imputing: Imputing | None
    fit_rows: int | None
    m: int
    entropy: int
    exact: Exact | None


def _refuse_beside_imputation(plan: Plan, fresh_rows: bool, learned: Learned) -> None:
    """Refuse what does not go with tables that are filled in first."""
    if plan.cluster is not None:
        raise OptionError(
            "impute: trees that fill in know nothing of clusters, and would take from what their rows have in common. "
            "Leave impute out, and draw the columns by LatentNormal, which fills in with effects of clusters."
        )
    if plan.blocks:
        raise OptionError(
            "impute: LatentNormal fills in its columns itself, and Copula counts one table. Leave impute out, or the "
            "blocks."
        )
    if fresh_rows:
        raise OptionError("impute: each completed table has a fit of its own anyway. Leave fresh_rows out.")
    lost = [learned.variables[slot].name for slot in plan.strata if learned.variables[slot].has_missing]
    if lost:
        raise OptionError(
            f"impute: {', '.join(map(repr, lost))} make strata and have missing values, so rows would change their "
            "stratum from table to table. Take complete columns."
        )


def _warn_of_imputation(imputation: Imputation, model: Model, stacklevel: int) -> None:
    """Tell what has not mixed, what found no value, and where no rule is known for what is fitted."""
    worst = imputation.not_converged
    if worst:
        warnings.warn(
            f"Chains that fill in missing values have not mixed after {imputation.maxit} sweeps: "
            f"{', '.join(worst[:5])}{', ...' if len(worst) > 5 else ''}. Look at imputation_ (plot_chains), and go on "
            "with iterate(). Columns that follow from others should be passive; those that say nearly the same and "
            "that the same rows lack are drawn together by Impute(blocks=[[...]]).",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
    if imputation.stuck:
        told = ", ".join(f"{count:,} of {name!r}" for name, count in imputation.stuck.items())
        warnings.warn(
            f"Cells found nothing that rules and bounds admit: {told}. They have what they had in an earlier sweep, or "
            "what was drawn first. Do limits contradict observed values?",
            DataWarning,
            stacklevel=stacklevel,
        )
    if model.syntheses == 1 and model.plan.partial:
        warnings.warn(
            "Copies keep original values, and are one of each completed table: no rule tells imputation from synthesis "
            "there, and pool will not. Impute(syntheses=2) or more has one.",
            DataWarning,
            stacklevel=stacklevel,
        )
    if model.syntheses and model.learned_rows is not None:
        warnings.warn(
            "Models of copies of imputed tables were fitted to some of the rows (fit_rows), for which pool has no "
            "rule. Fit to all.",
            DataWarning,
            stacklevel=stacklevel,
        )


def _refuse_given_copies(model: Model) -> None:
    exact, given = model.exact, model.given
    if exact is not None and given is not None and model.variables[exact.slot].name in given.column_names:
        name = model.variables[exact.slot].name
        raise OptionError(f"copies={exact.policy!r} redraws {name!r}, which is given. Fit with copies='keep'.")


def _warn_of_restarts(climbed: Mapping[str, int], n_rows: int) -> None:
    """Rows drawn anew as a whole are no longer those of the models: what is forbidden took people away."""
    n_anew = climbed.get("", 0)
    if n_anew > MANY_RESTARTS * n_rows:
        warnings.warn(
            f"{n_anew:,} of {n_rows:,} rows had no admissible value in some column and were drawn anew as a whole: "
            "copies lack such rows. Do limits contradict each other, a rule, or the data (see differences_)?",
            DataWarning,
            stacklevel=4,
        )


def _count_climbed(output: Output) -> dict[str, int]:
    """Rows that found nothing admissible where they should, of all parts."""
    total: Counter[str] = Counter()
    for part in output.finished.values():
        total.update(part.counts)
    return dict(sorted(total.items()))


def _column_of(step: Step, model: Model) -> Column:
    """The record of a column of a loaded model."""
    variable = model.variables[step.slot]

    def value(rank: int) -> Any:
        return variable.decode(np.array([rank], variable.rank_dtype))[0].as_py()

    own = () if model.plan.cluster is None else (model.plan.cluster,)
    cont_na = [value(rank) for rank in range(1 + variable.has_nan, variable.first)]
    if step.action in ("keep", "identifier"):
        return Column(method=step.action, cont_na=cont_na)
    if step.action == "passive":
        return Column(passive=step.expression, cont_na=cont_na)
    names = [model.variables[slot].name for slot in step.predictors if model.variables[slot].calendar is None]
    earlier = [of for of in model.plan.steps[: model.plan.steps.index(step)] if of.level >= step.level]
    usual = {of.name for of in earlier if of.action not in ("identifier", "stratum", "cluster") and of.slot not in own}
    # Those that a column has without being told: sizes of clusters come with them.
    parts = [model.variables[slot].calendar for slot in range(len(model.frame.schema), len(model.variables))]
    counts = {len(model.frame.schema) + i for i, part in enumerate(parts) if part is not None and part[0] in own}
    told = set(names) != usual or (bool(counts) and counts.isdisjoint(step.predictors))
    told = told and not isinstance(step.method, Block | Sample)
    bounds = [limit.expression for limit in step.limits if limit.values_only]
    return Column(
        method=None if isinstance(step.method, Block) else step.method,
        predictors=names if told else None,
        cont_na=cont_na,
        semicont=[value(rank) for rank in step.spikes],
        rules=[Rule(rule.expression, value(rule.rank)) for rule in step.rules],
        bounds=functools.reduce(operator.and_, bounds) if bounds else None,
        numtocat=step.groups or None,
        guard=step.guard,
        smoothing=step.smoothing,
        noise=step.noise or None,
    )


def _cluster_of(plan: Plan, model: Model) -> Cluster | None:
    if plan.cluster is None:
        return None
    structure = [step.name for step in plan.steps if step.action == "structure"]
    return Cluster(model.variables[plan.cluster].name, structure)


def _refuse_few_rows(fit_rows: int | None, plan: Plan, share: bool) -> None:
    methods = [step.method for step in plan.steps]
    minbucket = max((method.minbucket for method in methods if isinstance(method, Cart | Calibrated)), default=1)
    if fit_rows is not None and fit_rows < minbucket:
        given = f"fresh_rows=True takes 63 % of the rows, {fit_rows}" if share else f"fit_rows={fit_rows}"
        raise OptionError(f"{given}: leaves of minbucket={minbucket} rows need at least as many.")


def _refuse_beyond_memory(schema: pa.Schema, m: int, k: int, memory: int) -> None:
    """Copies are kept in memory: refuse what does not fit, before hours are spent on it."""
    needed = m * k * sum(bytes_a_value(field.type) for field in schema)
    if needed > memory:
        raise OptionError(
            f"m={m} copies of k={k:,} rows need at least {needed / 2**30:,.1f} GiB; the memory limit is "
            f"{memory / 2**30:,.1f} GiB. Write them to a folder with out=, or draw fewer rows or copies at a time."
        )


def _entropy(random_state: RandomState) -> int:
    """One integer that stands for the random state; None asks the system for 128 bits."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(random_state, np.random.Generator):
        return int.from_bytes(random_state.bytes(16), "little")
    if isinstance(random_state, np.random.SeedSequence):
        return int.from_bytes(random_state.generate_state(4, np.uint32).tobytes(), "little")
    if isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool) and random_state >= 0:
        return int(random_state)
    raise OptionError(
        f"random_state={random_state!r}: must be a non-negative integer, a numpy SeedSequence or Generator, or None."
    )


@contextmanager
def _progress(progress: Progress, stage: str, total: int, unit: str) -> Iterator[Tick]:
    """Report progress: to a bar with rate and time left, to the caller's function, or to nobody."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise OptionError(f"progress={progress!r}: must be True, False, None or a function of (stage, done, total).")
    if callable(progress):
        report, done = progress, 0

        def tick(step: int) -> None:
            nonlocal done
            done += step
            report(stage, done, total)

        yield tick
        return
    shown = sys.stderr.isatty() if progress is None else bool(progress)
    with tqdm(total=total, desc=stage, unit=unit, unit_scale=True, disable=not shown, leave=False) as bar:
        yield bar.update
