"""Arbitrary bytes for everything that reads from the network, guided by coverage.

:mod:`fuzz.targets` says what must hold for any input, :mod:`fuzz.recorded` has the sessions that
the search begins from, and ``corpus/`` the inputs that it has found, a folder for each target and
the fewest that reach all that is reached. The suite replays the corpus (``tests/test_fuzz.py``),
for which nothing has to be installed. To search on, with atheris on libFuzzer:

    make fuzz SECONDS=600

An input that breaks a target is left in ``.fuzz/``, and ``python -m fuzz --replay FILE TARGET``
runs it again. ``python -m fuzz --keep`` takes what a search has found into the corpus, as little of
it as reaches the same code.
"""

from pathlib import Path

#: A folder for each target.
CORPUS = Path(__file__).with_name("corpus")
