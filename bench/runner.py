"""Runs a row: every contender on the same bytes, in turn within each repetition.

The record of a row is what goes into the JSON, and all that table and plot are made from:

    {"measured": time, "machine": facts, "network": text, "size": bytes, "repetitions": n,
     "contenders": {name: {"version": text, "options": text, more facts,
                           "hosts": {"4": {"transfers": [transfer, ...]}}}}}

Instead of a version there is "missing" (why it cannot run here) or "skipped" (why not in this row).
kollacast and its variants have "is_subject", and "digest", those of the sweep "window" and
"buffer_packets". A transfer is ``{"error": text}`` or

    {"wall_s": from the sender's start (receivers wait already) to the end of the last receiver,
     "data_s": from the first 64 KiB that reached the first host to the last change to any copy,
     "sender_cpu_s", "receivers_cpu_s", "machine_cpu_s": CPU seconds,
     "sender_peak_bytes", "receiver_peak_bytes": the largest process of each side,
     "port": [[seconds, packets, drops], ...] of a slow port, "report": what the tool reports}

Where the hosts are simulated, data_s goes from the first BUFFER to the end of the last host that
is not disturbed, the receiver is the crowd, and the report has "crowd", what `bench.crowd` counts,
and no "clients".
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.ballast import Ballast
from bench.contenders import Contender, Scene
from bench.crew import Crew, Side, TransferError
from bench.image import Image
from bench.machine import machine_facts
from bench.rows import Row
from lab import Lab

_PREFIX = "bm-"
_PORT_TICK_S = 0.5
#: Another tool is repeated as long as its turns in one cell take no longer than this together.
_OTHERS_S = 65.0
_Record = dict[str, Any]


def tell(text: str) -> None:
    """A line of progress on standard error, with the time of day."""
    print(f"{datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)


def has_turn(
    row: Row, contender: Contender, hosts: int, taken: Sequence[float], repetitions: int | None
) -> bool:
    """Whether a contender whose turns in a cell have `taken` these seconds gets another one.

    kollacast always does, and with `repetitions` asked for everyone. Else the other tools run as
    often only where they decide on the goal, and do not take too long; elsewhere they run once.
    """
    if contender.is_subject:
        return True
    if row.others_hosts is not None and hosts not in row.others_hosts:
        return False
    if repetitions is not None or not taken:
        return True
    decides = row.compares_tools and contender.is_multicast
    return decides and sum(taken) + max(taken) <= _OTHERS_S


class Runner:
    """Runs rows in `folder`, in memory, with one `ballast` for all of them.

    `repetitions` is for every cell; without it each row has its own number, see `has_turn`.
    """

    def __init__(self, folder: Path, ballast: Ballast, repetitions: int | None) -> None:
        self._folder = folder
        self._ballast = ballast
        self._repetitions = repetitions

    def run(self, row: Row, contenders: Sequence[Contender], image: Image) -> _Record:
        """Measure `row` with copies of `image`; the record described in the module's text."""
        repetitions = self._repetitions or row.repetitions
        record: _Record = {
            "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine_facts(),
            "network": row.network,
            "size": image.size,
            "repetitions": repetitions,
            "contenders": {c.name: _blank(c, row) for c in contenders},
        }
        able = [c for c in contenders if c.missing() is None and c.skips(row) is None]
        for hosts in row.hosts:
            taken: dict[str, list[float]] = {c.name: [] for c in able}
            for repetition in range(repetitions):
                for contender in able:
                    cell = record["contenders"][contender.name]["hosts"].get(str(hosts), {})
                    if any(t.get("is_too_slow") for t in cell.get("transfers", [])):
                        continue  # Once over the limit is enough: it would be so again.
                    turns = taken[contender.name]
                    if not has_turn(row, contender, hosts, turns, self._repetitions):
                        continue
                    began = time.monotonic()
                    transfer = self._measure(row, contender, hosts, image)
                    turns.append(time.monotonic() - began)
                    about = record["contenders"][contender.name]["hosts"]
                    about.setdefault(str(hosts), {"transfers": []})["transfers"].append(transfer)
                    _tell(row, contender, hosts, repetition, transfer)
        return record

    def _measure(self, row: Row, contender: Contender, hosts: int, image: Image) -> _Record:
        limit_s = row.time_limit_s(hosts, image.size, is_unicast=not contender.is_multicast)
        slow_ports = {0: row.slow_port_bps} if row.slow_port_bps else {}
        folder = self._folder / "run"
        folder.mkdir()
        self._ballast.fill()
        copies: list[Path] = []
        try:
            with Lab(
                1 if row.is_simulated else hosts,
                prefix=_PREFIX,
                rate_bps=row.rate_bps,
                slow_ports=slow_ports,
                loss=0.0 if row.is_simulated else row.loss,
                own_frames=row.own_frames,
            ) as lab:
                scene = Scene(lab, row, image.path, folder, hosts)
                copies = scene.copies
                port: list[list[float]] = []
                wanted = row.copies(hosts) * image.size
                with Crew(folder, limit_s, before=lambda: self._ballast.release(wanted)) as crew:
                    if slow_ports:
                        crew.every(_PORT_TICK_S, lambda s: port.append([round(s, 2), *_port(lab)]))
                    report = contender.transfer(crew, scene)
            differing = image.differing(copies)
            if differing:
                return {"error": "; ".join(differing), "is_wrong": True}
            return {**_figures(crew), **({"port": port} if port else {}), "report": report}
        except TransferError as error:
            return {"error": str(error), "is_too_slow": error.is_too_slow}
        finally:
            self._ballast.take(copies)
            shutil.rmtree(folder)


def _blank(contender: Contender, row: Row) -> _Record:
    about: _Record = {"options": contender.options(row), "hosts": {}, **contender.facts(row)}
    missing, skipped = contender.missing(), contender.skips(row)
    if missing:
        return {**about, "missing": missing}
    if skipped:
        return {**about, "skipped": skipped}
    return {"version": contender.version(), **about}


def _port(lab: Lab) -> tuple[int, int]:
    counters = lab.port_counters(lab.clients[0])
    return counters["packets"], counters["drops"]


def _figures(crew: Crew) -> _Record:
    assert crew.began is not None
    assert crew.finished is not None
    data_began = crew.began if crew.data_began is None else crew.data_began
    completed = crew.finished if crew.completed is None else crew.completed
    sides = {side: [p for p in crew.processes if p.side is side] for side in Side}
    senders, receivers = sides[Side.SENDER], sides[Side.RECEIVER]
    return {
        "wall_s": round(crew.finished - crew.began, 3),
        "data_s": round(max(completed - data_began, 0.001), 3),
        "sender_cpu_s": round(sum(p.cpu_s for p in senders), 2),
        "receivers_cpu_s": round(sum(p.cpu_s for p in receivers), 2),
        "machine_cpu_s": round(crew.machine_cpu_s, 2),
        "sender_peak_bytes": max(p.peak_bytes for p in senders),
        "receiver_peak_bytes": max(p.peak_bytes for p in receivers),
    }


def _tell(row: Row, contender: Contender, hosts: int, repetition: int, transfer: _Record) -> None:
    what = f"{row.name:15} {hosts:4} hosts  {contender.name:16} #{repetition + 1}"
    said = transfer.get("error") or f"{transfer['wall_s']:.2f} s ({transfer['data_s']:.2f} s data)"
    tell(f"{what}  {said}")
