"""Build of the compiled kernel. Everything else about the package stands in pyproject.toml.

FASTSYNTH_DEBUG=1 builds with bounds checks on and without optimisation; the kernel's tests run once that way in CI.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTSYNTH_DEBUG", "0") not in ("", "0")

directives = {
    "language_level": 3,
    "boundscheck": debug,
    "wraparound": False,
    "initializedcheck": debug,
    "nonecheck": debug,
    "cdivision": True,
    "freethreading_compatible": True,
}

# No contraction of a * b + c into one rounding: every machine must find the same trees.
optimised = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
checked = ["-O1", "-g", "-ffp-contract=off", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
windows = os.name == "nt"
extensions = [
    Extension(
        "fastsynth._tree",
        ["fastsynth/_tree.pyx"],
        extra_compile_args=["/O2"] if windows else checked if debug else optimised,
        extra_link_args=["-fsanitize=undefined"] if debug and not windows else [],
    )
]

setup(ext_modules=cythonize(extensions, compiler_directives=directives, force=debug))
