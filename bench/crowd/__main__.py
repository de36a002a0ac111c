"""The program: ``python -m bench.crowd LOCAL_IP SERVER_IP HOSTS``; see ``--help``.

All hosts have the address LOCAL_IP and connections of their own; one socket takes control packets
and coded repairs for all of them. Where LOCAL_IP's network drops all other multicast, only the
server works. Ends with 0 when the server has taken every host's report, but for those that it was
told to kill; else with 1 and a line on standard error. What the report has: `bench.crowd.crowd`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.crowd.crowd import Crowd, CrowdError, Setting
from bench.crowd.disturbance import Disturbance
from kollacast.wire.structures import WireError

_SPARE_FILES = 64


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every host has the image, 1 when not."""
    options = _parse(argv)
    _make_room(options.hosts)
    crowd = Crowd(_setting(options))
    try:
        report = crowd.run()
        if options.report:
            options.report.write_text(json.dumps(report) + "\n")
    except (CrowdError, WireError, OSError) as error:
        return _complain(str(error))
    if crowd.failures:
        return _complain(
            f"{len(crowd.failures)} of {options.hosts} hosts have no image: {crowd.failures[0]}"
        )
    return 0


def setting_of(argv: Sequence[str]) -> Setting:
    """What a command line asks for."""
    return _setting(_parse(argv))


def _setting(options: argparse.Namespace) -> Setting:
    disturbance = Disturbance(
        options.lossy,
        options.lossy_share,
        options.stalled,
        options.stall_seconds,
        options.killed,
    )
    return Setting(
        options.local,
        options.server,
        options.port,
        options.hosts,
        options.loss,
        options.seed,
        options.timeout,
        disturbance,
    )


def _make_room(hosts: int) -> None:
    """A descriptor for each host, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hosts + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _complain(line: str) -> int:
    print(f"crowd: {line}", file=sys.stderr)
    return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description=__doc__)
    parser.add_argument("local", help="this network's address of all hosts")
    parser.add_argument("server", help="the server's address")
    parser.add_argument("hosts", type=int, help="how many they are")
    parser.add_argument("--port", type=int, default=18383, help="the server's (default 18383)")
    parser.add_argument("--loss", type=_share, default=0.0, help="share of packets, 0 to 0.9")
    parser.add_argument("--seed", default="", help="of the losses")
    parser.add_argument("--timeout", type=float, default=60.0, help="for a server to be there, s")
    parser.add_argument("--report", type=Path, help="file for what is counted")
    some = parser.add_argument_group("hosts that are disturbed, and not waited for in ended_s")
    some.add_argument("--lossy", type=int, default=0, help="how many lose --lossy-share")
    some.add_argument("--lossy-share", type=_share, default=0.3, help="(default 0.3)")
    some.add_argument("--stalled", type=int, default=0, help="how many stall in the middle")
    some.add_argument("--stall-seconds", type=float, default=3.0, help="(default 3)")
    some.add_argument("--killed", type=int, default=0, help="how many go in the middle")
    options = parser.parse_args(argv)
    if options.lossy + options.stalled + options.killed >= options.hosts:
        parser.error("some hosts must be left undisturbed")
    return options


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 0.9:
        raise argparse.ArgumentTypeError(f"not a share from 0 to 0.9: {text}")
    return share


if __name__ == "__main__":
    sys.exit(main())
