"""What is measured: each row's network, size, numbers of hosts, and the goal it is held to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MIB = 1024 * 1024
GIB = 1024 * MIB

#: Of each 1514 bytes of a full Ethernet frame (MTU 1500 and its header) 1460 are the image's.
PAYLOAD_BYTES = 1460
PAYLOAD_SHARE = PAYLOAD_BYTES / 1514

#: The tool that is measured, by its name in the table.
SUBJECT = "kollacast"

#: A transfer may take this many times what it should take at least, and never less than the floor.
_PATIENCE = 3
_LEAST_LIMIT_S = 90.0
#: A crowd is there to show how much too long it takes.
_CROWD_LIMIT_S = 300.0
#: What any tool at all should manage where no link limits it.
_EXPECTED_BYTES_PER_S = 25 * MIB


class Measure(Enum):
    """How a goal is read."""

    #: kollacast's speed as a multiple of the fastest other multicast tool's; wall time.
    TIMES_FASTEST_OTHER = "times the fastest other multicast tool"
    #: Speed as a share of what the narrowest link can carry of the image; data time.
    SHARE_OF_LIMIT = "share of the link's payload limit"
    #: Time with the most hosts over time with one; data time.
    TIME_GROWTH = "time with the most hosts over time with one"


@dataclass(frozen=True)
class Goal:
    """`value` is a floor, but for TIME_GROWTH a ceiling. `loss` is a ceiling on a slow port."""

    measure: Measure
    value: float
    loss: float | None = None


@dataclass(frozen=True)
class Row:
    """One row. Rates are bits/s on the wire; `loss` is a share of each host's datagrams.

    `hosts` are the numbers of hosts that it is measured with; the other tools only with
    `others_hosts` of them, where those are given. Rows of the sweep and of the crowd have no goal.
    """

    name: str
    network: str
    goal: Goal | None
    hosts: tuple[int, ...] = (4,)
    size: int = GIB
    rate_bps: int | None = None
    slow_port_bps: int | None = None
    own_frames: bool = False
    loss: float = 0.0
    others_hosts: tuple[int, ...] | None = None
    repetitions: int = 3
    #: The hosts are a crowd in one process, which draws `loss` for each of them.
    is_simulated: bool = False

    def copies(self, hosts: int) -> int:
        """How many copies of the image so many hosts make."""
        return 0 if self.is_simulated else hosts

    @property
    def compares_tools(self) -> bool:
        """Whether other tools' figures decide on the goal."""
        return self.goal is not None and self.goal.measure is Measure.TIMES_FASTEST_OTHER

    @property
    def limit_bytes_per_s(self) -> float | None:
        """What the narrowest link can carry of an image that is sent once; None without a limit."""
        rates = [rate for rate in (self.rate_bps, self.slow_port_bps) if rate]
        return min(rates) * PAYLOAD_SHARE / 8 if rates else None

    def time_limit_s(self, hosts: int, size: int, *, is_unicast: bool) -> float:
        """The longest that a transfer may take before it counts as failed."""
        copies = hosts if is_unicast else 1
        rate = min(self.limit_bytes_per_s or _EXPECTED_BYTES_PER_S, _EXPECTED_BYTES_PER_S)
        least = _CROWD_LIMIT_S if self.is_simulated else _LEAST_LIMIT_S
        return max(least, _PATIENCE * copies * size / rate)


_MBIT = 1_000_000
_TIMES, _SHARE, _GROWTH = Measure.TIMES_FASTEST_OTHER, Measure.SHARE_OF_LIMIT, Measure.TIME_GROWTH

#: Loss spares TCP, so that unicast is the same in all rows with loss: it is measured in this one.
LOSS_OF_UNICAST = "loss-1"

ROWS = (
    Row("raw-1", "no limit", Goal(_TIMES, 5.0), hosts=(1,)),
    Row("raw-4", "no limit", Goal(_TIMES, 5.0)),
    Row("frames-1", "no limit, own frames", Goal(_TIMES, 1.5), hosts=(1,), own_frames=True),
    Row("frames-4", "no limit, own frames", Goal(_TIMES, 1.5), own_frames=True),
    Row("link", "1 Gbit/s", Goal(_SHARE, 0.97), rate_bps=1000 * _MBIT),
    Row(
        LOSS_OF_UNICAST,
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
        others_hosts=(1, 4, 32),
    ),
)

#: What `--window` and `--buffer-packets` are to be: kollacast alone, with each of these, on a
#: network without a limit and on a link. Buffers of about 1.5, 3, 6 and 12 MB.
SWEEP_WINDOWS = (1, 2, 4, 8)
SWEEP_BUFFER_PACKETS = (1024, 2048, 4096, 8192)
SWEEP_NAME = "sweep"
SWEEP_ROWS = (
    Row("sweep-raw", "no limit", None, size=256 * MIB, repetitions=1),
    Row("sweep-link", "1 Gbit/s", None, size=256 * MIB, rate_bps=1000 * _MBIT, repetitions=1),
)

#: What the server takes for how many hosts, which are simulated: kollacast alone.
SCALE_HOSTS = (1, 64, 256, 1000)
SCALE_LOSS = 0.01
SCALE_NAME = "scale"
SCALE_ROWS = (
    *(
        Row(
            f"{SCALE_NAME}-{hosts}",
            "1 Gbit/s, simulated hosts",
            None,
            hosts=(hosts,),
            size=512 * MIB,
            rate_bps=1000 * _MBIT,
            is_simulated=True,
        )
        for hosts in SCALE_HOSTS
    ),
    *(
        Row(
            f"{SCALE_NAME}-{hosts}-loss",
            f"1 Gbit/s, simulated hosts, {SCALE_LOSS:.0%} loss",
            None,
            hosts=(hosts,),
            size=256 * MIB,
            rate_bps=1000 * _MBIT,
            loss=SCALE_LOSS,
            is_simulated=True,
        )
        for hosts in SCALE_HOSTS
    ),
)
ALL_ROWS = (*ROWS, *SCALE_ROWS, *SWEEP_ROWS)

#: What processes may cost: a table of its own, read off this row's transfers.
COST_ROW = "raw-4"
COST_NAME = "cost"
PEAK_MEMORY_LIMIT_BYTES = 128 * MIB


def by_name(name: str) -> Row:
    """The row called `name`; ``cost`` is measured by the row that it is read off. KeyError."""
    wanted = COST_ROW if name == COST_NAME else name
    return {row.name: row for row in ALL_ROWS}[wanted]


def some_by_name(name: str) -> tuple[Row, ...]:
    """The same, or all rows of the sweep or of the crowd by the name of those."""
    groups = {SWEEP_NAME: SWEEP_ROWS, SCALE_NAME: SCALE_ROWS}
    return groups.get(name) or (by_name(name),)
