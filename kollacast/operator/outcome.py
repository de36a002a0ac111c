"""What a run tells those who watch it: how far it is, and in the end how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """The exit status of a run."""

    OK = 0  #: every expected copy is complete and verified
    FAILED = 1  #: no verified copy
    USAGE = 2  #: the command line cannot be carried out
    PARTIAL = 4  #: some clients have a verified copy and some have not
    #: a client has no copy, and knows where else to get it; EX_TEMPFAIL of sysexits.h
    FAILSAFE = 75


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Status
    line: str  #: one line, the last that the operator reads
    report: dict[str, Any] = field(default_factory=dict)  #: for ``--report``; JSON types only
    findings: tuple[str, ...] = ()  #: what was wrong, a line each


@dataclass(frozen=True)
class HostLine:
    """How far one host is."""

    name: str
    state: str  #: in an operator's words
    share: float | None  #: of the image; None while nobody knows how large that is
    loss: float | None  #: the share of packets that it did not receive; None where none were sent
    owed_s: float  #: for which something has been due from it


@dataclass(frozen=True)
class Hosts:
    """How the hosts of a run stand."""

    states: dict[str, int]  #: how many in each state that any is in, in the order of a run
    loss: float | None  #: the share of packets that hosts did not receive, of all
    slowest: tuple[HostLine, ...]  #: those to look at, farthest behind first


@dataclass(frozen=True)
class Progress:
    """How far a run is, at one moment."""

    phase: str  #: in an operator's words, such as "waiting for clients"
    bytes_done: int  #: of the image
    bytes_total: int | None  #: of the image; None when it comes from a pipe
    clients: int  #: that take part now, or have the image; in the end only these
    clients_expected: int  #: 0 on a client, which knows of itself alone
    packets_repaired: int  #: sent again (server), asked for again and received (client)
    hosts: Hosts | None = None  #: of a server, where they were asked for
