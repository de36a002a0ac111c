"""A run as one JSON document: what ``--report`` has, and under ``live`` how it stands now.

``docs/status.schema.json`` describes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kollacast.operator.outcome import Outcome
from kollacast.server.snapshot import ClientEntry, HostState, Snapshot
from kollacast.status.history import FIELDS, History

#: Whoever has been waited for so long holds the barrier.
HOLD_S = 1.0
#: Of those, so many are named.
MOST_HOLDING = 5


@dataclass(frozen=True)
class Moment:
    """All that is shown of one moment is made of this."""

    now: Snapshot
    history: History
    outcome: Outcome | None  #: None before the end

    @property
    def rate(self) -> float:
        """Bytes of the image a second: those of now, in the end those of the whole run."""
        if self.outcome is None:
            return self.history.rate()
        return self.now.bytes_done / self.now.seconds if self.now.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until all is sent, if it goes on like this; None where that cannot be told."""
        total = self.now.plan.size
        if total is None or self.outcome is not None or self.rate <= 0:
            return None
        return (total - self.now.bytes_done) / self.rate

    @property
    def counts(self) -> dict[str, int]:
        """How many hosts are in each state, none in some."""
        counts = self.now.states()
        return {state.value: counts.get(state, 0) for state in HostState}

    @property
    def packets(self) -> int | None:
        """Of the whole image; None where its size is not known."""
        size = self.now.plan.size
        return None if size is None else -(-size // self.now.plan.capacity)


def document(moment: Moment) -> dict[str, Any]:
    """The document, in JSON's types."""
    now, outcome = moment.now, moment.outcome
    report = now.report(None) if outcome is None or not outcome.report else dict(outcome.report)
    report["clients"] = [
        {**client, "live": _client(now, entry)}
        for client, entry in zip(report["clients"], now.clients, strict=False)
    ]
    return {
        "exit_status": None if outcome is None else int(outcome.status),
        "message": None if outcome is None else outcome.line,
        **report,
        "live": _run(moment),
    }


def encoded(moment: Moment) -> bytes:
    """The same as it is sent."""
    return json.dumps(document(moment), allow_nan=False, default=str).encode() + b"\n"


def _run(moment: Moment) -> dict[str, Any]:
    now, left_s = moment.now, moment.seconds_left
    rate_bps = now.rate_bps
    return {
        "phase": now.progress().phase,
        "bytes_total": now.plan.size,
        "packet_bytes": now.plan.capacity,
        "bytes_per_s": round(moment.rate),
        "seconds_left": None if left_s is None else round(left_s, 1),
        "limit_bits_per_s": None if rate_bps is None else round(rate_bps),
        "bytes_multicast": now.bytes_multicast,
        "bytes_tcp": now.bytes_tcp,
        "packets_resent": now.packets_resent,
        "clients_here": now.present,
        "states": moment.counts,
        "holding": [
            {
                "name": entry.account.name,
                "address": entry.account.address,
                "owes": entry.owes,
                "seconds": round(entry.owed_s, 1),
            }
            for entry in now.holding(HOLD_S)[:MOST_HOLDING]
        ],
        "history": {"fields": list(FIELDS), "points": moment.history.rows()},
    }


def _client(now: Snapshot, entry: ClientEntry) -> dict[str, Any]:
    return {
        "state": now.state(entry).value,
        "loss": None if entry.account.loss is None else round(entry.account.loss, 5),
        "owes": entry.owes,
        "owed_s": round(entry.owed_s, 1),
    }
