"""The records as Markdown: speeds and goals, times by number of hosts, costs, options, machine."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import (
    SUBJECT,
    Record,
    Verdict,
    host_counts,
    judge,
    judge_cost,
    median,
    settled_port_loss,
    share_of_limit,
    speed,
    transfers,
)
from bench.rows import COST_NAME, COST_ROW, GIB, MIB, ROWS, Row

_MEGABYTE = 1_000_000
_NOTES = """\
Speeds are the image's bytes over wall time, from the start of the sender (receivers wait already) \
to the end of the last receiver, in MB/s (10⁶ bytes); medians. A percentage is the speed from the \
first data on, as a share of what the narrowest link carries of an image sent once: \
1460/1514 of its rate. Every copy was compared with the image by SHA-256 afterwards. Machines are \
shared and noisy: ratios within a row mean more than a figure beside one of another day."""


def markdown(records: dict[str, Record]) -> str:
    """The whole page; rows that were not measured are left out."""
    rows = [row for row in ROWS if row.name in records]
    small = [row.name for row in rows if records[row.name]["size"] < row.size]
    parts = ["# kollacast beside the tools in use"]
    if small:
        parts.append(
            f"Images smaller than the row's own, so figures prove little: {', '.join(small)}."
        )
    parts += [_speeds(rows, records), _NOTES]
    growing = [row for row in rows if len(row.hosts) > 1]
    parts += [_times(row, records[row.name]) for row in growing]
    if COST_ROW in records:
        parts.append(_costs(next(r for r in rows if r.name == COST_ROW), records[COST_ROW]))
    parts += [_failures(rows, records), _options(rows, records), _machines(rows, records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _speeds(rows: Sequence[Row], records: dict[str, Record]) -> str:
    names = _names(records)
    lines = [["row", "network", "image", "hosts", *names, "to reach", "measured", "reached"]]
    for row in rows:
        record, verdict = records[row.name], judge(row, records[row.name])
        hosts = (host_counts(record) or row.hosts)[-1]
        speeds = [_speed_cell(row, record, name, hosts) for name in names]
        lines.append(
            [
                *(f"**{row.name}**", row.network, _size(record["size"]), str(hosts)),
                *speeds,
                *_verdict_cells(verdict),
            ]
        )
        if row.name == COST_ROW:
            cost = judge_cost(record, hosts)
            cells = [f"**{COST_NAME}**", f"as {COST_ROW}", _size(record["size"]), str(hosts)]
            lines.append([*cells, *("see below" for _ in names), *_verdict_cells(cost)])
    return _grid(lines)


def _speed_cell(row: Row, record: Record, name: str, hosts: int) -> str:
    value = speed(record, name, hosts)
    if value is None:
        return _failed(record, name, hosts)
    text = f"{value / _MEGABYTE:.1f}"
    share = share_of_limit(row, record, name, hosts)
    if share is not None:
        text += f" ({share:.1%})"
    loss = settled_port_loss(record, name, hosts)
    if loss is not None:
        text += f", loss {loss:.2%}"
    errors = [t for t in transfers(record, name, hosts) if "error" in t]
    if errors:
        text += f", {len(errors)} of {len(transfers(record, name, hosts))} failed"
    return text


def _failed(record: Record, name: str, hosts: int) -> str:
    about = record["contenders"].get(name)
    if about is None:
        return "n/a"
    if "missing" in about:
        return str(about["missing"])
    errors = [t["error"] for t in transfers(record, name, hosts) if "error" in t]
    return f"failed: {errors[0]}" if errors else "n/a"


def _times(row: Row, record: Record) -> str:
    names = [name for name in _names({row.name: record}) if name in record["contenders"]]
    lines = [["hosts", *(f"{name}, s" for name in names)]]
    for hosts in host_counts(record):
        times = [median(record, name, hosts, "wall_s") for name in names]
        lines.append(
            [str(hosts)]
            + [
                _failed(record, name, hosts) if time is None else f"{time:.2f}"
                for name, time in zip(names, times, strict=True)
            ]
        )
    title = f"## {row.name}: {_size(record['size'])} at {row.network}, wall time"
    return f"{title}\n\n{_grid(lines)}"


def _costs(row: Row, record: Record) -> str:
    hosts, gib = (host_counts(record) or row.hosts)[-1], record["size"] / GIB
    head = ["tool", "sender, CPU s/GiB", "a receiver, CPU s/GiB", "whole machine, CPU s/GiB"]
    lines = [[*head, "sender, peak MiB", "receiver, peak MiB"]]
    for name in record["contenders"]:
        figures = [
            median(record, name, hosts, figure)
            for figure in ("sender_cpu_s", "receivers_cpu_s", "machine_cpu_s")
        ]
        peaks = [
            median(record, name, hosts, figure)
            for figure in ("sender_peak_bytes", "receiver_peak_bytes")
        ]
        divisors = (gib, gib * hosts, gib)
        costs = [
            "n/a" if f is None else f"{f / d:.2f}" for f, d in zip(figures, divisors, strict=True)
        ]
        lines.append([name, *costs, *("n/a" if p is None else f"{p / MIB:.0f}" for p in peaks)])
    note = (
        "The kernel delivers a datagram to every host in the context of whoever sends it, so a "
        "sender's figure here contains work that real hosts would share. The whole machine's "
        "figure leaves nothing out, and includes whatever else ran."
    )
    return f"## cost: {row.name}, {hosts} hosts\n\n{_grid(lines)}\n\n{note}"


def _failures(rows: Sequence[Row], records: dict[str, Record]) -> str:
    lines = []
    for row in rows:
        for name in records[row.name]["contenders"]:
            for hosts in host_counts(records[row.name]):
                for number, transfer in enumerate(transfers(records[row.name], name, hosts)):
                    if "error" in transfer:
                        where = f"{row.name}, {hosts} hosts, {name}, transfer {number + 1}"
                        lines.append(f"- {where}: {transfer['error']}")
    return "## Failed transfers\n\n" + "\n".join(lines) if lines else ""


def _options(rows: Sequence[Row], records: dict[str, Record]) -> str:
    """Each tool with its options, and beside them the rows, where they are not the same in all."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for name, about in records[row.name]["contenders"].items():
            key = (name, about.get("version", "n/a"), about["options"])
            said.setdefault(key, []).append(row.name)
    lines = [["tool", "version", "options: sender / receiver", "rows"]]
    for (name, version, options), where in said.items():
        lines.append([name, version, f"`{options}`", ", ".join(where)])
    return f"## Versions and options\n\n{_grid(lines)}"


def _machines(rows: Sequence[Row], records: dict[str, Record]) -> str:
    lines = [["row", "measured (UTC)", "repetitions", "machine"]]
    for row in rows:
        record = records[row.name]
        m = record["machine"]
        machine = (
            f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, "
            f"Linux {m['kernel']}, Python {m['python']}, load before {m['load_before']}"
        )
        when = record["measured"].replace("T", " ").removesuffix("+00:00")
        lines.append([row.name, when, str(record["repetitions"]), machine])
    return f"## Machine\n\n{_grid(lines)}"


def _verdict_cells(verdict: Verdict) -> list[str]:
    reached = {True: "yes", False: "**no**", None: "not known"}[verdict.is_reached]
    return [verdict.goal, verdict.measured, reached]


def _names(records: dict[str, Record]) -> list[str]:
    """Every contender of these records, kollacast first, the rest in the order of appearance."""
    names = dict.fromkeys(n for record in records.values() for n in record["contenders"])
    return sorted(names, key=lambda name: name != SUBJECT)


def _size(size: int) -> str:
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
