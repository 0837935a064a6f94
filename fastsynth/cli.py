"""The command line: ``fastsynth demo``, ``synthesize``, ``fit``, ``sample`` and ``report``."""

from __future__ import annotations

import json
import signal
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import polars as pl

from fastsynth.blocks import BLOCKS, Block
from fastsynth.clusters import Cluster
from fastsynth.copies import Synthesis
from fastsynth.datasets import load_boys
from fastsynth.disclosure import identical_rows
from fastsynth.errors import ClusterError, FastsynthError, OptionError, OutputError
from fastsynth.impute import IMPUTERS, Impute
from fastsynth.methods import METHODS, Calibrated, Cart
from fastsynth.model_file import check_new_file
from fastsynth.options import Column, Guard, Rule, find_method
from fastsynth.output import AUDIT, Output, copy_name, part_name
from fastsynth.pictures import plot_compare
from fastsynth.pooling import format_table, pool
from fastsynth.report import check_new_report, report
from fastsynth.run import part_names
from fastsynth.source import STAT_SUFFIXES, FileSource, TableSource, open_source, parse_memory, read_table
from fastsynth.statfiles import WRITABLE, check_writable, read_statfile, write_statfile
from fastsynth.synthesis import RARE_ROWS, Synthesizer, synthesize
from fastsynth.version import __version__

CONFIG_KEYS = (
    "m",
    "k",
    "fit",
    "method",
    "columns",
    "visit_sequence",
    "predictors",
    "proper",
    "forbid",
    "where",
    "impute",
    "strata",
    "cluster",
    "blocks",
    "weights",
    "relations",
    "given",
    "fit_rows",
    "fresh_rows",
    "copies",
    "guard",
    "random_state",
    "threads",
    "memory_limit",
    "drop",
)
# Those of a Synthesizer.
FIT_CONFIG = tuple(key for key in CONFIG_KEYS if key not in ("k", "fit", "given", "drop"))
# Of [columns.NAME].
COLUMN_KEYS = tuple(Column.__dataclass_fields__)
# Of [impute].
IMPUTE_KEYS = tuple(Impute.__dataclass_fields__)

FIT_OPTIONS = (
    "m",
    "method",
    "minbucket",
    "visit_sequence",
    "proper",
    "impute",
    "strata",
    "cluster",
    "weights",
    "relations",
    "fit_rows",
    "fresh_rows",
    "copies",
    "random_state",
    "threads",
    "scheduler",
    "memory_limit",
    "drop",
    "config",
)


class _Group(click.Group):
    """Turns the library's errors into one line and exit code 1; others are faults and keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        # Temporary files hold real values and go when the program ends, but for this signal's own way of ending it.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        try:
            return super().invoke(ctx)
        except FastsynthError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            if ctx.invoked_subcommand in ("synthesize", "sample"):
                click.echo(
                    "Interrupted. Finished parts of Parquet stay: the same command with --resume goes on.", err=True
                )
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastsynth")
def main() -> None:
    """Synthetic copies of a table about people, and honest standard errors from them."""


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command some of the shared options."""
    known = {
        "m": click.option("-m", type=int, help="Number of copies (5, or that of the model)."),
        "k": click.option("-k", type=int, help="Rows of each copy (as many as the original)."),
        "method": click.option(
            "--method", help=f"Of columns without their own: {', '.join([*METHODS, *BLOCKS])} (calibrated)."
        ),
        "minbucket": click.option("--minbucket", type=int, help="Fewest rows in a leaf (that of the method)."),
        "visit_sequence": click.option(
            "--visit-sequence", type=click.Choice(["auto", "table"]), help="Columns by kind (auto) or as in the table."
        ),
        "strata": click.option("--strata", multiple=True, metavar="COLUMN", help="Models for each of its values."),
        "cluster": click.option("--cluster", metavar="COLUMN", help="Rows with the same value belong together."),
        "impute": click.option(
            "--impute", is_flag=True, default=None, help="Fill in missing values before, anew for each copy."
        ),
        "weights": click.option("--weights", metavar="COLUMN", help="Survey weights: copies represent the population."),
        "relations": click.option(
            "--relations", type=click.Choice(["auto"]), help="Find exact relations and keep them."
        ),
        "given": click.option("--given", metavar="FILE", help="Columns that are fixed; the rest is drawn given them."),
        "proper": click.option("--proper", is_flag=True, default=None, help="Fit each copy to a bootstrap sample."),
        "fit_rows": click.option("--fit-rows", type=int, help="Rows that models are fitted on (all)."),
        "fresh_rows": click.option("--fresh-rows", is_flag=True, default=None, help="Other rows for each copy."),
        "copies": click.option("--copies", help="'fresh' or 'none' redraws rows that equal a real one ('keep')."),
        "memory_limit": click.option("--memory-limit", help="Such as '6 GB' (four fifths of the memory)."),
        "fit": click.option("--fit", help="'partition' fits pieces of large tables by themselves ('whole')."),
        "resume": click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder."),
        "random_state": click.option("--random-state", type=int, help="Same number, same copies."),
        "threads": click.option("--threads", type=int, help="Threads (all processors)."),
        "scheduler": click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do the work."),
        "format": click.option(
            "--format",
            "suffix",
            type=click.Choice(["parquet", *(suffix[1:] for suffix in WRITABLE)]),
            callback=lambda _context, _option, name: name and f".{name}",
            help="Of the copies: Parquet, or a file of SPSS, Stata or SAS (as the original; of other files Parquet).",
        ),
        "drop": click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated."),
        "config": click.option(
            "--config",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="TOML file with the same keys as in Python, columns as [columns.NAME] with passive as SQL text.",
        ),
    }

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = known[name](command)
        return command

    return give


