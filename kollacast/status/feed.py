"""What the page is told: all of a moment, or what has changed since the one before.

Hosts are columns: one list for each fact, in the order in which they came.  Of a column in which
little has changed, the new values go with their places, else all go: a thousand hosts that all
move cost a few bytes each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kollacast.server.snapshot import ClientEntry, HostState, Snapshot
from kollacast.status.document import HOLD_S, MOST_HOLDING, Moment
from kollacast.status.history import FIELDS

_STATES = [state.value for state in HostState]
_NUMBER_OF = {state: number for number, state in enumerate(HostState)}
#: Facts of a host, in the order of :func:`_row`.  ``done`` is in 1/1000 of the image, ``loss`` in
#: 1/10000 of what was multicast to it, ``owed`` in 1/10 s.
COLUMNS = (
    "name",
    "address",
    "state",
    "done",
    "loss",
    "lost",
    "repaired",
    "fetched",
    "owed",
    "owes",
    "connections",
    "reason",
    "fetching",
)
#: Characters of a text that a peer has chosen.
_MOST_TEXT = 200
#: Before so long, it is nobody's business that an answer is due.
_OWED_S = 0.5

Run = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One moment as the page has it."""

    run: Run
    columns: dict[str, list[Any]]
    points: list[list[float]]

    def whole(self) -> bytes:
        """The event that begins anew with this."""
        return _event(
            "whole",
            {
                "states": _STATES,
                "fields": FIELDS,
                "run": self.run,
                "columns": self.columns,
                "points": self.points,
            },
        )

    def since(self, before: Picture) -> bytes:
        """The event that makes this of ``before``."""
        run = {key: value for key, value in self.run.items() if before.run.get(key) != value}
        count = len(self.columns["name"])
        columns = {
            name: change
            for name, values in self.columns.items()
            if (change := _change(before.columns[name], values)) is not None
        }
        return _event(
            "change",
            {"run": run, "hosts": count, "columns": columns, "points": self.points[-1:]},
        )


def picture(moment: Moment) -> Picture:
    """What the page shows of a moment."""
    now = moment.now
    total = now.bytes_done if now.plan.size is None else now.plan.size
    rows = [_row(now, entry, total) for entry in now.clients]
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    columns = columns or {name: [] for name in COLUMNS}
    return Picture(_run(moment), columns, moment.history.rows())


def _row(now: Snapshot, entry: ClientEntry, total: int) -> tuple[Any, ...]:
    account = entry.account
    is_late = entry.owed_s >= _OWED_S
    return (
        account.name[:_MOST_TEXT],
        account.address,
        _NUMBER_OF[now.state(entry)],
        1000 * now.bytes_of(entry) // total if total else 0,
        None if account.loss is None else round(10_000 * account.loss),
        account.packets_lost,
        account.packets_repaired,
        account.packets_fetched,
        round(10 * entry.owed_s) if is_late else 0,
        entry.owes if is_late else None,
        account.connections,
        None if account.reason is None else account.reason[:_MOST_TEXT],
        None if account.fetching is None else account.fetching[:_MOST_TEXT],
    )


def _run(moment: Moment) -> Run:
    now, outcome, left_s = moment.now, moment.outcome, moment.seconds_left
    holding = now.holding(HOLD_S)
    numbers = {id(entry): number for number, entry in enumerate(now.clients)} if holding else {}
    report = {} if outcome is None else outcome.report
    return {
        "phase": now.progress().phase,
        "name": now.name,
        "dialect": now.plan.dialect.name,
        "group": None if now.config.unicast else now.config.group,
        "port": now.config.port,
        "bytes": now.bytes_done,
        "total": now.plan.size,
        "packet": now.plan.capacity,
        "seconds": round(now.seconds, 1),
        "rate": round(moment.rate),
        "left": None if left_s is None else round(left_s),
        "limit": None if now.rate_bps is None else round(now.rate_bps, -5),
        "tcp": now.bytes_tcp,
        "multicast": now.bytes_multicast,
        "repaired": now.packets_repaired,
        "expected": now.config.clients,
        "present": now.present,
        "verified": now.verified,
        "digest": [f"{name}:{value.hex()}" for name, value in now.digests.items()],
        "waits": len(holding),
        "holding": [
            [numbers[id(entry)], entry.owes, round(10 * entry.owed_s)]
            for entry in holding[:MOST_HOLDING]
        ],
        "status": None if outcome is None else int(outcome.status),
        "message": None if outcome is None else outcome.line[: 10 * _MOST_TEXT],
        "diagnosis": [str(line)[: 2 * _MOST_TEXT] for line in report.get("diagnosis") or ()],
    }


def _change(before: list[Any], values: list[Any]) -> Any:
    """None for no change; a list for all values; else the changed ones and their places."""
    if before == values:
        return None
    known = len(before)
    at = [n for n, value in enumerate(values) if n >= known or before[n] != value]
    if 2 * len(at) > len(values):
        return values
    return {"at": at, "to": [values[n] for n in at]}


def _event(name: str, data: dict[str, Any]) -> bytes:
    """As HTML's "Server-sent events" has it; JSON in ASCII has no line break."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"event: {name}\ndata: {text}\n\n".encode()
