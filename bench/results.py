"""What the records say: medians, how each goal was met, and the file that keeps them all.

The file is ``{"rows": {row name: record}}``; a row measured again replaces its old record whole, so
that the contenders of one row always come from the same run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows import (
    ALL_ROWS,
    PEAK_MEMORY_LIMIT_BYTES,
    SUBJECT,
    WATCHED_SUBJECT,
    Goal,
    Measure,
    Row,
)

OTHER_MULTICAST_TOOLS = ("udpcast", "uftp")
#: A slow port's loss counts from here on: by then a tool has had time to find the rate.
_SETTLED_AFTER_SHARE = 0.25

Record = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """How a row stands to its goal: both as text, and whether it was reached (None: unknown)."""

    goal: str
    measured: str
    is_reached: bool | None


def load(path: Path) -> dict[str, Record]:
    """The records by row, in the order of the table; none when there is no file yet."""
    rows: dict[str, Record] = json.loads(path.read_text())["rows"] if path.exists() else {}
    return {row.name: rows[row.name] for row in ALL_ROWS if row.name in rows}


def save(path: Path, records: dict[str, Record]) -> None:
    """Write `records` with the verdict on each row's goal beside them; whole or not at all."""
    rows = {}
    for row in ALL_ROWS:
        if row.name in records:
            record = {key: value for key, value in records[row.name].items() if key != "verdict"}
            verdict = {} if row.goal is None else {"verdict": vars(judge(row, record))}
            rows[row.name] = {**record, **verdict}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    unfinished.replace(path)


def transfers(record: Record, contender: str, hosts: int) -> list[Record]:
    """All transfers of one cell, the failed ones too."""
    about = record["contenders"].get(contender, {"hosts": {}})
    found: list[Record] = about["hosts"].get(str(hosts), {"transfers": []})["transfers"]
    return found


def median(record: Record, contender: str, hosts: int, figure: str) -> float | None:
    """The median of `figure` over the transfers that succeeded; None when none did."""
    good = [t[figure] for t in transfers(record, contender, hosts) if "error" not in t]
    return statistics.median(good) if good else None


def speed(record: Record, contender: str, hosts: int, figure: str = "wall_s") -> float | None:
    """Image bytes a second of the median transfer."""
    seconds = median(record, contender, hosts, figure)
    return record["size"] / seconds if seconds else None


def share_of_limit(row: Row, record: Record, contender: str, hosts: int) -> float | None:
    """Speed over data time, as a share of what the narrowest link carries of one image."""
    value = speed(record, contender, hosts, "data_s")
    limit = row.limit_bytes_per_s
    return value / limit if value and limit else None


def settled_port_loss(record: Record, contender: str, hosts: int) -> float | None:
    """The median over transfers of what a slow port dropped once the tool had settled."""
    shares = []
    for transfer in transfers(record, contender, hosts):
        samples = transfer.get("port", [])
        later = [s for s in samples if s[0] >= _SETTLED_AFTER_SHARE * transfer["wall_s"]]
        if len(later) >= 2:
            packets, drops = (later[-1][i] - later[0][i] for i in (1, 2))
            shares.append(drops / (packets + drops) if packets + drops else 0.0)
    return statistics.median(shares) if shares else None


def host_counts(record: Record) -> list[int]:
    """The numbers of hosts that this row was measured with, ascending."""
    return sorted({int(n) for about in record["contenders"].values() for n in about["hosts"]})


def times_fastest_other(record: Record, contender: str, hosts: int) -> float | None:
    """Speed as a multiple of the fastest other multicast tool's; both over wall time."""
    own = speed(record, contender, hosts)
    others = [s for name in OTHER_MULTICAST_TOOLS if (s := speed(record, name, hosts))]
    return own / max(others) if own and others else None


