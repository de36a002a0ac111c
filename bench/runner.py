"""Runs a row: every contender on the same bytes, in turn within each repetition.

The record of a row is what goes into the JSON, and all that table and plot are made from:

    {"measured": time, "machine": facts, "network": text, "size": bytes, "repetitions": n,
     "contenders": {name: {"version": text, "options": text,
                           "hosts": {"4": {"transfers": [transfer, ...]}}}}}

A transfer is ``{"error": text}`` or

    {"wall_s": from the sender's start (receivers wait already) to the end of the last receiver,
     "data_s": the same from the first 64 KiB on that reached the first host,
     "sender_cpu_s", "receivers_cpu_s", "machine_cpu_s": CPU seconds,
     "sender_peak_bytes", "receiver_peak_bytes": the largest process of each side,
     "port": [[seconds, packets, drops], ...] of a slow port, "report": what the tool reports}
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.contenders import Contender, Scene
from bench.crew import Crew, Side, TransferError
from bench.image import Image, make_image, work_folder
from bench.machine import machine_facts
from bench.rows import Row
from lab import Lab

_PREFIX = "bm-"
_PORT_TICK_S = 0.5
_Record = dict[str, Any]


def run_row(row: Row, contenders: Sequence[Contender], size: int, repetitions: int) -> _Record:
    """Measure `row` with images of `size` bytes; the record described in the module's text."""
    record: _Record = {
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "network": row.network,
        "size": size,
        "repetitions": repetitions,
        "contenders": {c.name: _blank(c, row) for c in contenders},
    }
    able = [c for c in contenders if c.missing() is None]
    with work_folder() as folder:
        image = make_image(folder, size, max(row.hosts))
        for hosts in row.hosts:
            for repetition in range(repetitions):
                for contender in able:
                    cell = record["contenders"][contender.name]["hosts"].setdefault(
                        str(hosts), {"transfers": []}
                    )
                    if any(t.get("is_too_slow") for t in cell["transfers"]):
                        continue  # Once over the limit is enough: it would be so again.
                    transfer = _measure(row, contender, hosts, image, folder / "run")
                    cell["transfers"].append(transfer)
                    _tell(row, contender, hosts, repetition, transfer)
    return record


def _blank(contender: Contender, row: Row) -> _Record:
    missing = contender.missing()
    about = {"missing": missing} if missing else {"version": contender.version()}
    return {**about, "options": contender.options(row), "hosts": {}}


def _measure(row: Row, contender: Contender, hosts: int, image: Image, folder: Path) -> _Record:
    limit_s = row.time_limit_s(hosts, image.size, is_unicast=not contender.is_multicast)
    slow_ports = {0: row.slow_port_bps} if row.slow_port_bps else {}
    folder.mkdir()
    try:
        with Lab(
            hosts,
            prefix=_PREFIX,
            rate_bps=row.rate_bps,
            slow_ports=slow_ports,
            loss=row.loss,
            own_frames=row.own_frames,
        ) as lab:
            scene = Scene(lab, row, image.path, folder)
            port: list[list[float]] = []
            with Crew(folder, limit_s) as crew:
                if slow_ports:
                    crew.every(_PORT_TICK_S, lambda s: port.append([round(s, 2), *_port(lab)]))
                report = contender.transfer(crew, scene)
        differing = image.differing(scene.copies)
        if differing:
            return {"error": "; ".join(differing), "is_wrong": True}
        return {**_figures(crew), **({"port": port} if port else {}), "report": report}
    except TransferError as error:
        return {"error": str(error), "is_too_slow": error.is_too_slow}
    finally:
        shutil.rmtree(folder)


def _port(lab: Lab) -> tuple[int, int]:
    counters = lab.port_counters(lab.clients[0])
    return counters["packets"], counters["drops"]


def _figures(crew: Crew) -> _Record:
    assert crew.began is not None
    assert crew.finished is not None
    data_began = crew.began if crew.data_began is None else crew.data_began
    sides = {side: [p for p in crew.processes if p.side is side] for side in Side}
    senders, receivers = sides[Side.SENDER], sides[Side.RECEIVER]
    return {
        "wall_s": round(crew.finished - crew.began, 3),
        "data_s": round(crew.finished - data_began, 3),
        "sender_cpu_s": round(sum(p.cpu_s for p in senders), 2),
        "receivers_cpu_s": round(sum(p.cpu_s for p in receivers), 2),
        "machine_cpu_s": round(crew.machine_cpu_s, 2),
        "sender_peak_bytes": max(p.peak_bytes for p in senders),
        "receiver_peak_bytes": max(p.peak_bytes for p in receivers),
    }


def _tell(row: Row, contender: Contender, hosts: int, repetition: int, transfer: _Record) -> None:
    what = f"{row.name:9} {hosts:2} hosts  {contender.name:9} #{repetition + 1}"
    said = transfer.get("error") or f"{transfer['wall_s']:.2f} s ({transfer['data_s']:.2f} s data)"
    print(f"{what}  {said}", file=sys.stderr, flush=True)
