"""What was wrong with a distribution, from what was measured: a line each, with what to look at.

Each rule is a function of the facts of a run, which finds one thing or nothing. They stand in the
order in which they are told; what an earlier one explains, a later one leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from statistics import median_low

#: Lines that are told, at the most, and hosts that one names.
_MOST_LINES = 6
_MOST_NAMES = 10
#: Packets of a host on which a finding rests, at the least.
_ENOUGH = 500
#: A share of packets lost that is worth a word: less comes of finding the rate.
_MUCH_LOST = 0.02
#: Losses of others that are many times less are none.
_TIMES_LESS = 4.0
#: Datagrams that a kernel drops now and then, and of its losses the share that explains them. It
#: counts what it has put together, up to 45 packets, as one.
_FEW_DROPPED, _DROPPED_SHARE = 10, 0.02
#: Of all datagrams, foreign or damaged ones that are not by chance.
_MANY_DAMAGED, _DAMAGED_SHARE = 100, 0.01
#: A host that takes so many times as long to answer as half of them, and such a share of the run.
_TIMES_LONGER, _LONG_S, _LONG_SHARE = 4.0, 2.0, 0.1
#: A disk that is busy for such a share of the run is what that waits for.
_BUSY = 0.6


@dataclass(frozen=True, eq=False)
class HostFacts:
    """One host; each is like itself alone."""

    name: str
    address: str
    fetching: str | None = None  #: why it got by TCP what others got by multicast
    is_late: bool = False  #: whether that is because it came after the start
    sent: int = 0  #: packets multicast to it
    lost: int = 0  #: of these, that had not reached it at first
    received: int | None = None  #: by multicast, by its own account; None before it has given one
    dropped: int = 0  #: datagrams for which its kernel had no room
    damaged: int = 0  #: datagrams that were foreign, or damaged
    forged: int = 0  #: packets and pieces that claimed to be the server's, and were not
    buffer_bytes: int | None = None  #: for so many its kernel had
    buffer_wanted_bytes: int | None = None
    answering_s: float = 0.0  #: from the end of a buffer to all of it kept, of all buffers
    writing_s: float = 0.0  #: for which its disk was busy

    @property
    def loss(self) -> float:
        return self.lost / self.sent if self.sent else 0.0

    @property
    def has_heard(self) -> bool:
        """Whether any multicast has reached it."""
        return self.lost < self.sent or bool(self.received)

    @property
    def is_deaf(self) -> bool:
        """Whether none has that was sent to it."""
        was_sent = self.sent > 0 or self.received == 0
        return was_sent and not self.has_heard and not (self.is_late or self.is_left_out)

    @property
    def is_left_out(self) -> bool:
        """Whether it was never to hear any."""
        return self.fetching is not None and not self.sent and self.received is None

    @property
    def drops(self) -> bool:
        """Whether its own kernel explains much of what it lost."""
        return self.dropped >= max(_FEW_DROPPED, _DROPPED_SHARE * self.lost)


@dataclass(frozen=True)
class RunFacts:
    """One run of a server."""

    hosts: Sequence[HostFacts]
    multicast: int  #: packets that left by multicast
    seconds: float  #: since the start
    group: str  #: address and port, for people
    #: Hosts of which a line has told already; each rule adds to them.
    told: set[HostFacts] = field(default_factory=set, compare=False)

    def rest(self) -> list[HostFacts]:
        """Those that have heard enough for a judgement, and of which nothing was said."""
        return [h for h in self.hosts if h.sent >= _ENOUGH and h.has_heard and h not in self.told]

    def names(self, hosts: Collection[HostFacts]) -> str:
        """Their addresses, the beginnings that they share said once; names where these are one."""
        if len(hosts) == len(self.hosts) > 1:
            return "every host"
        addresses = [host.address for host in hosts]
        is_one_each = len({host.address for host in self.hosts}) == len(self.hosts)
        labels = _short(addresses) if is_one_each else [host.name for host in hosts]
        if len(labels) > _MOST_NAMES:
            labels[_MOST_NAMES:] = [f"and {len(labels) - _MOST_NAMES} more"]
        return f"host{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def diagnose(run: RunFacts) -> list[str]:
    """What was wrong, the worst first; nothing where all was well."""
    found = [line for rule in _RULES if (line := rule(run)) is not None]
    return found[:_MOST_LINES]


def diagnose_host(host: HostFacts) -> list[str]:
    """What a host can say of itself."""
    if not host.drops:
        return []
    return [
        f"this host dropped {host.dropped} datagrams in its receive buffer: {_room_for([host])}"
    ]


# The rules.


def nobody_hears(run: RunFacts) -> str | None:
    deaf = [host for host in run.hosts if host.is_deaf]
    if run.multicast < _ENOUGH or not deaf or any(host.has_heard for host in run.hosts):
        return None
    run.told.update(deaf)
    return (
        f"no host received any multicast of {run.group}: look for an IGMP querier, at snooping, at"
        " firewalls, and at routers in between (--ttl)"
    )


def some_hear_nothing(run: RunFacts) -> str | None:
    deaf = [host for host in run.hosts if host.is_deaf and host not in run.told]
    if run.multicast < _ENOUGH or not deaf:
        return None
    run.told.update(deaf)
    return (
        f"no multicast reached {run.names(deaf)}, and the rest received it: look at the firewall,"
        " VLAN and switch port, and for an IGMP querier"
    )


def kernels_drop(run: RunFacts) -> str | None:
    dropping = [host for host in run.hosts if host.drops]
    if not dropping:
        return None
    run.told.update(dropping)
    return f"{run.names(dropping)} dropped in the receive buffer: {_room_for(dropping)}"


def some_lose(run: RunFacts) -> str | None:
    hosts = run.rest()
    usual = median_low([host.loss for host in hosts]) if len(hosts) > 1 else 0.0
    losing = [h for h in hosts if h.loss >= _MUCH_LOST and h.loss > _TIMES_LESS * usual]
    rest = [host for host in hosts if host not in losing]
    if not losing or not rest:
        return None
    run.told.update(losing)
    others = median_low([host.loss for host in rest])
    whose = "their switch ports and cables" if len(losing) > 1 else "its switch port and cable"
    return (
        f"{run.names(losing)} lost {_percent(losing)} while the rest lost"
        f" {_share(others) if others >= 0.001 else 'none'}: look at {whose}"
    )


def all_lose_alike(run: RunFacts) -> str | None:
    hosts = run.rest()
    losses = sorted(host.loss for host in hosts)
    # A tenth of them may be better off.
    if not hosts or losses[len(losses) // 10] < _MUCH_LOST:
        return None
    run.told.update(hosts)
    if len(hosts) == 1:
        return f"{run.names(hosts)} lost {_percent(hosts)}: look at the way there from the server"
    return (
        f"all {len(hosts)} hosts alike lost {_percent(hosts)}: look at the server's uplink, or at a"
        " trunk that all share"
    )


def some_are_slow(run: RunFacts) -> str | None:
    hosts = [host for host in run.hosts if host.answering_s > 0]
    if len(hosts) < 2:
        return None
    usual = median_low([host.answering_s for host in hosts])
    least = max(_TIMES_LONGER * usual, _LONG_S, _LONG_SHARE * run.seconds)
    slow = [host for host in hosts if host.answering_s > least]
    if not slow:
        return None
    run.told.update(slow)
    busy = [host for host in slow if host.writing_s > _BUSY * run.seconds]
    if busy:
        return f"{run.names(busy)} waited for the disk, and the rest did not: look at its health"
    return f"{run.names(slow)} took long to answer, and the rest did not: look at the load there"


def disks_are_the_limit(run: RunFacts) -> str | None:
    hosts = [host for host in run.hosts if host.writing_s > _BUSY * run.seconds]
    if run.seconds < _LONG_S or len(hosts) <= len(run.hosts) / 2:
        return None
    return f"the disks of {run.names(hosts)} were busy nearly all the time: they are the limit"


def some_are_lied_to(run: RunFacts) -> str | None:
    hosts = [host for host in run.hosts if host.forged]
    if not hosts:
        return None
    return (
        f"{run.names(hosts)} received what claims to be the server's and is not, and kept none of"
        f" it: somebody else sends to {run.group}; where it is one host, its memory may be bad"
    )


def foreign_datagrams(run: RunFacts) -> str | None:
    hosts = [h for h in run.hosts if h.damaged >= max(_MANY_DAMAGED, _DAMAGED_SHARE * h.sent)]
    if not hosts:
        return None
    return (
        f"{run.names(hosts)} received datagrams at {run.group} that are not of this session, or are"
        " damaged: look for another sender there (--group), or for a bad cable"
    )


def some_were_left_behind(run: RunFacts) -> str | None:
    left = [h for h in run.hosts if h.fetching and h.sent and not (h.is_late or h in run.told)]
    if not left:
        return None
    return f"{run.names(left)} did not keep up, and got the rest by TCP: {left[0].fetching}"


def some_were_late(run: RunFacts) -> str | None:
    late = [host for host in run.hosts if host.is_late]
    if not late:
        return None
    return f"{run.names(late)} came after the start, and fetched by TCP what was sent before"


_RULES: tuple[Callable[[RunFacts], str | None], ...] = (
    some_are_lied_to,
    nobody_hears,
    some_hear_nothing,
    kernels_drop,
    some_lose,
    all_lose_alike,
    some_are_slow,
    disks_are_the_limit,
    foreign_datagrams,
    some_were_left_behind,
    some_were_late,
)


# How they are told.


def _room_for(hosts: Sequence[HostFacts]) -> str:
    wanted = max(host.buffer_wanted_bytes or 0 for host in hosts)
    if any((h.buffer_bytes or 0) < (h.buffer_wanted_bytes or 0) for h in hosts):
        return f"raise net.core.rmem_max to {wanted}"
    return "it is as large as it should be, so look for what else keeps the processor busy"


def _percent(hosts: Sequence[HostFacts]) -> str:
    """What each of them lost, or from what to what."""
    least, most = (_share(f([host.loss for host in hosts])) for f in (min, max))
    return least if least == most else f"{least.removesuffix(' %')} to {most}"


def _share(share: float) -> str:
    percent = 100 * share
    return f"{percent:.1f} %" if percent < 9.95 and round(percent, 1) % 1 else f"{percent:.0f} %"


def _short(addresses: Sequence[str]) -> list[str]:
    """Each without what it has in common with the one before: 10.0.0.12, .13."""
    labels: list[str] = []
    before = None
    for address in addresses:
        network, _, host = address.rpartition(".")
        labels.append(f".{host}" if network == before and network else address)
        before = network
    return labels
