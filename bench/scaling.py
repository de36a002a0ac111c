"""What simulated hosts show of the server, by their number: figures, goals, tables.

Figures are medians over the transfers of a row that succeeded, None where none did.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.cells import absent_cell, grid, how_often, size_cell, verdict_cells
from bench.results import Record, Verdict, host_counts, median, transfers
from bench.rows import MIB, PAYLOAD_BYTES, SCALE_NAME, SCALE_ROWS, SUBJECT, Row

#: The page that has the tables, between these lines; and the picture beside the benchmark's.
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
PICTURE = "scaling.png"
_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
_NOTHING = "Not measured yet."
_NOTE = (
    "kollacast's server, medians. The hosts are simulated by one process that speaks the protocol "
    "and draws each host's losses; multicast of the image ends in its kernel. Time goes from the "
    "first announcement to the end of the last host that is not disturbed; *one host* is the row "
    "of one host with loss, or without it where there is none or some are disturbed. All CPU time "
    "of the server counts, its start, too; *more* is what exceeds that with one host, for each "
    "other host and buffer. Sent is what left by multicast and by TCP, without headers. *Asks* are "
    "questions of hosts that had lost control packets. Where the crowd was busy for most of the "
    "time, it is the crowd that was measured."
)


def sent_per_image(record: Record, hosts: int) -> float | None:
    """What the server has sent, by multicast and by TCP, over the image's size.

    Payload alone: neither the headers of packets nor those of IP and TCP.
    """
    return _median(record, hosts, _sent_per_image)


def cpu_per_host_and_buffer(record: Record, hosts: int) -> float | None:
    """All CPU seconds of the server, over its hosts and its buffers."""
    return _median(
        record, hosts, lambda t, _: t["sender_cpu_s"] / hosts / t["report"]["crowd"]["buffers"]
    )


def more_cpu_per_host_and_buffer(record: Record, hosts: int, one: Record | None) -> float | None:
    """The CPU seconds beyond those with one host, over the other hosts and the buffers."""
    alone = None if one is None or one["size"] != record["size"] else _of_one(one, "sender_cpu_s")
    if alone is None or hosts < 2:
        return None
    return _median(
        record,
        hosts,
        lambda t, _: (t["sender_cpu_s"] - alone) / (hosts - 1) / t["report"]["crowd"]["buffers"],
    )


def times_one(record: Record, hosts: int, one: Record | None) -> float | None:
    """Time over that with one host."""
    alone = None if one is None or one["size"] != record["size"] else _of_one(one, "data_s")
    own = median(record, SUBJECT, hosts, "data_s")
    return own / alone if own and alone and hosts > 1 else None


def judge_scale(row: Row, records: dict[str, Record]) -> list[Verdict]:
    """The row's goals against what was measured."""
    goals, record = row.scale_goals, records[row.name]
    if goals is None:
        return []
    [hosts] = row.hosts
    one = records.get(goals.one)
    cpu_s = more_cpu_per_host_and_buffer(record, hosts, one)
    peak = median(record, SUBJECT, hosts, "sender_peak_bytes")
    times, sent = times_one(record, hosts, one), sent_per_image(record, hosts)
    return [
        _verdict(text, measured, goal, unit)
        for text, measured, goal, unit in (
            (f"time at most {goals.times} x that of {goals.one}", times, goals.times, "{:.3f} x"),
            (f"sent at most {goals.sent} x the image", sent, goals.sent, "{:.3f} x"),
            (
                f"at most {goals.cpu_us} µs more CPU for each host and buffer",
                None if cpu_s is None else 1e6 * cpu_s,
                goals.cpu_us,
                "{:.0f} µs",
            ),
            (
                f"server's peak memory at most {(goals.peak_bytes or 0) / MIB:.0f} MiB",
                None if peak is None else peak / MIB,
                None if goals.peak_bytes is None else goals.peak_bytes / MIB,
                "{:.0f} MiB",
            ),
        )
        if goal is not None
    ]


def scale_rows(records: dict[str, Record]) -> list[Row]:
    """Those that were measured."""
    return [row for row in SCALE_ROWS if row.name in records]