@main.command("synthesize")
@click.argument("source", metavar="IN...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, help="New or empty folder for the copies, or its URI.")
@_options(*FIT_OPTIONS, "k", "given", "fit", "format", "resume")
def synthesize_command(
    source: tuple[str, ...], out: str, config: Path | None, suffix: str | None, resume: bool, **given: Any
) -> None:
    """Write m synthetic copies of Parquet, Arrow IPC or CSV files (or folders of them) as Parquet.

    A file of SPSS, Stata or SAS is read as a whole, and copies are written as such files.
    """
    Output(out, resume)
    options = _read_options(config, given)
    suffix = suffix or _suffix_of_copies(source)
    if suffix == ".parquet":
        synthesis = synthesize(_open(source, options), **options, out=out, resume=resume)
        _report(synthesis, out)
    else:
        _refuse_in_statfiles(suffix, out, resume, options.get("fit", "whole"))
        table = _open(source, options)
        check_writable(table.frame.schema, suffix)
        synthesis = synthesize(table, **options)
        _write_statfiles(synthesis, out, suffix)
    _warn_of_rare_levels(synthesis)


@main.command()
@click.argument("source", metavar="IN...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Model file to write.")
@_options(*FIT_OPTIONS)
def fit(source: tuple[str, ...], out: Path, config: Path | None, **given: Any) -> None:
    """Fit files (as in synthesize) and save the model. It holds real values: keep it like the data."""
    check_new_file(out)
    options = _read_options(config, given)
    for name in ("k", "fit", "given"):  # options of synthesize
        options.pop(name, None)
    table = _open(source, options)
    synthesizer = Synthesizer(**options).fit(table)
    synthesizer.save(out)
    click.echo(f"Model of {synthesizer.n_rows_:,} rows: {out} (holds real values)")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, help="New or empty folder for the copies, or its URI.")
@_options("m", "k", "given", "random_state", "threads", "scheduler", "format", "resume")
def sample(
    model: Path, out: str, threads: int | None, scheduler: str | None, suffix: str | None, resume: bool, **given: Any
) -> None:
    """Draw copies from a saved model, as Parquet if no --format is given; the data are not needed."""
    Output(out, resume)
    if suffix not in (None, ".parquet"):
        _refuse_in_statfiles(suffix, out, resume)
    synthesizer = Synthesizer.load(model, threads=threads, client=_client(scheduler))
    if suffix in (None, ".parquet"):
        _report(synthesizer.sample(**given, out=out, resume=resume), out)
        return
    check_writable(synthesizer.model_.frame.schema, suffix)
    _write_statfiles(synthesizer.sample(**given), out, suffix)


