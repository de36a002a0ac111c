"""``python -m kollacast.authority``: makes an authority, and certificates for both ends.

Every mistake ends in one line on standard error: with exit status 2 for a command line, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, NoReturn

from twisted.python.usage import UsageError

from kollacast.authority import folders
from kollacast.authority.certificates import BadName, Identity, issue, make_authority
from kollacast.command import values
from kollacast.command.logs import shorten_crashes
from kollacast.command.service import describe
from kollacast.command.streams import console
from kollacast.operator.outcome import Status

_PROGRAM = "kollacast-authority"
#: Days for which an authority is good, and what it issues.
_AUTHORITY_DAYS, _DAYS = 3650, 365
#: The same of certificates for one transfer.
_ONCE_DAYS = 2
_MOST_DAYS = 36500


class _Parser(argparse.ArgumentParser):
    """Takes no abbreviations, and says what is wrong with a command line in one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    console.program = _PROGRAM
    shorten_crashes()
    try:
        options = _parser().parse_args(words)
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except (UsageError, BadName) as error:
        console.write_line(str(error))
        return int(Status.USAGE)
    except (OSError, ValueError) as error:
        console.write_line(describe(error))
        return int(Status.FAILED)
    except KeyboardInterrupt:
        console.write_line("interrupted")
        return int(Status.FAILED)
    return int(Status.OK)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m kollacast.authority",
        description="Makes the certificates by which a server and its hosts prove who they are.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    create = commands.add_parser("create", help="make an authority")
    create.add_argument("folder", metavar="DIR", help="a new folder for its certificate and key")
    create.add_argument("--name", default="kollacast", help="what the authority is called")
    _take_days(create, _AUTHORITY_DAYS)
    create.set_defaults(run=_create)

    issued = commands.add_parser("issue", help="make certificates, each in a folder of its own")
    issued.add_argument("folder", metavar="DIR", help="the authority's folder")
    issued.add_argument(
        "names", metavar="NAME", nargs="+", help="a host; its files go to DIR/NAME, for --tls-dir"
    )
    issued.add_argument(
        "--address",
        dest="addresses",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="of a server: what clients are given as <server_ip>; may be given again",
    )
    issued.add_argument(
        "--replace", action="store_true", help="also where there is such a folder already"
    )
    _take_days(issued, _DAYS)
    issued.set_defaults(run=_issue)

    once = commands.add_parser(
        "once", help="print certificates as JSON, of an authority that nobody keeps"
    )
    once.add_argument("server", metavar="SERVER", help="what the server is called")
    once.add_argument("names", metavar="NAME", nargs="+", help="a host")
    once.add_argument(
        "--address",
        dest="addresses",
        metavar="ADDRESS",
        action="append",
        required=True,
        help="what clients are given as <server_ip>; may be given again",
    )
    _take_days(once, _ONCE_DAYS)
    once.set_defaults(run=_once)
    return parser


def _take_days(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--days",
        type=partial(values.integer, "--days", least=1, most=_MOST_DAYS),
        default=default,
        help=f"for so many days, default {default}",
    )


def _create(options: argparse.Namespace) -> None:
    folders.write_authority(options.folder, make_authority(options.name, _now(), options.days))


def _issue(options: argparse.Namespace) -> None:
    if options.addresses and len(options.names) > 1:
        raise UsageError("--address: is of one server, and there are several names")
    authority = _authority(options.folder)
    now = _now()
    for name in options.names:
        identity = issue(authority, name, tuple(options.addresses), now, options.days)
        folder = os.path.join(options.folder, name)
        folders.write_identity(folder, authority, identity, replace=options.replace)


def _once(options: argparse.Namespace) -> None:
    """Its key is in this process alone, and so nobody can issue more."""
    now = _now()
    authority = make_authority("kollacast, once", now, options.days)
    made = {
        options.server: issue(
            authority, options.server, tuple(options.addresses), now, options.days
        )
    }
    for name in options.names:
        if name in made:
            raise UsageError(f"{name}: is named twice")
        made[name] = issue(authority, name, (), now, options.days)
    files = {name: folders.files_of(authority, identity) for name, identity in made.items()}
    print(json.dumps(files))


def _authority(folder: str) -> Identity:
    try:
        authority = folders.read_authority(folder)
    except ValueError as error:
        raise ValueError(f"{folder}: holds no authority: {error}") from None
    if authority.certificate.not_valid_after_utc <= _now():
        raise ValueError(f"{folder}: the authority has expired")
    return authority


def _now() -> datetime:
    return datetime.now(timezone.utc)


if __name__ == "__main__":
    sys.exit(main())
