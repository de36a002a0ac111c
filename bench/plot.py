"""The records as one picture: speeds without a link's limit, shares of a link, time by hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.results import (
    OTHER_MULTICAST_TOOLS,
    Record,
    host_counts,
    median,
    share_of_limit,
    speed,
    transfers,
)
from bench.rows import ROWS, SUBJECT, Goal, Measure, Row

#: Okabe and Ito's palette, which is told apart with any kind of colour vision.
_COLOURS = {
    SUBJECT: "#D55E00",
    "udpcast": "#0072B2",
    "uftp": "#56B4E9",
    "unicast": "#999999",
}
#: Who is drawn over the number of hosts (the multicast tools would be one line), and where the last
#: figure stands, in points from its marker.
_OVER_HOSTS = {SUBJECT: (6, -14), "unicast": (-8, -2)}
_MEGABYTE = 1_000_000


class PlotError(Exception):
    """No picture can be made; the message says what is missing."""


def draw(records: dict[str, Record], path: Path) -> None:
    """Write a PNG of three panels; those without a measured row stay away."""
    try:
        import matplotlib
    except ImportError:
        raise PlotError("no plot: matplotlib is not installed") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[Measure, list[tuple[Row, Goal]]] = {}
    for row in ROWS:
        if row.goal is not None and row.name in records:
            panels.setdefault(row.goal.measure, []).append((row, row.goal))
    if not panels:
        return
    widths = [
        1.8 + len(rows) if m is not Measure.TIME_GROWTH else 4.2 for m, rows in panels.items()
    ]
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(sum(widths), 4.6),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for (measure, rows), axis in zip(panels.items(), axes[0], strict=True):
        if measure is Measure.TIME_GROWTH:
            _lines(axis, rows[0][0], records[rows[0][0].name])
        else:
            _bars(axis, measure, rows, records)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {
        label: handle
        for axis in axes[0]
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _bars(
    axis: Any, measure: Measure, rows: list[tuple[Row, Goal]], records: dict[str, Record]
) -> None:
    is_share = measure is Measure.SHARE_OF_LIMIT
    names = [n for n in _COLOURS if any(n in records[row.name]["contenders"] for row, _ in rows)]
    width = 0.84 / len(names)
    places = [[p + (i - (len(names) - 1) / 2) * width for p in range(len(rows))] for i in range(4)]
    for index, name in enumerate(names):
        heights, labels = [], []
        for row, _ in rows:
            record = records[row.name]
            hosts = (host_counts(record) or row.hosts)[-1]
            if is_share:
                height = 100 * (share_of_limit(row, record, name, hosts) or 0)
            else:
                height = (speed(record, name, hosts) or 0) / _MEGABYTE
            has_failed = not height and bool(transfers(record, name, hosts))
            heights.append(height)
            labels.append(f"{height:.0f}" if height else "failed" if has_failed else "")
        bars = axis.bar(places[index], heights, width, label=name, color=_COLOURS[name])
        axis.bar_label(bars, labels, fontsize=7, padding=1)
    if SUBJECT in names:
        for place, (row, goal) in zip(places[names.index(SUBJECT)], rows, strict=True):
            height = _goal_height(row, goal, records[row.name])
            edges = (place - 0.62 * width, place + 0.62 * width)
            axis.hlines(height, *edges, color="black", linewidth=2, label="to reach", zorder=3)
    digests = [records[r.name]["contenders"].get(SUBJECT, {}).get("digest", "") for r, _ in rows]
    names = [f"{row.name}\n{digest}" for (row, _), digest in zip(rows, digests, strict=True)]
    axis.set_xticks(range(len(rows)), names)
    axis.set_ylabel("% of the link's payload limit" if is_share else "MB/s")
    axis.set_title("Share of the narrowest link" if is_share else "Speed where no link limits")


def _goal_height(row: Row, goal: Goal, record: Record) -> float:
    """Where kollacast's bar is to end, in the unit of its panel."""
    if goal.measure is Measure.SHARE_OF_LIMIT:
        return 100 * goal.value
    hosts = (host_counts(record) or row.hosts)[-1]
    others = [speed(record, name, hosts) or 0 for name in OTHER_MULTICAST_TOOLS]
    return goal.value * max(others) / _MEGABYTE


def _lines(axis: Any, row: Row, record: Record) -> None:
    counts = host_counts(record)
    for name, offset in _OVER_HOSTS.items():
        for figure, style in (("data_s", "solid"), ("wall_s", "dotted")):
            points = [(hosts, median(record, name, hosts, figure)) for hosts in counts]
            known = [(hosts, seconds) for hosts, seconds in points if seconds]
            if not known or (name != SUBJECT and figure == "wall_s"):
                continue
            is_data = figure == "data_s"
            axis.plot(
                *zip(*known, strict=True),
                marker="o" if is_data else "",
                linestyle=style,
                label=name if is_data else f"{name}, wall time",
                color=_COLOURS[name],
            )
            hosts, seconds = known[-1]
            if is_data:
                place = (hosts, seconds)
                text = f"{seconds:.1f} s"
                axis.annotate(
                    text, place, offset, textcoords="offset points", ha="right", fontsize=8
                )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 1.4, high)
    seconds_shown = [n * 10**e for e in range(-1, 4) for n in (1, 2, 5)]
    shown = [s for s in seconds_shown if low / 1.4 <= s <= high]
    axis.set_yticks(shown, [f"{s:g}" for s in shown])
    axis.set_yticks([], minor=True)
    axis.set_xticks(counts, [str(hosts) for hosts in counts])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("hosts")
    axis.set_ylabel("seconds (logarithmic)")
    axis.set_title(f"Time for {record['size'] >> 20} MiB at {row.network}")