@main.command("report")
@click.argument("original", metavar="ORIGINAL")
@click.argument("copies", metavar="COPIES...", nargs=-1, required=True)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="HTML file to write.")
@click.option("--key", "keys", multiple=True, metavar="COLUMN", help="An intruder may know it; may be repeated.")
@click.option("--target", multiple=True, metavar="COLUMN", help="An intruder wants it; may be repeated (all others).")
@click.option("--formula", help="Model to fit to both, such as 'income ~ age + C(sex)'.")
@click.option("--holdout", metavar="FILE|SHARE", help="Real rows that the copies were not made from, or a share.")
@click.option("--shadows", type=int, default=0, help="Shadow models of the membership attack (none).")
@click.option("--audience", type=click.Choice(["internal", "public"]), default="internal", show_default=True)
@click.option("--weights", metavar="COLUMN", help="Survey weights, for utility.")
@click.option("--column", "columns", multiple=True, metavar="COLUMN", help="Compare it; may be repeated (all).")
@_options("random_state", "threads", "scheduler", "memory_limit", "drop", "config")
def report_command(
    original: str,
    copies: tuple[str, ...],
    out: Path,
    holdout: str | None,
    scheduler: str | None,
    config: Path | None,
    **given: Any,
) -> None:
    """Write an HTML report on copies (a folder of synthesize, or one file each) of ORIGINAL.

    An internal report shows real values and rows: keep it like the data. A share as hold-out, and shadow models, make
    copies anew: --config names the options of the synthesis (an empty file: the default ones).
    """
    check_new_report(out)
    options: dict[str, Any] = {
        name: list(x) if isinstance(x, tuple) else x for name, x in given.items() if x not in (None, ())
    }
    opening = {"memory_limit": options.get("memory_limit")}
    held: Any = holdout and _share(holdout)
    if isinstance(held, str):
        held = _open((held,), dict(opening))
    if config is not None:
        known = {name: value for name, value in _read_config(config).items() if name in FIT_CONFIG}
        options["recipe"] = Synthesizer(**known)
    source = _open((original,), opening | {"drop": options.pop("drop", ())})
    done = report(source, _read_copies(copies), out, **options, holdout=held, client=_client(scheduler))
    audience = "holds real values" if options["audience"] == "internal" else "public"
    click.echo(f"Report: {done.path} ({audience})")


def _share(holdout: str) -> float | str:
    """A share of the rows, or the path that it is otherwise."""
    try:
        return float(holdout)
    except ValueError:
        return holdout


def _read_copies(paths: tuple[str, ...]) -> Any:
    """A folder of copies as such, else one table for each path."""
    if len(paths) == 1 and Synthesis.is_folder(paths[0]):
        return Synthesis.read(paths[0])
    return [read_statfile(path).table if Path(path).suffix.lower() in STAT_SUFFIXES else path for path in paths]


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("fastsynth-demo"),
    show_default=True,
    help="New or empty folder for the copies and the picture.",
)
@click.option("-m", type=int, default=5, show_default=True, help="Number of copies.")
@click.option("--random-state", type=int, default=1, show_default=True, help="Same number, same copies.")
def demo(out: Path, m: int, random_state: int) -> None:
    """Synthesise 748 Dutch boys, fit a model to every copy, pool, and compare with the original."""
    try:
        import matplotlib  # noqa: F401, for the picture at the end
        import statsmodels.formula.api as smf
    except ImportError:
        raise FastsynthError("The demo needs statsmodels and matplotlib: pip install 'fastsynth[demo]'.") from None
    Output(out)
    boys = load_boys()
    # Body mass index as in the data: cut to two decimals. It is computed from the synthetic weight and height.
    bmi = (pl.col("wgt") / (pl.col("hgt") / 100) ** 2).truncate(2)
    synthesis = synthesize(boys, m=m, columns={"bmi": Column(passive=bmi)}, random_state=random_state)

    def fit_model(copy: pl.DataFrame) -> Any:
        return smf.ols("hgt ~ age + C(phb, Poly)", copy.to_pandas()).fit()

    pooled = pool(synthesis.analyse(fit_model))
    original = fit_model(boys)
    compared = pooled.compare(original).table.select("term", "original", "overlap").join(pooled.table, on="term")
    shown = compared.select(
        "term",
        "original",
        pl.Series("std_error (original)", original.bse.to_numpy()),
        pl.col("estimate").alias("synthetic"),
        "std_error",
        "conf_low",
        "conf_high",
        "overlap",
    ).with_columns(pl.col("term").replace(_R_NAMES))
    click.echo(f"{synthesis!r}; bmi is computed from the synthetic wgt and hgt\n")
    click.echo(f"hgt ~ age + phb, {m} copies pooled, beside the fit on the original:\n")
    click.echo(format_table(shown))
    click.echo(f"\nRule: {pooled.rule} ({pooled.reason})")
    overlap = shown["overlap"].to_numpy().mean()
    click.echo(f"Overlap: share that the 95 % intervals of copies and original have in common; mean {overlap:.3f}")
    table, _ = read_table(boys)
    identical = identical_rows(table, (synthesis.arrow(i) for i in range(m)))
    click.echo(
        f"Synthetic rows identical to a real row: {100 * identical.share:.2f} % "
        f"(expected of a fresh sample of real boys: {100 * identical.fresh:.2f} %)"
    )
    synthesis.write_parquet(out)
    _report(synthesis, str(out))
    picture = out / "marginals.png"
    plot_compare(table, synthesis, picture)
    click.echo(f"Marginals, original against synthetic: {picture}")


