"""Runs as values, for the tests of what is shown of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from kollacast.operator.config import ServerConfig
from kollacast.sending.plan import offer
from kollacast.server.cycle import Stage
from kollacast.server.record import ClientRecord
from kollacast.server.snapshot import ClientEntry, Snapshot
from kollacast.wire.checksum import best_crc32c

_ENGINE, _ = best_crc32c()
SIZE = 14_600_000
PACKETS = SIZE // 1460


def host(number: int, place: str | None = "in step", **more: Any) -> ClientEntry:
    """The entry of one host; `more` are fields of it or of its record."""
    names = {field.name for field in dataclasses.fields(ClientRecord)}
    record = ClientRecord(f"host-{number}", f"10.0.{number // 250}.{number % 250 + 1}")
    account = dataclasses.replace(record, **{k: v for k, v in more.items() if k in names})
    rest = {key: value for key, value in more.items() if key not in names}
    return ClientEntry(account, place, packets_done=account.packets_done, **rest)


def run(*hosts: ClientEntry, size: int | None = SIZE, **more: Any) -> Snapshot:
    """A run that has sent half of the image to these hosts."""
    config = ServerConfig("10.0.0.1", max(len(hosts), 1), 18383, "239.0.0.1", 1, 1500)
    values = {
        "config": config,
        "plan": offer(config, _ENGINE, size=size, identity="image"),
        "name": "kolla.tgz",
        "stage": Stage.SENDING,
        "seconds": 2.0,
        "bytes_done": SIZE // 2,
        "digests": {},
        "packets_multicast": PACKETS // 2 + 3,
        "packets_coded": 3,
        "packets_resent": 5,
        "bytes_multicast": 7_400_000,
        "bytes_tcp": 9000,
        "rate_bps": 1e9,
        "buffers_in_flight": 1,
        "connections": len(hosts),
        "reads_waiting": 0,
        "present": sum(h.account.verified or h.place is not None for h in hosts),
        "verified": sum(h.account.verified for h in hosts),
        "packets_repaired": sum(h.account.packets_repaired for h in hosts),
        "clients": hosts,
    }
    return Snapshot(**{**values, **more})
