"""Whether a client may come in, and how it gets the image: a function of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from kollacast.operator.config import ServerConfig
from kollacast.sending.plan import Plan
from kollacast.server.cycle import Stage
from kollacast.server.record import CAME_LATE
from kollacast.wire.greeting import Hello


@dataclass(frozen=True)
class Situation:
    """What admission goes by beside a client's hello and address, at one moment."""

    config: ServerConfig
    stage: Stage
    offer: Plan  #: what the greeting says
    agreed: Plan  #: what is sent
    is_end_announced: bool  #: whether all of the image has been announced
    lack: str | None  #: why nobody can fetch; None where whoever knows how can
    has_room: bool = True  #: whether one more may come in, or this one once more
    is_name_taken: bool = False  #: whether another one has its name, and names are proved
    may_be_back: bool = False  #: whether this may be one that is in, with a broken connection

    @property
    def all_fetch(self) -> bool:
        """Whether whoever comes now does not get all in step."""
        return self.config.unicast or self.stage is not Stage.GATHERING

    @property
    def is_joinable(self) -> bool:
        """Whether whoever comes now may get the rest in step."""
        return not (self.config.unicast or self.is_end_announced)


@dataclass(frozen=True)
class InStep:
    """It takes part in the barrier, from the first buffer on."""


@dataclass(frozen=True)
class Late:
    """It takes part from the next buffer on, and fetches what was before, for this reason."""

    reason: str


@dataclass(frozen=True)
class Fetching:
    """It fetches everything, for this reason; ``is_news`` where it expects something else."""

    reason: str
    is_news: bool


@dataclass(frozen=True)
class Refused:
    """It may not come in; with ``later`` it may try again.  The ``note`` is for the operator."""

    reason: str
    later: bool = False
    note: str | None = None


Admission = InStep | Late | Fetching | Refused


def may_speak(address: str, now: Situation, hello: Hello | None = None) -> Refused | None:
    """Why a connection is not let in, and without a hello not even asked for one, or None."""
    allowed = now.config.allowed
    if allowed is not None and not any(IPv4Address(address) in network for network in allowed):
        return Refused("this host is not among those that may join", note="it may not join")
    if now.stage is Stage.ENDED:
        return Refused("the session has ended", now.may_be_back)
    if now.all_fetch or (hello is not None and hello.pull):
        lack = now.lack if hello is None or hello.fetch else "it cannot fetch"
        if lack is not None:
            has_begun = now.stage is not Stage.GATHERING
            what = "the session has begun without this client" if has_begun else "all is fetched"
            return Refused(f"{what}, and {lack}", now.may_be_back)
    return None


def admit(hello: Hello | None, address: str, now: Situation) -> Admission:
    """What becomes of a client; ``hello`` is None in a dialect that has none.

    The name in it is the one that the client has proved, where it has.
    """
    refused = may_speak(address, now, hello)
    if refused is not None:
        return refused
    expected = now.config.expected_names
    if expected is not None and (hello is None or hello.name not in expected):
        return Refused(
            "this host is not among those that are expected", note="its name is not expected"
        )
    if now.is_name_taken:
        return Refused("a host of this name is here already", later=True)
    if not now.has_room:
        return Refused(f"all {now.config.clients} clients are here already", now.may_be_back)
    reason = _why_not_in_step(hello, now)
    if reason is None:
        return InStep()
    if hello is not None and hello.late_join and now.is_joinable:
        if now.offer.suits(hello.packets, now.agreed):
            return Late(reason)
    # A hello may have crossed the start, or the last announcement.
    is_news = hello is not None and (hello.late_join or not hello.pull)
    return Fetching(reason, is_news)


def _why_not_in_step(hello: Hello | None, now: Situation) -> str | None:
    """Why a client does not get all of the image in step with the others, or None."""
    if now.config.unicast:
        return "the server was told to use no multicast"
    if now.stage is not Stage.GATHERING:
        return CAME_LATE
    if hello is not None and hello.pull:
        return "it has a part of the image already"
    return None
