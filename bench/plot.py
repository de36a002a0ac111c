"""The records as one picture: speeds without a link's limit, shares of a link, time by hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.results import (
    OTHER_MULTICAST_TOOLS,
    SUBJECT,
    Record,
    host_counts,
    median,
    share_of_limit,
    speed,
)
from bench.rows import ROWS, Measure, Row

#: Okabe and Ito's palette, which is told apart with any kind of colour vision.
_COLOURS = {
    SUBJECT: "#D55E00",
    "udpcast": "#0072B2",
    "uftp": "#56B4E9",
    "unicast": "#999999",
}
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

    measured = [row for row in ROWS if row.name in records]
    by_measure = {m: [row for row in measured if row.goal.measure is m] for m in Measure}
    panels = [(m, rows) for m, rows in by_measure.items() if rows]
    if not panels:
        return
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4.6), squeeze=False, layout="constrained"
    )
    for (measure, rows), axis in zip(panels, axes[0], strict=True):
        if measure is Measure.TIME_GROWTH:
            _lines(axis, rows[0], records[rows[0].name])
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


def _bars(axis: Any, measure: Measure, rows: list[Row], records: dict[str, Record]) -> None:
    is_share = measure is Measure.SHARE_OF_LIMIT
    names = [name for name in _COLOURS if any(name in records[r.name]["contenders"] for r in rows)]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        heights = []
        for row in rows:
            record = records[row.name]
            hosts = (host_counts(record) or row.hosts)[-1]
            if is_share:
                heights.append(100 * (share_of_limit(row, record, name, hosts) or 0))
            else:
                heights.append((speed(record, name, hosts) or 0) / _MEGABYTE)
        places = [place + (index - (len(names) - 1) / 2) * width for place in range(len(rows))]
        bars = axis.bar(places, heights, width, label=name, color=_COLOURS[name])
        labels = [f"{height:.0f}" if height else "failed" for height in heights]
        axis.bar_label(bars, labels, fontsize=7, padding=1)
    for place, row in enumerate(rows):
        goal = _goal_height(row, records[row.name])
        axis.hlines(goal, place - 0.45, place + 0.45, color="black", linewidth=1, label="goal")
    axis.set_xticks(range(len(rows)), [row.name for row in rows])
    axis.set_ylabel("% of the link's payload limit" if is_share else "MB/s")
    axis.set_title("Share of the narrowest link" if is_share else "Speed without a limit")


def _goal_height(row: Row, record: Record) -> float:
    """Where kollacast's bar is to end, in the unit of its panel."""
    if row.goal.measure is Measure.SHARE_OF_LIMIT:
        return 100 * row.goal.value
    hosts = (host_counts(record) or row.hosts)[-1]
    others = [speed(record, name, hosts) or 0 for name in OTHER_MULTICAST_TOOLS]
    return row.goal.value * max(others) / _MEGABYTE


def _lines(axis: Any, row: Row, record: Record) -> None:
    counts = host_counts(record)
    for name, colour in _COLOURS.items():
        points = [(hosts, median(record, name, hosts, "wall_s")) for hosts in counts]
        known = [(hosts, seconds) for hosts, seconds in points if seconds]
        if known:
            axis.plot(*zip(*known, strict=True), marker="o", label=name, color=colour)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axis.set_xticks(row.hosts, [str(hosts) for hosts in counts])
    axis.set_xlabel("hosts")
    axis.set_ylabel("seconds")
    axis.set_title(f"Time for {record['size'] >> 20} MiB at {row.network}")
