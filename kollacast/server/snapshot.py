"""The whole run as one value, at one moment; what operators are told is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kollacast.operator.config import ServerConfig
from kollacast.operator.outcome import Outcome, Progress, Status
from kollacast.sending.plan import Plan
from kollacast.server.cycle import Stage

_PHASES = {
    Stage.STARTING: "starting",
    Stage.GATHERING: "waiting for clients",
    Stage.SENDING: "sending",
    Stage.PROVING: "verifying",
    Stage.PROVED: "verifying",
    Stage.ENDED: "ending",
}


@dataclass(slots=True)
class ClientRecord:
    """One client, over all of its connections.

    ``fetching`` says why it is that, and not in step with the others; None where it is in step.
    """

    name: str
    address: str
    verified: bool = False
    reason: str | None = None
    fetching: str | None = None
    connections: int = 1
    packets_multicast: int | None = None
    packets_repaired: int = 0
    packets_fetched: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class ClientEntry:
    """One client, over all of its connections."""

    account: ClientRecord  #: a copy
    place: str | None  #: where its conversation is; None while it has no connection
    packets_owed: int = 0  #: that it has asked for
    answers_due: int = 0  #: that the others wait for
    messages_queued: int = 0


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
    buffers_in_flight: int
    connections: int  #: that are open, whoever is at their other end
    reads_waiting: int  #: of clients that fetch, for what is not read yet
    present: int  #: clients that are here, or have the image
    verified: int  #: clients that have the image, here or gone
    packets_repaired: int  #: that clients lacked, and got
    clients: tuple[ClientEntry, ...]  #: in the order in which they came

    def progress(self) -> Progress:
        """How far the run is."""
        return Progress(
            phase=_PHASES[self.stage],
            bytes_done=self.bytes_done,
            bytes_total=self.plan.size,
            clients=self.verified if self.stage is Stage.ENDED else self.present,
            clients_expected=self.config.clients,
            packets_repaired=self.packets_repaired,
        )

    def outcome(self, reason: str | None) -> Outcome:
        """How the run has ended, for ``reason`` where it was not with the last report."""
        verified, expected = self.verified, self.config.clients
        if verified >= expected:
            # Whatever came after that has cost nobody anything.
            status, reason = Status.OK, None
        else:
            status = Status.PARTIAL if verified else Status.FAILED
        report = self._report(reason)
        if status is Status.OK:
            line = (
                f"{verified} of {expected} clients have the image: {report['bytes']} bytes in"
                f" {self.seconds:.1f} s ({report['throughput_bytes_per_s'] / 1e6:.1f} MB/s)"
            )
            if self.digests:
                line += f", {self.plan.digest} {self.digests[self.plan.digest].hex()}"
            return Outcome(status, line, report)
        if reason is not None:
            line = reason if not verified else f"{reason}; {verified} of {expected} have the image"
        else:
            line = f"{verified} of {expected} clients have the image"
            absent = expected - len(self.clients)
            if absent > 0:
                line += f", {absent} never came"
        without = self._without(reason)
        return Outcome(status, f"{line}; without: {without}" if without else line, report)

    def _hex(self, name: str) -> str | None:
        value = self.digests.get(name)
        return None if value is None else value.hex()

    def _without(self, reason: str | None) -> str:
        """Who has not got the image, and why unless for the ``reason`` that all have."""
        accounts = [entry.account for entry in self.clients]
        return "; ".join(
            f"{account.name} ({account.address}): {account.reason}"
            for account in accounts
            if not account.verified and account.reason != reason
        )

    def _report(self, reason: str | None) -> dict[str, Any]:
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
            "reason": reason,
            "failsafe": self.config.failsafe,
            "clients": [asdict(entry.account) for entry in self.clients],
        }