def judge(row: Row, record: Record) -> Verdict:
    """The row's goal against what was measured, with the most hosts that it was measured with."""
    counts, goal = host_counts(record) or row.hosts, row.goal
    hosts = counts[-1]
    if goal is None:
        return Verdict("", "", None)
    if goal.measure is Measure.TIMES_FASTEST_OTHER:
        times = times_fastest_other(record, SUBJECT, hosts)
        text = f"at least {goal.value:g} x the fastest other multicast tool"
        reached = None if times is None else times >= goal.value
        measured = "n/a" if times is None else f"{times:.2f} x"
        return Verdict(text, measured, reached)
    if goal.measure is Measure.SHARE_OF_LIMIT:
        share = share_of_limit(row, record, SUBJECT, hosts)
        text = f"at least {goal.value:.0%} of the link's payload limit"
        reached = None if share is None else share >= goal.value
        measured = "n/a" if share is None else f"{share:.1%}"
        if goal.loss is not None:
            loss = settled_port_loss(record, SUBJECT, hosts)
            text += f", loss once settled below {goal.loss:.0%}"
            measured += "" if loss is None else f", loss {loss:.2%}"
            reached = reached and loss is not None and loss < goal.loss
        return Verdict(text, measured, reached)
    if goal.measure is Measure.WATCHED:
        return _judge_watched(goal, record, hosts)
    growth = _growth(record, counts, "data_s")
    with_start = _growth(record, counts, "wall_s")
    text = f"time with {hosts} hosts within {goal.value - 1:.0%} of the time with {counts[0]}"
    reached = None if growth is None else growth <= goal.value
    measured = "n/a"
    if growth is not None and with_start is not None:
        measured = f"{growth - 1:+.1%} data time, {with_start - 1:+.1%} wall time"
    return Verdict(text, measured, reached)


def viewer_bytes_per_s(record: Record, hosts: int) -> float | None:
    """What a viewer of the status page was sent, in the median transfer."""
    viewers = [
        transfer["report"]["viewer"]
        for transfer in transfers(record, WATCHED_SUBJECT, hosts)
        if "error" not in transfer
    ]
    rates = [viewer["bytes"] / viewer["seconds"] for viewer in viewers if viewer["seconds"]]
    return statistics.median(rates) if rates else None


def _judge_watched(goal: Goal, record: Record, hosts: int) -> Verdict:
    most = goal.viewer_bytes_per_s or 0.0
    text = (
        f"time within {goal.value - 1:.0%} of that while nobody watches, at most"
        f" {most / 1000:.0f} kB/s to a viewer"
    )
    times = [median(record, name, hosts, "data_s") for name in (SUBJECT, WATCHED_SUBJECT)]
    rate = viewer_bytes_per_s(record, hosts)
    if times[0] is None or times[1] is None or rate is None:
        return Verdict(text, "n/a", None)
    more = times[1] / times[0]
    measured = f"{more - 1:+.1%}, {rate / 1000:.1f} kB/s"
    return Verdict(text, measured, more <= goal.value and rate <= most)


def _growth(record: Record, counts: Sequence[int], figure: str) -> float | None:
    first = median(record, SUBJECT, counts[0], figure)
    last = median(record, SUBJECT, counts[-1], figure)
    return last / first if first and last and len(counts) > 1 else None


def judge_cost(record: Record, hosts: int) -> Verdict:
    """The goal for memory, on the transfers of one row."""
    peaks = [
        max((t[f"{side}_peak_bytes"] for t in good), default=None)
        for good in [[t for t in transfers(record, SUBJECT, hosts) if "error" not in t]]
        for side in ("sender", "receiver")
    ]
    limit = PEAK_MEMORY_LIMIT_BYTES
    text = f"peak memory of each process below {limit >> 20} MiB"
    if None in peaks:
        return Verdict(text, "n/a", None)
    known = [peak for peak in peaks if peak is not None]
    measured = f"server {known[0] >> 20} MiB, client {known[1] >> 20} MiB"
    return Verdict(text, measured, max(known) < limit)


def has_failed(record: Record) -> list[str]:
    """One line for each wrong copy of any tool, and for each failure of kollacast itself."""
    lines = []
    for name, about in record["contenders"].items():
        is_subject = about.get("is_subject", name == SUBJECT)
        if is_subject and "missing" in about:
            lines.append(f"{name}: {about['missing']}")
        for hosts, cell in about["hosts"].items():
            for transfer in cell["transfers"]:
                if transfer.get("is_wrong") or (is_subject and "error" in transfer):
                    lines.append(f"{name}, {hosts} hosts: {transfer['error']}")
    return lines