# What R calls the polynomial contrasts of an ordered factor.
_R_NAMES = {
    "Intercept": "(Intercept)",
    "C(phb, Poly).Linear": "phb.L",
    "C(phb, Poly).Quadratic": "phb.Q",
    "C(phb, Poly).Cubic": "phb.C",
    "C(phb, Poly)^4": "phb^4",
    "C(phb, Poly)^5": "phb^5",
}


def _suffix_of_copies(paths: tuple[str, ...]) -> str:
    """Suffix of the copies of these files, if none was asked for."""
    suffix = Path(paths[0]).suffix.lower()
    if suffix not in STAT_SUFFIXES:
        return ".parquet"
    if suffix not in WRITABLE:
        click.echo(f"Nothing but SAS writes {suffix}: copies will be .xpt, which SAS reads as well.", err=True)
        return ".xpt"
    return suffix


def _refuse_in_statfiles(suffix: str, out: str, resume: bool, fit: str = "whole") -> None:
    """Copies as files of SPSS, Stata and SAS are drawn in memory and written at the end."""
    refused = [name for name, given in (("--resume", resume), (f"fit={fit!r}", fit != "whole")) if given]
    if "://" in out:
        refused.append("a URI as folder")
    if refused:
        raise OptionError(f"Copies as {suffix} are written at once: no {', '.join(refused)}. Add --format parquet.")


