"""The whole run as one value, at one moment; what operators are told is made of it."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kollacast.operator.config import ServerConfig
from kollacast.operator.findings import RunFacts, diagnose
from kollacast.operator.outcome import HostLine, Hosts, Outcome, Progress, Status
from kollacast.sending.barrier import Phase
from kollacast.sending.plan import Plan
from kollacast.server.cycle import Stage
from kollacast.server.record import ClientRecord

#: So many clients that are without the image are named in a line; the report has all.
_MOST_NAMES = 10

#: What an operator calls each stage.
PHASES = {
    Stage.STARTING: "starting",
    Stage.GATHERING: "waiting for clients",
    Stage.SENDING: "sending",
    Stage.PROVING: "verifying",
    Stage.PROVED: "verifying",
    Stage.ENDED: "ending",
}
#: So many of those that never came are named in a line; all are in the report.
_MOST_NAMES = 10


class HostState(enum.Enum):
    """How a host stands, in an operator's words; in the order of a run."""

    WAITING = "waiting"  #: for the others, before anything is sent
    RECEIVING = "receiving"  #: in step with the others, or catching up with them
    REPAIRING = "repairing"  #: in step, and has asked for packets that it has not got yet
    DETACHED = "detached"  #: fetches by TCP what the others get by multicast
    UNICAST = "unicast"  #: fetches by TCP, as all do that were told to
    VERIFYING = "verifying"  #: has all, and brings it to disk
    VERIFIED = "verified"  #: has the image
    FAILED = "failed"  #: is gone without the image, and may come back


@dataclass(frozen=True)
class ClientEntry:
    """One client, over all of its connections."""

    account: ClientRecord  #: a copy
    place: str | None  #: where its conversation is; None while it has no connection
    packets_done: int = 0  #: of the stream, up to which it has all, as far as is known
    owes: str | None = None  #: what is due from it: "READY", "DONE", "REPORT", "FETCH" or room
    owed_s: float = 0.0  #: for how many seconds; of one in step, the others wait for it
    packets_owed: int = 0  #: that it has asked for
    answers_due: int = 0  #: that the others wait for
    messages_queued: int = 0

    @property
    def holds_up(self) -> bool:
        """Whether the others wait for what is due from it."""
        return self.answers_due > 0 or self.owes == Phase.PROVE.value


