"""What a synthesis gives back: copies in memory or in files, and how they were made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fastsynth.errors import OptionError, check_count
from fastsynth.estimates import Estimates, read_fit
from fastsynth.estimators import Analysis
from fastsynth.execute import Executor, Threads
from fastsynth.model import Model
from fastsynth.output import AUDIT, MANIFEST, Output, copy_name, read_folder
from fastsynth.pooling import Analyses
from fastsynth.regressions import AddedNoise, informed
from fastsynth.rules import Design
from fastsynth.run import find_v, fingerprint, part_names, write_table
from fastsynth.source import FileSource, Frame, Source, TableSource, filesystem, open_source
from fastsynth.version import __version__


@dataclass(frozen=True, slots=True)
class FileCopy:
    """A copy that was written to a folder."""

    folder: str
    names: list[str]

    def paths(self) -> list[str]:
        """Its files."""
        return [f"{self.folder}/{name}" for name in self.names]

    def read(self) -> pa.Table:
        """Read all of it."""
        system, inside = filesystem(self.folder)
        return pa.concat_tables([pq.ParquetFile(f"{inside}/{name}", filesystem=system).read() for name in self.names])

    def scan(self) -> pl.LazyFrame:
        """All of it, not yet read."""
        return pl.scan_parquet(self.paths(), glob=False)


def _opened(path: str) -> tuple[str, Any]:
    """Path within a file system, and the system."""
    system, inside = filesystem(path)
    return inside, system


def _whole(copy: pa.Table | FileCopy, frame: Frame) -> pa.Table:
    # Parquet forgets whether text in a dictionary is large.
    return copy.read().cast(frame.schema) if isinstance(copy, FileCopy) else copy


def _scan(copy: pa.Table | FileCopy) -> pl.LazyFrame:
    if isinstance(copy, FileCopy):
        return copy.scan()
    frame = pl.from_arrow(copy)
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _analyse(copy: pa.Table | FileCopy, frame: Frame, function: Callable[[Any], Any]) -> Any:
    if isinstance(function, Analysis):
        return function(_scan(copy))
    return function(frame.native(_whole(copy, frame)))


def _estimate(function: Callable[[Any], Any], copy: pa.Table | FileCopy, frame: Frame) -> Estimates:
    return read_fit(_analyse(copy, frame, function))


class Synthesis(Sequence[Any]):
    """m synthetic copies of a table, in memory or in files.

    ``syn[0]`` is the first copy, the same kind of table as the original; ``len(syn)`` and iteration work as on a list,
    and a slice is a Synthesis of some of the copies.

    Attributes
    ----------
    m, k, n : int
        Copies, rows of each, rows of the original.
    design : Design
        How the copies were made, for ``pool``.
    random_state_ : int
        Give it as ``random_state`` to draw the same copies again.
    climbed : dict of str to int
        By column, the rows in all copies for which no donor of the leaf met the limits, so that one from further up the
        tree did; under "" rows that were drawn anew as a whole. None for some of the copies.
    exact : dict or None
        What was done about rows that equal a real one: policy ("fresh" or "none"), column (that is redrawn), found
        (share of such rows before), expected (their share in a fresh sample). None if nothing was, or had to be.
    recipe : Synthesizer or None
        The options that the copies were made with, not fitted: disclosure measures that make copies of other rows need
        it. None for copies of a folder, of a loaded model, of single cells, and for private ones.
    protection : list of dict
        What ``protect`` did to the copies: names and counts.
    private : dict or None
        Of differentially private copies the guarantee, and what each column spent.
    imputation : dict or None
        Where missing values were filled in first: cells by column, sweeps, and what has not converged.
    """

    def __init__(
        self,
        copies: Sequence[pa.Table | FileCopy],
        frame: Frame,
        design: Design,
        random_state: int,
        records: list[dict[str, Any]],
        partitions: int | None = None,
    ) -> None:
        self._copies = copies
        self._frame = frame
        self._records = records
        self._partitions = partitions
        self.climbed: dict[str, int] | None = {}
        self.recipe: Any = None
        self.exact: dict[str, Any] | None = None
        self.protection: list[dict[str, Any]] = []
        self.private: dict[str, Any] | None = None
        self.imputation: dict[str, Any] | None = None
        self.design = design
        self.random_state_ = random_state

    @property
    def m(self) -> int:
        """Number of copies."""
        return self.design.m

    @property
    def k(self) -> int:
        """Rows of each copy."""
        return self.design.k

    @property
    def n(self) -> int:
        """Rows of the original."""
        return self.design.n

    @property
    def v(self) -> float | None:
        """Variance of slopes of the copies around the original's beyond what drawing rows explains.

        In units of the original's variance, the mean over all pairs of (the first 20) numeric columns. About 0 for
        calibrated trees, .1 to .7 for plain ones, whose intervals are too short (docs/calibrated.md); above .15
        ``pool`` says so. Few columns leave it uncertain by .1 or .2. None without two numeric columns.
        """
        return self.design.v

    def __len__(self) -> int:
        return len(self._copies)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            some = self._copies[i]
            design = replace(self.design, m=len(some))
            part = Synthesis(some, self._frame, design, self.random_state_, self._records, self._partitions)
            part.climbed = self.climbed if len(some) == len(self) else None
            part.recipe, part.exact, part.protection = self.recipe, self.exact, self.protection
            part.private, part.imputation = self.private, self.imputation
            return part
        return self._frame.native(_whole(self._copies[i], self._frame))

    def __iter__(self) -> Iterator[Any]:
        return (self._frame.native(_whole(copy, self._frame)) for copy in self._copies)

    def __repr__(self) -> str:
        if self.design.imputed and not self.design.syntheses:
            size = f"{self.k} rows x {len(self._frame.schema.names)} columns"
            return f"Synthesis: m={self.m} completed tables (real rows) of {size}"
        kind = "proper" if self.design.proper else "simple"
        if self.design.imputed:
            kind += f", of {self.m // self.design.syntheses} imputed tables"
        whole = "partially" if self.design.partial else "fully"
        size = f"k={self.k} rows x {len(self._frame.schema.names)} columns"
        rows = (
            f", models of {self.design.n_s} {'shared' if self.design.shared else 'fresh'} rows" * self.design.subsampled
        )
        return f"Synthesis: m={self.m} {whole} synthetic copies of {size} (n={self.n}, {kind}{rows})"

    def summary(self) -> pl.DataFrame:
        """One row for each column, as ``Synthesizer.summary``, and n_climbed, as ``climbed``."""
        limited = pl.col("column").replace_strict(self.climbed or {}, default=None, return_dtype=pl.Int64)
        return summary_of(self._records).with_columns(limited.alias("n_climbed"))

    @property
    def identifiers(self) -> list[str]:
        """Columns of fresh identifiers, or names of clusters, which have nothing to do with those of the original."""
        return [record["column"] for record in self._records if record["action"] in ("identifier", "cluster")]

    @property
    def kept(self) -> list[str]:
        """Columns with the original's values in every row."""
        return [record["column"] for record in self._records if record["action"] == "keep"]

    @property
    def noise(self) -> AddedNoise:
        """Noise that was declared (``Column(noise=)``, ``controls.Noise``), for ``fs.slopes(..., corrected=True)``."""
        noisy = {record["column"]: record["noise"] for record in self._records if record.get("noise")}
        partly = {record["column"] for record in self._records if record.get("noise") and record["n_spikes"]}
        after: dict[str, float] = {}
        for done in self.protection:
            if done["measure"] == "Noise":
                name = done["columns"][0]
                # Twice is more: variances of what is added add up, in units of a variance that is kept.
                after[name] = ((1 + after.get(name, 0.0) ** 2) * (1 + done["share"] ** 2) - 1) ** 0.5
                partly |= {name} if done.get("leave") else set()
        drawn = {name: share for name, share in noisy.items() if name not in partly}
        turn = {record["column"]: record.get("turn", 0) for record in self._records}
        return AddedNoise(drawn, turn, {n: share for n, share in after.items() if n not in partly}, partly)

    @staticmethod
    def is_folder(path: str | os.PathLike[str]) -> bool:
        """Whether copies can be read from a folder."""
        try:
            system, inside = filesystem(os.fspath(path).rstrip("/"))
            found = system.get_file_info([f"{inside}/{AUDIT}", f"{inside}/{MANIFEST}"])
        except (OSError, pa.ArrowException, ValueError):
            return False
        return all(info.type == pafs.FileType.File for info in found)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Synthesis:
        """Open a folder of copies that ``synthesize(out=...)`` or ``write_parquet`` wrote, for analysis and ``pool``.

        Copies are read when they are used, and given as polars DataFrames.

        Raises
        ------
        OutputError
            No finished copies in the folder.

        Examples
        --------
        >>> import tempfile
        >>> import fastsynth as fs
        >>> folder = tempfile.mkdtemp()
        >>> _ = fs.synthesize(fs.load_boys(), m=2, random_state=1, out=folder)
        >>> fs.Synthesis.read(folder)
        Synthesis: m=2 fully synthetic copies of k=748 rows x 9 columns (n=748, simple)
        """
        place, audit, parts = read_folder(folder)
        names = ("n", "k", "m", "proper", "partial", "fit_rows")
        noted = {"fresh": audit["fresh_rows"], "v": audit.get("v"), "private": "private" in audit}
        noted |= {"imputed": audit.get("imputed", False), "syntheses": audit.get("syntheses", 1)}
        design = Design(**{name: audit[name] for name in names}, **noted)
        copies = [FileCopy(place, of_copy) for of_copy in parts]
        schema = pq.read_schema(*_opened(copies[0].paths()[0]))
        frame = Frame("polars", False, schema)
        found = cls(copies, frame, design, audit["random_state"], audit["columns"], audit["partitions"])
        found.climbed, found.exact = audit["climbed"], audit.get("copies")
        found.protection = audit.get("protection", [])
        found.private, found.imputation = audit.get("private"), audit.get("imputation")
        return found

    def arrow(self, i: int) -> pa.Table:
        """Copy i as a pyarrow Table with the exact schema of the original."""
        return _whole(self._copies[i], self._frame)

    def scan(self, i: int) -> pl.LazyFrame:
        """Copy i as a polars LazyFrame; written copies are not read before they are needed."""
        return _scan(self._copies[i])

    def analyse(self, function: Callable[[Any], Any], client: Any = None) -> Analyses:
        """Run an analysis on each copy; copies in files are read one at a time.

        Parameters
        ----------
        function : callable
            Gets one copy, in the caller's kind of table, and returns what ``pool`` can read. Functions such as
            ``fs.mean("age")`` get a copy that is not read yet, and read what they need.
        client : distributed.Client, optional
            Workers of a Dask cluster each read and analyse a copy; what comes back are estimates, not fitted results.

        Returns
        -------
        Analyses
            A list that knows how the copies were made.

        Examples
        --------
        >>> import fastsynth as fs
        >>> syn = fs.synthesize(fs.load_boys(), m=3, random_state=1)
        >>> fits = syn.analyse(lambda d: (d["hgt"].mean(), d["hgt"].var() / d.height))
        >>> fs.pool(fits).rule
        'raab2016'
        """
        if not callable(function):
            raise OptionError(f"analyse needs a function of one copy, for example lambda d: ..., not {function!r}.")
        if isinstance(function, Analysis):
            function = informed(function, self.noise)
        if client is None:
            return Analyses([_analyse(copy, self._frame, function) for copy in self._copies], self.design)
        jobs = [(copy, self._frame) for copy in self._copies]
        fits = executor_of(None, client).map(_estimate, function, jobs, lambda _, estimates: estimates)
        return Analyses(fits, self.design)

    @property
    def audit(self) -> dict[str, Any]:
        """What was done, ready for JSON: counts, names and options, no values of the data."""
        private = {} if self.private is None else {"private": self.private}
        return (
            private
            | {
                "fastsynth": __version__,
                "n": self.n,
                "k": self.k,
                "m": self.m,
                "proper": self.design.proper,
                "partial": self.design.partial,
                "fit_rows": self.design.fit_rows,
                "fresh_rows": self.design.fresh,
                "imputed": self.design.imputed,
                "syntheses": self.design.syntheses,
                "v": self.design.v,
                "fit": "whole" if self._partitions is None else "partition",
                "partitions": self._partitions,
                "climbed": self.climbed,
                "copies": self.exact,
                "random_state": self.random_state_,
                "columns": self._records,
            }
            | ({"protection": self.protection} if self.protection else {})
            | ({"imputation": self.imputation} if self.imputation else {})
        )

    def write_parquet(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write copies, manifest.json and audit.json into a new or empty folder, as ``synthesize(out=...)`` does.

        Returns
        -------
        list of str
            Paths of the copies: files, or folders of parts for more than 524,288 rows. After an error the folder is as
            it was.

        Raises
        ------
        OutputError
            The folder is not empty, is a file, or cannot be written.
        """
        output = Output(folder)
        names = part_names(self.m, self.k)
        try:
            output.begin(identity(self))
            for copy, of_copy in zip(self._copies, names, strict=True):
                write_table(_whole(copy, self._frame), output, of_copy)
            output.finish(self.audit)
        except BaseException:
            output.discard()
            raise
        return [f"{output.folder}/{copy_name(of_copy)}" for of_copy in names]


def summary_of(records: list[dict[str, Any]]) -> pl.DataFrame:
    """Records of columns as a table."""
    return pl.DataFrame(records, infer_schema_length=None).select(
        "column",
        "action",
        pl.col("method").cast(pl.String),
        pl.col("predictors").list.len().cast(pl.Int64).alias("n_predictors"),
        pl.col("predictors").cast(pl.List(pl.String)),
        pl.col("n_leaves", "smallest_leaf", "n_rare_levels").cast(pl.Int64),
        pl.col("leaf_spread").cast(pl.List(pl.Float64)),
        pl.col("decision").cast(pl.String),
        pl.col("n_missing_kinds", "n_spikes", "n_differ", "n_coded").cast(pl.Int64),
        pl.col("protection").cast(pl.List(pl.String)),
    )


def compare(synthesis: Synthesis, model: Model, executor: Executor, copies: list[list[Any]] | None = None) -> None:
    """Find v, of these copies unless others are given; rounded, because sums of pieces end in different bits.

    Copies of completed tables vary for what was missing, too, and are not those of the original's complete pairs.
    """
    if model.filled is not None:
        return
    own = [copy.paths() if isinstance(copy, FileCopy) else [copy] for copy in synthesis._copies]
    v = find_v(model, own if copies is None else copies, executor)
    synthesis.design = replace(synthesis.design, v=None if v is None else round(v, 3))


def identity(synthesis: Synthesis, model: Model | None = None, rows: Any = (), trees: Any = ()) -> dict[str, Any]:
    """What tells one run from another: options, counts, and digits of data, plan and models."""
    names = ("fastsynth", "n", "k", "m", "random_state", "proper", "fit_rows", "fresh_rows", "fit")
    run = {name: synthesis.audit[name] for name in names}
    if model is not None:
        run["data"] = fingerprint(model.frame.schema, model.variables, rows)
        run["options"] = fingerprint(model.plan.steps)
        run["copies"] = "keep" if model.exact is None else model.exact.policy
        run["models"] = fingerprint(trees)
        if model.given is not None:
            run["given"] = fingerprint(model.given)
    return run


def source_of(data: Any, client: Any, memory: int) -> Source:
    """Rows of any table, in memory, in files, or on the workers of a client."""
    if client is not None and type(data).__module__.startswith("dask."):
        from fastsynth.dask import DaskSource

        return DaskSource(data, client)
    source = data if isinstance(data, TableSource | FileSource) else open_source(data, memory)
    if client is not None and isinstance(source, FileSource) and source.temporary:
        raise OptionError("Workers of a cluster cannot read CSV in pieces. Convert it to Parquet first.")
    return source


def executor_of(threads: int | None, client: Any) -> Executor:
    """Threads, or the workers of a Dask client."""
    if client is None:
        return Threads(None if threads is None else check_count("threads", threads))
    from fastsynth.dask import Cluster  # only who has a client has loaded Dask

    return Cluster(client)