def _write_statfiles(synthesis: Synthesis, out: str, suffix: str) -> None:
    """Write copies as files of SPSS, Stata or SAS, and then the audit, which says that nothing is missing."""
    folder = Path(out)
    names = [str(Path(part_name(i, synthesis.m, 0, 1)).with_suffix(suffix)) for i in range(synthesis.m)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lost = [what for i, name in enumerate(names) for what in write_statfile(synthesis.arrow(i), folder / name)]
        (folder / AUDIT).write_text(json.dumps(synthesis.audit, indent=2) + "\n", encoding="utf-8")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write to {out!r} ({type(error).__name__}).") from None
    _report(synthesis, out, names)
    if lost:
        click.echo(f"Not in {suffix} files: {'; '.join(dict.fromkeys(lost))}.", err=True)


def _report(synthesis: Synthesis, out: str, names: list[str] | None = None) -> None:
    if names is None:
        names = [copy_name(parts) for parts in part_names(synthesis.m, synthesis.k)]
    what = "completed tables (real rows)" if synthesis.design.imputed and not synthesis.design.syntheses else "copies"
    click.echo(
        f"{synthesis.m} {what} of {synthesis.k:,} rows: {out}/{names[0]}" + (f" ... {names[-1]}" * (len(names) > 1))
    )


def _warn_of_rare_levels(synthesis: Synthesis) -> None:
    rare = synthesis.summary().filter(pl.col("n_rare_levels") > 0)
    if rare.height:
        counts = ", ".join(f"{name} {count:,}" for name, count in rare.select("column", "n_rare_levels").iter_rows())
        click.echo(
            f"Levels of fewer than {RARE_ROWS} real rows, whose people can be found in a copy: {counts}. Consider "
            "grouping them.",
            err=True,
        )


def _open(paths: tuple[str, ...], options: dict[str, Any]) -> TableSource | FileSource:
    drop = options.pop("drop", ())
    missing: dict[str, list[Any]] = {}
    if len(paths) == 1 and Path(paths[0]).suffix.lower() in STAT_SUFFIXES:
        file = read_statfile(paths[0])
        missing = {name: codes for name, codes in file.missing.items() if name not in drop}
        source: TableSource | FileSource = open_source(file.table)
    else:
        source = open_source(list(paths), parse_memory(options.get("memory_limit")))
    unknown = [name for name in drop if name not in source.frame.schema.names]
    if unknown:
        raise OptionError(f"drop: no column {', '.join(map(repr, unknown))} in {', '.join(paths)}.")
    if missing:
        options["columns"] = _with_missing(options.get("columns", {}), missing)
    return source.without(drop)


def _with_missing(columns: Mapping[str, Column], missing: Mapping[str, list[Any]]) -> dict[str, Column]:
    """Columns with the missing values that their file declares; those that the caller gave stay."""
    declared = {name: columns.get(name, Column()) for name in missing}
    return {**columns, **{name: replace(c, cont_na=c.cont_na or missing[name]) for name, c in declared.items()}}


def _client(scheduler: str | None) -> Any:
    if scheduler is None:
        return None
    try:
        from distributed import Client

        return Client(scheduler, timeout=10)
    except ImportError:
        raise FastsynthError("--scheduler needs Dask: pip install 'fastsynth[dask]'.") from None
    except (OSError, ValueError) as error:
        raise ClusterError(f"Cannot reach the scheduler at {scheduler!r} ({type(error).__name__}).") from None


def _read_options(config: Path | None, given: dict[str, Any]) -> dict[str, Any]:
    """Options of the TOML file, then those of the command line, which win."""
    options: dict[str, Any] = {} if config is None else _read_config(config)
    if isinstance(options.get("impute"), Impute):
        # --impute says the same, and less.
        given = given | {"impute": None}
    options.update({name: value for name, value in given.items() if value not in (None, ())})
    options["client"] = _client(options.pop("scheduler", None))
    minbucket = options.pop("minbucket", None)
    if minbucket is not None:
        method = options.get("method", "calibrated")
        joint = isinstance(method, Block) or (isinstance(method, str) and method in BLOCKS)
        method = method if joint else find_method(method)
        if not isinstance(method, Cart | Calibrated):
            raise OptionError(f"--minbucket is an option of methods cart and calibrated, not of {method!r}.")
        options["method"] = replace(method, minbucket=minbucket)
    return options


def _read_config(path: Path) -> dict[str, Any]:
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: not a TOML file ({error}).") from None
    unknown = [key for key in options if key not in CONFIG_KEYS]
    if unknown:
        raise OptionError(f"{path}: unknown key {', '.join(unknown)}; allowed are {', '.join(CONFIG_KEYS)}.")
    columns = options.get("columns", {})
    if not isinstance(columns, dict):
        raise OptionError(f"{path}: columns must be tables such as [columns.income].")
    for key in ("visit_sequence", "drop", "strata", "forbid"):
        words = ("auto", "table") if key == "visit_sequence" else ()
        if not isinstance(options.get(key, []), list) and options[key] not in words:
            what = " or ".join(["SQL texts" if key == "forbid" else "column names", *map(repr, words)])
            raise OptionError(f"{path}: {key} must be a list of {what}.")
    options["method"] = _method(options.get("method", "calibrated"))
    if "guard" in options:
        options["guard"] = _guard(options["guard"])
    if isinstance(options.get("cluster"), dict):
        options["cluster"] = _cluster(options["cluster"])
    if isinstance(options.get("impute"), dict):
        options["impute"] = _impute(options["impute"])
    if "blocks" in options:
        options["blocks"] = _blocks(options["blocks"])
    options["columns"] = {name: _column(name, record) for name, record in columns.items()}
    return options


def _column(name: str, record: Any) -> Column:
    if not isinstance(record, dict) or any(key not in COLUMN_KEYS for key in record):
        raise OptionError(f"[columns.{name}] may hold {', '.join(COLUMN_KEYS)}; given is {record!r}.")
    read = {"method": _method, "rules": _rules, "bounds": _bounds, "coding": _bounds}
    read |= {"rare_levels": _rare_levels, "guard": _guard}
    return Column(**{key: read[key](value) if key in read else value for key, value in record.items()})


def _cluster(record: dict[str, Any]) -> Cluster:
    if not {"column"} <= {*record} <= {"column", "structure"}:
        raise OptionError(f"cluster={record!r}: must be a column, or a table with column and structure.")
    return Cluster(**record)


def _impute(record: dict[str, Any]) -> Impute:
    if not {*record} <= {*IMPUTE_KEYS}:
        raise OptionError(f"[impute] may hold {', '.join(IMPUTE_KEYS)}; given is {record!r}.")
    method = record.get("method", "cart")
    if isinstance(method, dict):
        # By column, unless it is the name of one method, and its options.
        whole = method.get("name") in IMPUTERS
        method = _imputer(method) if whole else {name: _imputer(of_column) for name, of_column in method.items()}
    return Impute(**record | {"method": method})


def _imputer(record: Any) -> Any:
    """A method's name, or a table with its name and options."""
    if not isinstance(record, dict):
        return record
    options = {key: value for key, value in record.items() if key != "name"}
    try:
        return IMPUTERS[record["name"]](**options)
    except (KeyError, TypeError):
        raise OptionError(
            f"method {record!r} of [impute]: must be a name ({', '.join(IMPUTERS)}), or a table of it and its options."
        ) from None


def _blocks(records: Any) -> list[Block]:
    """A list of tables with name, columns and further options."""
    if not isinstance(records, list) or not all(isinstance(r, dict) and r.get("name") in BLOCKS for r in records):
        raise OptionError(
            f'blocks={records!r}: must be a list such as [{{name = "joint", columns = ["a", "b"]}}]; names are '
            f"{', '.join(BLOCKS)}."
        )
    return [_method(record) for record in records]


def _rules(records: Any) -> list[Rule]:
    """A list of tables with when and value; TOML has no null, so that a rule without a value sets it."""
    if not isinstance(records, list) or not all(
        isinstance(r, dict) and {"when"} <= {*r} <= {"when", "value"} for r in records
    ):
        raise OptionError(f'rules={records!r}: must be a list such as [{{when = "age < 16", value = "single"}}].')
    return [Rule(when=record["when"], value=record.get("value")) for record in records]


def _bounds(record: Any) -> Any:
    """SQL text, a list of two limits, or a table with low or high, where there is one of them."""
    if not isinstance(record, dict):
        return record
    if not record or not {*record} <= {"low", "high"}:
        raise OptionError(f"bounds={record!r}: must be SQL text, [low, high], or a table with low or high.")
    return record.get("low"), record.get("high")


def _rare_levels(record: Any) -> Any:
    """A list of two, or a table with fewer_than and level; without a level such values are held back."""
    if not isinstance(record, dict):
        return record
    if not {"fewer_than"} <= {*record} <= {"fewer_than", "level"}:
        raise OptionError(f"rare_levels={record!r}: must be [10, 'other'], or a table with fewer_than, and level.")
    return record["fewer_than"], record.get("level")


def _guard(record: Any) -> Any:
    if not isinstance(record, dict) or not {*record} <= {*Guard.__dataclass_fields__}:
        raise OptionError(f"guard={record!r}: must be a table with {', '.join(Guard.__dataclass_fields__)}.")
    return Guard(**record)


def _method(record: Any) -> Any:
    """A method's name, or a table with its name and options."""
    if not isinstance(record, dict):
        return record
    options = {key: value for key, value in record.items() if key != "name"}
    if record.get("name") not in [*METHODS, *BLOCKS]:
        raise OptionError(f"method {record!r}: name must be one of {', '.join([*METHODS, *BLOCKS])}.")
    try:
        if record["name"] in BLOCKS:
            return BLOCKS[record["name"]](*options.pop("columns", ()), **options)
        return METHODS[record["name"]](**options)
    except TypeError:
        raise OptionError(f"method {record!r}: unknown option of {record['name']}.") from None
