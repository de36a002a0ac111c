"""What is measured: each row's network, size, numbers of hosts, and the goal it is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    #: Time while somebody watches over time while nobody does; data time.
    WATCHED = "time while somebody watches over time while nobody does"


@dataclass(frozen=True)
class Goal:
    """`value` is a floor, but for TIME_GROWTH and WATCHED a ceiling.

    `loss` is a ceiling on a slow port, `viewer_bytes_per_s` one on what a viewer of the status page
    is sent.
    """

    measure: Measure
    value: float
    loss: float | None = None
    viewer_bytes_per_s: float | None = None


@dataclass(frozen=True)
class ScaleGoals:
    """Ceilings for a server's figures with many hosts; None is no goal.

    Time and processor time are held beside those of the row of one host called `one`.
    """

    one: str
    times: float | None = None  #: time over that of one host
    sent: float | None = None  #: bytes that the server has sent, over the image's
    cpu_us: float | None = None  #: more CPU than for one host, for each host and buffer
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """One row. Rates are bits/s on the wire; `loss` is a share of each host's datagrams.

    `hosts` are the numbers of hosts that it is measured with; the other tools only with
    `others_hosts` of them, where those are given. Rows of the sweep have no goal, those of the
    crowd have `scale_goals`.
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
    scale_goals: ScaleGoals | None = None
    #: Options of the crowd's, for some hosts that are disturbed; time is that of the others.
    disturbance: tuple[str, ...] = ()

    @property
    def kills(self) -> bool:
        """Whether some hosts go in the middle, which the server has to complain of."""
        return "--killed" in self.disturbance

    @property
    def is_watched(self) -> bool:
        """Whether every other transfer has somebody who watches."""
        return self.goal is not None and self.goal.measure is Measure.WATCHED

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
        return max(_LEAST_LIMIT_S, _PATIENCE * copies * size / rate)


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
SCALE_LOSS, SCALE_MUCH_LOSS = 0.01, 0.05
SCALE_NAME = "scale"
#: The rows of one host that others are held beside.
SCALE_ONE, SCALE_ONE_LOSS = f"{SCALE_NAME}-1", f"{SCALE_NAME}-1-loss"
#: Of a server, with however many hosts.
SERVER_PEAK_BYTES = 256 * MIB
#: Some hosts of a thousand are disturbed, and the others' time counts.
_DISTURBANCES = (
    ("lossy", "one loses 30 %", ("--lossy", "1", "--lossy-share", "0.3")),
    ("stalled", "one stalls for 3 s", ("--stalled", "1", "--stall-seconds", "3")),
    ("killed", "ten are killed", ("--killed", "10")),
)


def _scale_row(
    hosts: int, loss: float, suffix: str, goals: ScaleGoals, what: str = "", *disturbance: str
) -> Row:
    text = what or (f"{loss:.0%} loss" if loss else "")
    return Row(
        "-".join([SCALE_NAME, str(hosts), *([suffix] if suffix else [])]),
        "1 Gbit/s, simulated hosts" + (f", {text}" if text else ""),
        None,
        hosts=(hosts,),
        size=512 * MIB,
        rate_bps=1000 * _MBIT,
        loss=loss,
        is_simulated=True,
        scale_goals=replace(goals, peak_bytes=SERVER_PEAK_BYTES),
        disturbance=disturbance,
    )


#: By the number of hosts.
_GOALS = {1000: ScaleGoals(SCALE_ONE, times=1.05, cpu_us=40)}
_LOSS_GOALS = {
    64: ScaleGoals(SCALE_ONE_LOSS, sent=1.03),
    1000: ScaleGoals(SCALE_ONE_LOSS, times=1.12, sent=1.06),
}
_MUCH_LOSS_GOALS = {
    64: ScaleGoals(SCALE_ONE_LOSS),
    1000: ScaleGoals(SCALE_ONE_LOSS, sent=1.12),
}
SCALE_ROWS = (
    *(_scale_row(n, 0.0, "", _GOALS.get(n, ScaleGoals(SCALE_ONE))) for n in SCALE_HOSTS),
    *(
        _scale_row(n, SCALE_LOSS, "loss", _LOSS_GOALS.get(n, ScaleGoals(SCALE_ONE_LOSS)))
        for n in SCALE_HOSTS
    ),
    *(_scale_row(n, SCALE_MUCH_LOSS, "loss-5", goals) for n, goals in _MUCH_LOSS_GOALS.items()),
    *(
        _scale_row(SCALE_HOSTS[-1], 0.0, name, ScaleGoals(SCALE_ONE, times=1.1), what, *words)
        for name, what, words in _DISTURBANCES
    ),
)

#: The same with and without a status page, metrics and a live view on a terminal, which are read.
WATCHED_NAME, WATCHED_SUBJECT = "watched", f"{SUBJECT}-watched"
_VIEWER_BYTES_PER_S = 50_000
_WATCHED = Goal(Measure.WATCHED, 1.02, viewer_bytes_per_s=_VIEWER_BYTES_PER_S)
WATCHED_ROWS = (
    Row(
        WATCHED_NAME,
        "1 Gbit/s",
        _WATCHED,
        rate_bps=1000 * _MBIT,
        others_hosts=(),
        repetitions=5,
    ),
    Row(
        f"{WATCHED_NAME}-1000",
        "1 Gbit/s, simulated hosts, 1 % loss",
        _WATCHED,
        hosts=(1000,),
        size=512 * MIB,
        rate_bps=1000 * _MBIT,
        loss=SCALE_LOSS,
        others_hosts=(),
        repetitions=5,
        is_simulated=True,
    ),
)
ALL_ROWS = (*ROWS, *WATCHED_ROWS, *SCALE_ROWS, *SWEEP_ROWS)

#: What processes may cost: a table of its own, read off this row's transfers.
COST_ROW = "raw-4"
COST_NAME = "cost"
PEAK_MEMORY_LIMIT_BYTES = 128 * MIB


def by_name(name: str) -> Row:
    """The row called `name`; ``cost`` is measured by the row that it is read off. KeyError."""
    wanted = COST_ROW if name == COST_NAME else name
    return {row.name: row for row in ALL_ROWS}[wanted]


def some_by_name(name: str) -> tuple[Row, ...]:
    """The same, or all rows of the sweep, of the crowd or of those who watch by their name."""
    groups = {SWEEP_NAME: SWEEP_ROWS, SCALE_NAME: SCALE_ROWS, WATCHED_NAME: WATCHED_ROWS}
    return groups.get(name) or (by_name(name),)
