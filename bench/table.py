"""The records as Markdown: speeds and goals, times by number of hosts, costs, options, machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.cells import absent_cell, grid, how_often, size_cell, verdict_cells
from bench.results import (
    Record,
    host_counts,
    judge,
    judge_cost,
    median,
    settled_port_loss,
    share_of_limit,
    speed,
    times_fastest_other,
    transfers,
)
from bench.rows import (
    ALL_ROWS,
    COST_NAME,
    COST_ROW,
    GIB,
    MIB,
    PAYLOAD_BYTES,
    SUBJECT,
    SWEEP_BUFFER_PACKETS,
    SWEEP_NAME,
    SWEEP_WINDOWS,
    Row,
)
from bench.scaling import scaling

_MEGABYTE = 1_000_000
_NOTES = """\
Speeds are the image's bytes over wall time, from the start of the sender (receivers wait already) \
to the end of the last receiver, in MB/s (10⁶ bytes); medians. A percentage is the speed over data \
time, from the first 64 KiB that reached a host to the last change of the last copy, as a share of \
what the narrowest link carries of an image sent once: 1460/1514 of its rate. Every copy was \
compared with the image by SHA-256 afterwards; *digest* is what kollacast itself proves the image \
by. A figure from fewer transfers than the row has repetitions says so: a tool that is slow, or \
whose figure decides nothing, is not repeated for long. Machines are shared and noisy: ratios \
within a row mean more than a figure beside one of another day."""


