"""How the server scales, as one picture over the number of simulated hosts: time, CPU, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.plot import PlotError
from bench.results import Record, median
from bench.rows import SUBJECT, Row
from bench.scaling import sent_per_image

#: Okabe and Ito's palette, as in the benchmark's picture.
_COLOURS = ("#D55E00", "#0072B2", "#999999")
_PANELS = ("seconds", "server, CPU seconds", "bytes sent / image")


def draw_scaling(rows: Sequence[Row], records: dict[str, Record], path: Path) -> None:
    """Write a PNG of three panels, a line for each share of loss; none without rows."""
    lines: dict[float, list[Row]] = {}
    for row in rows:
        if not row.disturbance:
            lines.setdefault(row.loss, []).append(row)
    if not lines:
        return
    try:
        import matplotlib
    except ImportError:
        raise PlotError("no plot: matplotlib is not installed") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(12, 4.2), layout="constrained")
    for (loss, some), colour in zip(lines.items(), _COLOURS, strict=False):
        points = [(row.hosts[-1], *_figures(row, records[row.name])) for row in some]
        for panel, axis in enumerate(axes):
            known = [(hosts, found[panel]) for hosts, *found in points if found[panel] is not None]
            if known:
                label = f"{loss:.0%} loss" if loss else "no loss"
                axis.plot(*zip(*known, strict=True), marker="o", label=label, color=colour)
    counts = sorted({row.hosts[-1] for some in lines.values() for row in some})
    for title, axis in zip(_PANELS, axes, strict=True):
        axis.set_xscale("log")
        axis.set_xticks(counts, [str(hosts) for hosts in counts])
        axis.set_xticks([], minor=True)
        axis.set_ylim(bottom=1 if axis is axes[-1] else 0)
        axis.set_xlabel("hosts")
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _figures(row: Row, record: Record) -> tuple[float | None, ...]:
    """What each panel shows."""
    [hosts] = row.hosts
    return (
        median(record, SUBJECT, hosts, "data_s"),
        median(record, SUBJECT, hosts, "sender_cpu_s"),
        sent_per_image(record, hosts),
    )
