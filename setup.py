"""Build of the compiled kernels. Everything else about the package stands in pyproject.toml.

FASTSYNTH_DEBUG=1 builds with Cython's bounds checks and, off Windows, with the compiler's address and undefined
behaviour sanitizers, which see through raw pointers too; `make test-debug` runs the kernel's tests once that way.
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
sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
checked = ["-O1", "-g", "-ffp-contract=off", *sanitizers]
windows = os.name == "nt"
extensions = [
    Extension(
        f"fastsynth.{name}",
        [f"fastsynth/{name}.pyx"],
        depends=headers,
        include_dirs=["fastsynth"],
        extra_compile_args=["/O2"] if windows else checked if debug else optimised,
        extra_link_args=sanitizers if debug and not windows else [],
    )
    for name, headers in (
        ("_tree", ["fastsynth/_tree_kernels.h"]),
        ("_calibrate", ["fastsynth/_calibrate_kernels.h"]),
        ("_copula", []),
        ("_count", []),
        ("_latent", ["fastsynth/_latent_kernels.h"]),
    )
]

setup(
    ext_modules=cythonize(
        extensions, compiler_directives=directives, build_dir="build/cython-debug" if debug else "build/cython"
    )
)
