"""Search for inputs that break a target: ``python -m fuzz [--seconds N] [--keep] [TARGET ...]``.

Each target, all of them by default, gets so many seconds. What is found goes to ``.fuzz/TARGET/``,
and with ``--keep`` the part of it that reaches more code goes into the corpus. ``--replay FILE
TARGET`` runs one input. The exit status is 1 when an input broke a target.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from fuzz import CORPUS, seeds
from fuzz.targets import TARGETS

_CHECKOUT = Path(__file__).resolve().parents[1]
_SEARCH = str(_CHECKOUT / "fuzz" / "search.py")
_FOUND = _CHECKOUT / ".fuzz"
_LONGEST_BYTES = 4096
#: The corpus is replayed by the suite, and a long input shows little that short ones do not. The
#: recorded sessions are longer, and are no part of it.
_KEPT_BYTES = 512
#: Seconds that one input may take.
_HANG_S = 10


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz all that reads.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--keep", action="store_true", help="take what is found into the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input alone")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"no target {name!r}: there are {', '.join(TARGETS)}")
    names = options.targets or list(TARGETS)
    if options.replay is not None:
        TARGETS[names[0]](options.replay.read_bytes())
        return 0
    return max([_fuzz(name, options.seconds, keep=options.keep) for name in names])


def _fuzz(name: str, seconds: int, *, keep: bool) -> int:
    """Search from the corpus, the recorded sessions and what was found before."""
    print(f"fuzz: {name} for {seconds} s", file=sys.stderr, flush=True)
    found, corpus = _FOUND / name, CORPUS / name
    for folder in (found, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds.of(name)):
        (found / f"recorded-{number}").write_bytes(seed)
    status = _atheris(
        name,
        f"-max_total_time={seconds}",
        f"-max_len={_LONGEST_BYTES}",
        f"-timeout={_HANG_S}",
        f"-artifact_prefix={_FOUND}/{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
        str(found),
        str(corpus),
    )
    if keep and status == 0:
        status = _atheris(name, "-merge=1", f"-max_len={_KEPT_BYTES}", str(corpus), str(found))
    return status


def _atheris(name: str, *options: str) -> int:
    environment = {
        **os.environ,
        "FUZZ_TARGET": name,
        "PYTHONPATH": str(_CHECKOUT),
        # of this interpreter's environment, for the first line of the program
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", ""))),
    }
    run = subprocess.run([_SEARCH, *options], env=environment, check=False)
    return 0 if run.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(_main())
