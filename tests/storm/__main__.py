"""Plays seeds by hand: ``python -m tests.storm 10000-20000``, or one with all that happens."""

from __future__ import annotations

import argparse
import sys
import time

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from tests.storm.play import command, fingerprint, play, play_many


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("seeds", help="FIRST-LAST, or one seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--fingerprint", action="store_true", help="name all that happens")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if arguments.fingerprint:
        print(*map(fingerprint, seeds), sep="\n")
        return 0
    return _play(seeds, arguments.processes) if last else _show(int(first))


def _play(seeds: range, processes: int) -> int:
    """Play many seeds, and show those that fail."""
    started = time.monotonic()
    failed = 0
    for seed, wrong in play_many(seeds, processes):
        if wrong:
            failed += 1
            print(f"{command(seed)}:", *wrong, sep="\n    ", flush=True)
    print(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def _show(seed: int) -> int:
    """Play one seed, and say what the program says."""

    @provider(ILogObserver)
    def say(event: LogEvent) -> None:
        print(formatEvent(event))

    globalLogPublisher.addObserver(say)
    wrong = play(seed)
    globalLogPublisher.removeObserver(say)
    print(*(wrong or ["all is well"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
