"""Who may come in, and how the image gets to it: a table of what a client says, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.config import ServerConfig
from kollacast.sending.plan import offer
from kollacast.server.admission import (
    Admission,
    Fetching,
    InStep,
    Late,
    Refused,
    Situation,
    admit,
    may_speak,
)
from kollacast.server.cycle import Stage
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.greeting import Hello

_ENGINE, _ = best_crc32c()
_ADDRESS = "10.0.1.1"
_CONFIG = ServerConfig("10.0.0.1", 2, 1, "239.0.0.1", 1, 1500, buffer_packets=64, window=4)
_OFFER = offer(_CONFIG, _ENGINE, size=None, identity=None)
_GATHERING = Situation(
    stage=Stage.GATHERING,
    offer=_OFFER,
    agreed=_OFFER,
    is_end_announced=False,
    config=_CONFIG,
    lack=None,
)
_SENDING = replace(_GATHERING, stage=Stage.SENDING)
_ALL_ANNOUNCED = replace(_SENDING, is_end_announced=True)
_PROVING = replace(_ALL_ANNOUNCED, stage=Stage.PROVING)
_ENDED = replace(_ALL_ANNOUNCED, stage=Stage.ENDED)
_UNICAST = replace(_GATHERING, config=replace(_CONFIG, unicast=True))

_SIMPLE = Hello("simple", 1 << 20)
_FETCHES = replace(_SIMPLE, fetch=True)
_HAS_PART = replace(_FETCHES, pull=True, kept=10)
_LATE = replace(_FETCHES, pull=True, late_join=True)
_EAGER = replace(_FETCHES, late_join=True)
_SMALL = replace(_LATE, packets=255)

_NO_MULTICAST = "the server was told to use no multicast"
_AFTER_START = "it came after the start"
_PART = "it has a part of the image already"
_LACK = "its input is a pipe"
_BEGUN = "the session has begun without this client, and "

#: What a client says, when, and what becomes of it.
_TABLE: list[tuple[str, Hello | None, Situation, Admission]] = [
    ("one of a dialect without a hello", None, _GATHERING, InStep()),
    ("one that can only be in step", _SIMPLE, _GATHERING, InStep()),
    ("one that could fetch", _FETCHES, _GATHERING, InStep()),
    ("one with a part of the image", _HAS_PART, _GATHERING, Fetching(_PART, False)),
    ("one with a part that can join late", _LATE, _GATHERING, Late(_PART)),
    ("late", _LATE, _SENDING, Late(_AFTER_START)),
    ("late, all announced", _LATE, _ALL_ANNOUNCED, Fetching(_AFTER_START, True)),
    ("late, and all proved", _LATE, _PROVING, Fetching(_AFTER_START, True)),
    ("late, knowing that it fetches", _HAS_PART, _SENDING, Fetching(_AFTER_START, False)),
    ("as the start crosses its hello", _FETCHES, _SENDING, Fetching(_AFTER_START, True)),
    ("as the start crosses a hello of one that joins", _EAGER, _SENDING, Late(_AFTER_START)),
    ("late, with too little memory", _SMALL, _SENDING, Fetching(_AFTER_START, True)),
    ("late, with just enough", replace(_SMALL, packets=256), _SENDING, Late(_AFTER_START)),
    (
        "late, where the others have as little",
        _SMALL,
        replace(_SENDING, agreed=replace(_OFFER, window=3)),
        Late(_AFTER_START),
    ),
    ("late, and it cannot fetch", _SIMPLE, _SENDING, Refused(f"{_BEGUN}it cannot fetch")),
    (
        "late, it cannot fetch, and neither could it be served",
        _SIMPLE,
        replace(_SENDING, lack=_LACK),
        Refused(f"{_BEGUN}it cannot fetch"),
    ),
    ("late, of a pipe", _LATE, replace(_SENDING, lack=_LACK), Refused(_BEGUN + _LACK)),
    (
        "late, in a dialect without a hello",
        None,
        replace(_SENDING, lack="nobody can"),
        Refused(f"{_BEGUN}nobody can"),
    ),
    (
        "with a part, of a pipe",
        _HAS_PART,
        replace(_GATHERING, lack=_LACK),
        Refused(f"all is fetched, and {_LACK}"),
    ),
    ("in step, of a pipe", _FETCHES, replace(_GATHERING, lack=_LACK), InStep()),
    ("no multicast", _FETCHES, _UNICAST, Fetching(_NO_MULTICAST, True)),
    ("no multicast, and it knows", _HAS_PART, _UNICAST, Fetching(_NO_MULTICAST, False)),
    ("no multicast, and it would join late", _LATE, _UNICAST, Fetching(_NO_MULTICAST, True)),
    (
        "no multicast of a pipe",
        _FETCHES,
        replace(_UNICAST, lack=_LACK),
        Refused(f"all is fetched, and {_LACK}"),
    ),
    (
        "one too many",
        _SIMPLE,
        replace(_GATHERING, has_room=False),
        Refused("all 2 clients are here already"),
    ),
    (
        "one too many that may be another's return",
        _LATE,
        replace(_SENDING, has_room=False, may_be_back=True),
        Refused("all 2 clients are here already", later=True),
    ),
    ("behind the end", _LATE, _ENDED, Refused("the session has ended")),
]


class AdmissionTests(SynchronousTestCase):
    """The table, and what stands before it."""

    def test_table(self) -> None:
        for name, hello, now, admission in _TABLE:
            self.assertEqual(admit(hello, _ADDRESS, now), admission, name)

    def test_the_order_of_reasons(self) -> None:
        """The end is said before the lack, and the lack before the crowd."""
        now = replace(_ENDED, lack=_LACK, has_room=False)
        self.assertEqual(admit(_LATE, _ADDRESS, now), Refused("the session has ended"))
        now = replace(now, stage=Stage.SENDING)
        self.assertEqual(admit(_LATE, _ADDRESS, now), Refused(_BEGUN + _LACK))

    def test_who_may_speak(self) -> None:
        for now, refused in (
            (_GATHERING, None),
            (replace(_GATHERING, has_room=False), None),  # it may be one that is here
            (replace(_GATHERING, lack=_LACK), None),
            (_SENDING, None),
            (replace(_SENDING, lack=_LACK), Refused(_BEGUN + _LACK)),
            (_ENDED, Refused("the session has ended")),
        ):
            self.assertEqual(may_speak(_ADDRESS, now), refused)

    def test_addresses(self) -> None:
        refused = Refused("this host is not among those that may join", note="it may not join")
        for networks, expected in (
            (("10.0.1.0/24",), None),
            (("192.168.0.0/16", "10.0.1.1/32"), None),
            (("10.0.2.0/24",), refused),
            ((), refused),
        ):
            config = replace(_CONFIG, allowed=tuple(map(IPv4Network, networks)))
            now = replace(_GATHERING, config=config)
            self.assertEqual(may_speak(_ADDRESS, now), expected)
            self.assertEqual(admit(_SIMPLE, _ADDRESS, now), expected or InStep())
            # Whoever may not join is not told how things stand.
            ended = replace(_ENDED, config=replace(_CONFIG, allowed=()))
            self.assertEqual(may_speak(_ADDRESS, ended), refused)

    def test_what_a_greeting_says(self) -> None:
        for now, all_fetch, is_joinable in (
            (_GATHERING, False, True),
            (_SENDING, True, True),
            (_ALL_ANNOUNCED, True, False),
            (_PROVING, True, False),
            (_UNICAST, True, False),
        ):
            self.assertEqual((now.all_fetch, now.is_joinable), (all_fetch, is_joinable))
