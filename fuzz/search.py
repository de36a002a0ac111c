#!/usr/bin/env python
"""One search by atheris, with libFuzzer's options; the environment names the FUZZ_TARGET.

A program of its own, because what is searched has to be instrumented as it is imported, and because
libFuzzer starts it again, with other options, to compare inputs.
"""

import os
import sys

import atheris

with atheris.instrument_imports(include=["kollacast", "fuzz"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup(sys.argv, TARGETS[os.environ["FUZZ_TARGET"]])
    atheris.Fuzz()
