"""fastsynth: multiply imputed synthetic microdata from large tables, and valid inference from them."""

from fastsynth import controls
from fastsynth.ampute import ampute
from fastsynth.blocks import Copula, LatentNormal
from fastsynth.clusters import Cluster
from fastsynth.copies import Synthesis
from fastsynth.datasets import load_boys
from fastsynth.disclosure import Disclosure, disclosure
from fastsynth.domains import Bins
from fastsynth.estimates import Estimates
from fastsynth.estimators import correlation, mean, proportion, quantile, std, table, total, variance
from fastsynth.impute import Forest, Impute
from fastsynth.methods import Calibrated, Cart, Identifier, Nested, Sample
from fastsynth.options import Column, Guard, Rule
from fastsynth.pictures import plot_chains, plot_coefficients, plot_compare
from fastsynth.pooling import Analyses, Comparison, Pooled, pool
from fastsynth.private import DpCart
from fastsynth.protect import Protected, protect
from fastsynth.regressions import mixed, slopes
from fastsynth.relations import Relation, Relations, find_relations
from fastsynth.report import Report, report
from fastsynth.synthesis import Synthesizer, synthesize
from fastsynth.utility import Utility, utility
from fastsynth.version import __version__

__all__ = [
    "Analyses",
    "Bins",
    "Calibrated",
    "Cart",
    "Cluster",
    "Column",
    "Comparison",
    "Copula",
    "Disclosure",
    "DpCart",
    "Estimates",
    "Forest",
    "Guard",
    "Identifier",
    "Impute",
    "LatentNormal",
    "Nested",
    "Pooled",
    "Protected",
    "Relation",
    "Relations",
    "Report",
    "Rule",
    "Sample",
    "Synthesis",
    "Synthesizer",
    "Utility",
    "__version__",
    "ampute",
    "controls",
    "correlation",
    "disclosure",
    "find_relations",
    "load_boys",
    "mean",
    "mixed",
    "plot_chains",
    "plot_coefficients",
    "plot_compare",
    "pool",
    "proportion",
    "protect",
    "quantile",
    "report",
    "slopes",
    "std",
    "synthesize",
    "table",
    "total",
    "utility",
    "variance",
]
