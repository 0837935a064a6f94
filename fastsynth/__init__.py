"""fastsynth: multiply imputed synthetic microdata from large tables, and valid inference from them."""

from fastsynth.datasets import load_boys
from fastsynth.methods import Cart, Sample
from fastsynth.plan import Column
from fastsynth.pooling import Analyses, Pooled, pool
from fastsynth.synthesis import Synthesis, Synthesizer, synthesize
from fastsynth.version import __version__

__all__ = [
    "Analyses",
    "Cart",
    "Column",
    "Pooled",
    "Sample",
    "Synthesis",
    "Synthesizer",
    "__version__",
    "load_boys",
    "pool",
    "synthesize",
]
