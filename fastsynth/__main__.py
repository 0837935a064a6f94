"""``python -m fastsynth`` is the command line."""

from fastsynth.cli import main

main()