def scaling(records: dict[str, Record]) -> str:
    """The section of these rows, and nothing where there are none."""
    rows = scale_rows(records)
    if not rows:
        return ""
    return f"## {SCALE_NAME}\n\n{_tables(rows, records)}\n\n{_NOTE}"


def filled(page: str, records: dict[str, Record], picture: str) -> str:
    """The page with the tables in their place, and this picture; ValueError if it has no place."""
    rows = scale_rows(records)
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    text = _NOTHING
    if rows:
        text = f"{_tables(rows, records)}\n\n{_NOTE}\n\n![The rows as a plot]({picture})"
    return f"{before}{_BEGIN}{text}\n{_END}{after}"


def _tables(rows: Sequence[Row], records: dict[str, Record]) -> str:
    return f"{_figures(rows, records)}\n\n{_goals(rows, records)}"


def _figures(rows: Sequence[Row], records: dict[str, Record]) -> str:
    head = ["row", "network", "image", "hosts", "time, s", "times one host", "server, CPU s"]
    head += ["CPU µs for each host and buffer", "more, µs", "peak MiB", "sent / image"]
    lines = [[*head, "detached", "asks", "crowd, CPU s"]]
    for row in rows:
        record = records[row.name]
        for hosts in host_counts(record):
            about = [f"**{row.name}**", row.network, size_cell(record["size"]), str(hosts)]
            one = records.get(row.scale_goals.one) if row.scale_goals is not None else None
            lines.append([*about, *_cells(record, hosts, one)])
    return grid(lines)


def _goals(rows: Sequence[Row], records: dict[str, Record]) -> str:
    lines = [["row", "to reach", "measured", "reached"]]
    for row in rows:
        for verdict in judge_scale(row, records):
            lines.append([row.name, *verdict_cells(verdict)])
    return grid(lines)


def _cells(record: Record, hosts: int, one: Record | None) -> list[str]:
    cost, sent = cpu_per_host_and_buffer(record, hosts), sent_per_image(record, hosts)
    more, times = more_cpu_per_host_and_buffer(record, hosts, one), times_one(record, hosts, one)
    seconds, cpu_s, peak, crowd_s = (
        median(record, SUBJECT, hosts, figure)
        for figure in ("data_s", "sender_cpu_s", "sender_peak_bytes", "receivers_cpu_s")
    )
    if cost is None or sent is None or seconds is None or cpu_s is None or peak is None:
        return [absent_cell(record, SUBJECT, hosts), *9 * ["n/a"]]
    crowds = [t["report"]["crowd"] for t in _good(record, hosts)]
    return [
        f"{seconds:.2f}{how_often(record, SUBJECT, hosts)}",
        "n/a" if times is None else f"{times:.2f}",
        f"{cpu_s:.2f}",
        f"{1e6 * cost:.0f}",
        "n/a" if more is None else f"{1e6 * more:.0f}",
        f"{peak / MIB:.0f}",
        f"{sent:.3f}",
        str(max(crowd["detached"] for crowd in crowds)),
        str(max(crowd["asks"] for crowd in crowds)),
        f"{crowd_s:.2f}",
    ]


def _verdict(text: str, measured: float | None, goal: float, unit: str) -> Verdict:
    if measured is None:
        return Verdict(text, "n/a", None)
    return Verdict(text, unit.format(measured), measured <= goal)


def _sent_per_image(transfer: Record, record: Record) -> float:
    report = transfer["report"]
    crowd = report["crowd"]
    multicast = PAYLOAD_BYTES * report["packets_multicast"] + crowd["control_bytes"]
    sent: float = (multicast + crowd["tcp_bytes"]) / record["size"]
    return sent


def _good(record: Record, hosts: int) -> list[Record]:
    return [t for t in transfers(record, SUBJECT, hosts) if "error" not in t]


def _median(record: Record, hosts: int, figure: Callable[[Record, Record], float]) -> float | None:
    figures = [figure(transfer, record) for transfer in _good(record, hosts)]
    return statistics.median(figures) if figures else None


def _of_one(one: Record, figure: str) -> float | None:
    return median(one, SUBJECT, 1, figure)
