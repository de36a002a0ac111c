"""What is measured: each row's network, size, numbers of hosts, and the goal it is held to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MIB = 1024 * 1024
GIB = 1024 * MIB

#: Of each 1514 bytes of a full Ethernet frame (MTU 1500 and its header) 1460 are the image's.
PAYLOAD_SHARE = 1460 / 1514

#: A transfer may take this many times what it should take at least, and never less than the floor.
_PATIENCE = 4
_LEAST_LIMIT_S = 180.0
#: What any tool at all should manage where no link limits it.
_EXPECTED_BYTES_PER_S = 25 * MIB


class Measure(Enum):
    """How a goal is read."""

    #: kollacast's speed as a multiple of the fastest other multicast tool's; wall time.
    TIMES_FASTEST_OTHER = "times the fastest other multicast tool"
    #: Speed as a share of what the narrowest link can carry of the image, from the first data on.
    SHARE_OF_LIMIT = "share of the link's payload limit"
    #: Time with the most hosts over time with one, from the first data on.
    TIME_GROWTH = "time with the most hosts over time with one"


@dataclass(frozen=True)
class Goal:
    """`value` is a floor, but for TIME_GROWTH a ceiling. `loss` is a ceiling on a slow port."""

    measure: Measure
    value: float
    loss: float | None = None


@dataclass(frozen=True)
class Row:
    """One row. Rates are bits/s on the wire; `loss` is a share of each host's datagrams."""

    name: str
    network: str
    goal: Goal
    hosts: tuple[int, ...] = (4,)
    size: int = GIB
    rate_bps: int | None = None
    slow_port_bps: int | None = None
    own_frames: bool = False
    loss: float = 0.0

    @property
    def limit_bytes_per_s(self) -> float | None:
        """What the narrowest link can carry of an image that is sent once; None without a limit."""
        rates = [rate for rate in (self.rate_bps, self.slow_port_bps) if rate]
        return min(rates) * PAYLOAD_SHARE / 8 if rates else None

    def time_limit_s(self, hosts: int, size: int, *, is_unicast: bool) -> float:
        """The longest that a transfer may take before it counts as failed."""
        copies = hosts if is_unicast else 1
        rate = min(self.limit_bytes_per_s or _EXPECTED_BYTES_PER_S, _EXPECTED_BYTES_PER_S)
        return max(_LEAST_LIMIT_S, _PATIENCE * copies * size / rate)


_MBIT = 1_000_000
_TIMES, _SHARE, _GROWTH = Measure.TIMES_FASTEST_OTHER, Measure.SHARE_OF_LIMIT, Measure.TIME_GROWTH

ROWS = (
    Row("raw-1", "no limit", Goal(_TIMES, 5.0), hosts=(1,)),
    Row("raw-4", "no limit", Goal(_TIMES, 5.0)),
    Row("frames-1", "no limit, own frames", Goal(_TIMES, 1.5), hosts=(1,), own_frames=True),
    Row("frames-4", "no limit, own frames", Goal(_TIMES, 1.5), own_frames=True),
    Row("link", "1 Gbit/s", Goal(_SHARE, 0.97), rate_bps=1000 * _MBIT),
    Row(
        "loss-1",
        "500 Mbit/s, own frames, 1 % loss",
        Goal(_SHARE, 0.93),
        rate_bps=500 * _MBIT,
        own_frames=True,
        loss=0.01,
    ),
    Row(
        "loss-5",
        "500 Mbit/s, own frames, 5 % loss",
        Goal(_SHARE, 0.85),
        rate_bps=500 * _MBIT,
        own_frames=True,
        loss=0.05,
    ),
    Row(
        "slow-port",
        "1 Gbit/s, own frames, one host behind 200 Mbit/s",
        Goal(_SHARE, 0.93, loss=0.02),
        rate_bps=1000 * _MBIT,
        slow_port_bps=200 * _MBIT,
        own_frames=True,
    ),
    Row(
        "hosts",
        "100 Mbit/s",
        Goal(_GROWTH, 1.03),
        hosts=(1, 2, 4, 8, 16, 32),
        size=64 * MIB,
        rate_bps=100 * _MBIT,
    ),
)

#: What processes may cost: a table of its own, read off this row's transfers.
COST_ROW = "raw-4"
COST_NAME = "cost"
PEAK_MEMORY_LIMIT_BYTES = 128 * MIB


def by_name(name: str) -> Row:
    """The row called `name`; ``cost`` is measured by the row that it is read off. KeyError."""
    wanted = COST_ROW if name == COST_NAME else name
    return {row.name: row for row in ROWS}[wanted]