def markdown(records: dict[str, Record]) -> str:
    """The whole page; rows that were not measured are left out."""
    every = [row for row in ALL_ROWS if row.name in records]
    rows = [row for row in every if row.goal is not None]
    sweeps = [row for row in every if row.goal is None and not row.is_simulated]
    small = [row.name for row in every if records[row.name]["size"] < row.size]
    parts = ["# kollacast beside the tools in use"]
    if small:
        parts.append(
            f"Images smaller than the row's own, so figures prove little: {', '.join(small)}."
        )
    if rows:
        parts += [_speeds(rows, records), _NOTES]
    growing = [row for row in rows if len(row.hosts) > 1]
    parts += [_times(row, records[row.name]) for row in growing]
    parts.append(_digests(rows, records))
    if COST_ROW in records:
        parts.append(_costs(next(r for r in rows if r.name == COST_ROW), records[COST_ROW]))
    parts.append(scaling(records))
    parts += [_sweep(row, records[row.name]) for row in sweeps]
    parts += [_failures(every, records), _options(rows, records), _machines(every, records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _speeds(rows: Sequence[Row], records: dict[str, Record]) -> str:
    names = _compared(rows, records)
    heads = ["row", "network", "image", "hosts", "digest", *names]
    lines = [[*heads, "to reach", "measured", "reached"]]
    for row in rows:
        record, verdict = records[row.name], judge(row, records[row.name])
        hosts = (host_counts(record) or row.hosts)[-1]
        digest = record["contenders"].get(SUBJECT, {}).get("digest", "n/a")
        speeds = [_speed_cell(row, record, name, hosts) for name in names]
        lines.append(
            [
                *(f"**{row.name}**", row.network, size_cell(record["size"]), str(hosts), digest),
                *speeds,
                *verdict_cells(verdict),
            ]
        )
        if row.name == COST_ROW:
            cost = judge_cost(record, hosts)
            cells = [f"**{COST_NAME}**", f"as {COST_ROW}", size_cell(record["size"]), str(hosts)]
            lines.append([*cells, digest, *("see below" for _ in names), *verdict_cells(cost)])
    return grid(lines)


def _speed_cell(row: Row, record: Record, name: str, hosts: int) -> str:
    value = speed(record, name, hosts)
    if value is None:
        return absent_cell(record, name, hosts)
    text = f"{value / _MEGABYTE:.1f}"
    share = share_of_limit(row, record, name, hosts)
    if share is not None:
        text += f" ({share:.1%})"
    loss = settled_port_loss(record, name, hosts)
    if loss is not None:
        text += f", loss {loss:.2%}"
    return text + how_often(record, name, hosts)


def _times(row: Row, record: Record) -> str:
    names = _compared([row], {row.name: record})
    lines = [["hosts", *(f"{name}, s" for name in names), f"cores busy during {SUBJECT}"]]
    for hosts in host_counts(record):
        cells = [_time_cell(record, name, hosts) for name in names]
        lines.append([str(hosts), *cells, _busy_cell(record, hosts)])
    title = f"## {row.name}: {size_cell(record['size'])} at {row.network}"
    note = (
        "Wall time, and in brackets data time: from the first 64 KiB that reached the first host "
        "to the last change of the last host's copy. Wall time contains the start of the sender, "
        "the connections of all receivers and the exit of each of them beside it, and all these "
        f"processes share {record['machine']['cores']} cores here, which real hosts do not. So "
        "the goal is judged on data time. Where no core is left idle, it is this machine that time "
        "grows with."
    )
    return f"{title}\n\n{grid(lines)}\n\n{note}"


def _time_cell(record: Record, name: str, hosts: int) -> str:
    wall, data = (median(record, name, hosts, figure) for figure in ("wall_s", "data_s"))
    if wall is None:
        return absent_cell(record, name, hosts)
    return f"{wall:.2f} ({data:.2f}){how_often(record, name, hosts)}"


def _busy_cell(record: Record, hosts: int) -> str:
    """How busy the whole machine was while kollacast ran, whoever kept it so."""
    good = [t for t in transfers(record, SUBJECT, hosts) if "error" not in t]
    if not good:
        return "not run"
    busy = statistics.median(t["machine_cpu_s"] / t["wall_s"] for t in good)
    return f"{busy:.2f} of {record['machine']['cores']}"


def _digests(rows: Sequence[Row], records: dict[str, Record]) -> str:
    """Rows that were measured with more than one digest of kollacast's."""
    lines = [["row", "digest", "MB/s", "times the fastest other multicast tool"]]
    for row in rows:
        record = records[row.name]
        hosts = (host_counts(record) or row.hosts)[-1]
        digests = {n: a["digest"] for n, a in record["contenders"].items() if _has_run(a)}
        for name, digest in digests.items() if len(digests) > 1 else ():
            times = times_fastest_other(record, name, hosts)
            ratio = "n/a" if times is None else f"{times:.2f} x"
            lines.append([row.name, digest, _speed_cell(row, record, name, hosts), ratio])
    return f"## kollacast by digest\n\n{grid(lines)}" if len(lines) > 1 else ""


def _has_run(about: Record) -> bool:
    return "digest" in about and bool(about["hosts"])


def _costs(row: Row, record: Record) -> str:
    hosts, gib = (host_counts(record) or row.hosts)[-1], record["size"] / GIB
    head = ["tool", "sender, CPU s/GiB", "a receiver, CPU s/GiB", "whole machine, CPU s/GiB"]
    lines = [[*head, "sender, peak MiB", "receiver, peak MiB"]]
    for name, about in record["contenders"].items():
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
        label = f"{SUBJECT}, {about['digest']}" if "digest" in about else name
        lines.append([label, *costs, *("n/a" if p is None else f"{p / MIB:.0f}" for p in peaks)])
    note = (
        "The kernel delivers a datagram to every host in the context of whoever sends it, so a "
        "sender's figure here contains work that real hosts would share. The whole machine's "
        "figure leaves nothing out, and includes whatever else ran."
    )
    return f"## cost: {row.name}, {hosts} hosts\n\n{grid(lines)}\n\n{note}"


def _sweep(row: Row, record: Record) -> str:
    """Speeds by window and size of a buffer, and how the defaults stand to them."""
    hosts = (host_counts(record) or row.hosts)[-1]
    by_choice = {
        (about["window"], about["buffer_packets"]): name
        for name, about in record["contenders"].items()
        if "window" in about
    }
    lines = [["buffer", *(f"window {window}" for window in SWEEP_WINDOWS)]]
    for packets in SWEEP_BUFFER_PACKETS:
        names = [by_choice.get((window, packets), "") for window in SWEEP_WINDOWS]
        size = f"{packets * PAYLOAD_BYTES / _MEGABYTE:.1f} MB ({packets} packets)"
        lines.append([size, *(_sweep_cell(record, name, hosts) for name in names)])
    best = max((speed(record, n, hosts, "data_s") or 0 for n in by_choice.values()), default=0)
    own = speed(record, SUBJECT, hosts, "data_s")
    share = f", {own / best:.0%} of the best above" if own and best else ""
    digest = record["contenders"].get(SUBJECT, {}).get("digest", "n/a")
    title = f"## {SWEEP_NAME}: {size_cell(record['size'])}, {row.network}, {hosts} hosts"
    note = (
        f"kollacast ({digest}) over data time, MB/s, and the peak of a client's memory, MiB. "
        f"**Defaults: {_sweep_cell(record, SUBJECT, hosts)}**{share}. Window and buffer are what "
        "was asked for: a client that can hold less says so, and gets less."
    )
    return f"{title}\n\n{grid(lines)}\n\n{note}"


def _sweep_cell(record: Record, name: str, hosts: int) -> str:
    value = speed(record, name, hosts, "data_s")
    peak = median(record, name, hosts, "receiver_peak_bytes")
    if value is None or peak is None:
        return absent_cell(record, name, hosts)
    return f"{value / _MEGABYTE:.1f} ({peak / MIB:.0f}){how_often(record, name, hosts)}"


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
            if "skipped" in about:
                continue
            key = (name, about.get("version", "n/a"), about["options"])
            said.setdefault(key, []).append(row.name)
    lines = [["tool", "version", "options: sender / receiver", "rows"]]
    for (name, version, options), where in said.items():
        lines.append([name, version, f"`{options}`", ", ".join(where)])
    return f"## Versions and options\n\n{grid(lines)}" if len(lines) > 1 else ""


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
    return f"## Machine\n\n{grid(lines)}"


def _compared(rows: Sequence[Row], records: dict[str, Record]) -> list[str]:
    """The contenders of these rows, kollacast first, without its variants."""
    every = {n: a for row in rows for n, a in records[row.name]["contenders"].items()}
    names = [name for name, a in every.items() if name == SUBJECT or not a.get("is_subject")]
    return sorted(names, key=lambda name: name != SUBJECT)