@dataclass(frozen=True)
class Snapshot:
    """One run of the server."""

    config: ServerConfig
    plan: Plan
    name: str | None  #: of the image
    stage: Stage
    seconds: float  #: since the start, up to the end
    bytes_done: int
    digests: Mapping[str, bytes]  #: of the image by their names, once all of it is read
    packets_multicast: int
    packets_coded: int
    packets_resent: int  #: repairs by TCP
    bytes_multicast: int  #: that left by multicast, with the headers of packets
    bytes_tcp: int  #: that left by TCP
    rate_bps: float | None  #: at which multicast may leave; None for no limit
    buffers_in_flight: int
    connections: int  #: that are open, whoever is at their other end
    reads_waiting: int  #: of clients that fetch, for what is not read yet
    present: int  #: clients that are here, or have the image
    verified: int  #: clients that have the image, here or gone
    packets_repaired: int  #: that clients lacked, and got
    clients: tuple[ClientEntry, ...]  #: in the order in which they came

    def progress(self, most_hosts: int = 0) -> Progress:
        """How far the run is, and so many of its slowest hosts, where any are asked for."""
        return Progress(
            phase=PHASES[self.stage],
            bytes_done=self.bytes_done,
            bytes_total=self.plan.size,
            clients=self.verified if self.stage is Stage.ENDED else self.present,
            clients_expected=self.config.clients,
            packets_repaired=self.packets_repaired,
            hosts=self._hosts(most_hosts) if most_hosts else None,
        )

    def state(self, entry: ClientEntry) -> HostState:
        """How one of the clients stands."""
        if entry.account.verified:
            return HostState.VERIFIED
        if entry.place is None or entry.place == "leaving":
            return HostState.FAILED
        if entry.owes == Phase.PROVE.value:
            return HostState.VERIFYING
        if entry.place in ("in step", "joining late"):
            if self.stage in (Stage.STARTING, Stage.GATHERING):
                return HostState.WAITING
            return HostState.REPAIRING if entry.packets_owed else HostState.RECEIVING
        return HostState.UNICAST if self.config.unicast else HostState.DETACHED

    def states(self) -> dict[HostState, int]:
        """How many hosts stand how, in the order of a run; those that never came in none."""
        counts = Counter(self.state(entry) for entry in self.clients)
        return {state: counts[state] for state in HostState if counts[state]}

    def bytes_of(self, entry: ClientEntry) -> int:
        """How many bytes of the image one of the clients has, from the first on, about."""
        size = self.bytes_done if self.plan.size is None else self.plan.size
        if entry.account.verified:
            return size
        return min(entry.packets_done * self.plan.capacity, size)

    def slowest(self, most: int) -> list[ClientEntry]:
        """Those that are here without the image and farthest behind, the one first to look at."""
        here = [c for c in self.clients if c.place is not None and not c.account.verified]
        return sorted(here, key=lambda entry: (entry.packets_done, -entry.owed_s))[:most]

    def holding(self, least_s: float) -> list[ClientEntry]:
        """For whom the others have waited so long or longer, the one that holds up most first."""
        late = [c for c in self.clients if c.owed_s >= least_s and c.holds_up]
        return sorted(late, key=lambda entry: -entry.owed_s)

    def findings(self) -> list[str]:
        """What was wrong so far, the worst first."""
        hosts = tuple(entry.account.facts() for entry in self.clients)
        group = f"{self.config.group} port {self.config.port}"
        return diagnose(RunFacts(hosts, self.packets_multicast, self.seconds, group))

    def outcome(self, reason: str | None) -> Outcome:
        """How the run has ended, for ``reason`` where it was not with the last report."""
        verified, expected = self.verified, self.config.clients
        if verified >= expected:
            # Whatever came after that has cost nobody anything.
            status, reason = Status.OK, None
        else:
            status = Status.PARTIAL if verified else Status.FAILED
        report = self.report(reason)
        findings = tuple(report["diagnosis"])
        if status is Status.OK:
            line = (
                f"{verified} of {expected} clients have the image: {report['bytes']} bytes in"
                f" {self.seconds:.1f} s ({report['throughput_bytes_per_s'] / 1e6:.1f} MB/s)"
            )
            if self.digests:
                line += f", {self.plan.digest} {self.digests[self.plan.digest].hex()}"
            return Outcome(status, line, report, findings)
        if reason is not None:
            line = reason if not verified else f"{reason}; {verified} of {expected} have the image"
        else:
            line = f"{verified} of {expected} clients have the image"
            absent = expected - len(self.clients)
            if absent > 0:
                line += f", {absent} never came{self._names_of_absent()}"
        without = self._without(reason)
        line = f"{line}; without: {without}" if without else line
        return Outcome(status, line, report, findings)

    @property
    def _absent(self) -> list[str] | None:
        """Which of the hosts that are expected by name have never come; None without names."""
        names = self.config.expected_names
        return None if names is None else sorted(names - {c.account.name for c in self.clients})

    def _names_of_absent(self) -> str:
        absent = self._absent
        if not absent:
            return ""
        more = f" and {len(absent) - _MOST_NAMES} more" if len(absent) > _MOST_NAMES else ""
        return f" ({', '.join(absent[:_MOST_NAMES])}{more})"

    def _hex(self, name: str) -> str | None:
        value = self.digests.get(name)
        return None if value is None else value.hex()

    def _hosts(self, most: int) -> Hosts:
        """Before the start and after the end none is slow."""
        sent = sum([entry.account.packets_sent for entry in self.clients])
        lost = sum([entry.account.packets_lost for entry in self.clients])
        moves = self.stage in (Stage.SENDING, Stage.PROVING, Stage.PROVED)
        return Hosts(
            states={state.value: count for state, count in self.states().items()},
            loss=lost / sent if sent else None,
            slowest=tuple(self._host_line(c) for c in self.slowest(most)) if moves else (),
        )

    def _host_line(self, entry: ClientEntry) -> HostLine:
        account, size = entry.account, self.plan.size
        return HostLine(
            name=f"{account.name} ({account.address})",
            state=self.state(entry).value,
            share=self.bytes_of(entry) / size if size else None,
            loss=account.loss,
            owed_s=entry.owed_s,
        )

    def _without(self, reason: str | None) -> str:
        """Who has not got the image, and why unless for the ``reason`` that all have."""
        accounts = [entry.account for entry in self.clients]
        without = [a for a in accounts if not a.verified and a.reason != reason]
        named = [f"{a.name} ({a.address}): {a.reason}" for a in without[:_MOST_NAMES]]
        if len(without) > _MOST_NAMES:
            named.append(f"and {len(without) - _MOST_NAMES} more")
        return "; ".join(named)

    def report(self, reason: str | None) -> dict[str, Any]:
        """What ``--report`` says beside status and message, in JSON's types."""
        throughput = self.bytes_done / self.seconds if self.seconds else 0.0
        return {
            "dialect": self.plan.dialect.name,
            "group": self.config.group,
            "port": self.config.port,
            "name": self.name,
            "bytes": self.bytes_done,
            **{name: self._hex(name) for name in self.plan.digests},
            "seconds": round(self.seconds, 3),
            "throughput_bytes_per_s": round(throughput),
            "packets_multicast": self.packets_multicast,
            "packets_coded": self.packets_coded,
            "packets_repaired": self.packets_repaired,
            "clients_expected": self.config.clients,
            "clients_verified": self.verified,
            "clients_absent": self._absent,
            "reason": reason,
            "failsafe": self.config.failsafe,
            "diagnosis": self.findings(),
            "clients": [entry.account.fields() for entry in self.clients],
        }
