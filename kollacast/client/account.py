"""What is told of a client's run, at one moment: its progress, its report, its last line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kollacast.client.endings import Failed
from kollacast.client.local_copy import LocalCopy
from kollacast.operator.config import ClientConfig
from kollacast.operator.findings import HostFacts, diagnose_host
from kollacast.operator.outcome import Outcome, Progress, Status


@dataclass(frozen=True)
class Account:
    """A run as it stands."""

    copy: LocalCopy
    config: ClientConfig
    phase: str  #: in an operator's words
    seconds: float  #: since the run began

    def progress(self) -> Progress:
        """How far the run is."""
        terms = self.copy.terms
        return Progress(
            phase=self.phase,
            bytes_done=self.copy.bytes_kept,
            bytes_total=terms.greeting.size if terms else None,
            clients=0,
            clients_expected=0,
            packets_repaired=self.copy.tally.repaired,
        )

    def report(self, reason: str | None) -> dict[str, Any]:
        """What the server and the report's file are told; ``reason`` says what has failed."""
        copy, terms, tally = self.copy, self.copy.terms, self.copy.tally
        return {
            "ok": copy.is_whole,
            "reason": reason,
            "name": self.config.name,
            "server": self.config.server_ip,
            "image": terms.greeting.name if terms else None,
            "dialect": terms.shape.dialect.name if terms else None,
            "bytes": copy.bytes_kept,
            "bytes_resumed": copy.output.bytes_resumed if copy.output else 0,
            self._digest_name: None,
            **{name: value.hex() for name, value in copy.digests.items()},
            "packets_multicast": tally.placed,
            "packets_repaired": tally.repaired,
            "packets_fetched": tally.fetched,
            "packets_decoded": tally.decoded,
            "packets_repeated": tally.repeated,
            "packets_damaged": tally.damaged,
            "packets_forged": tally.control_wrong,
            "pieces_wrong": tally.pieces_wrong,
            "packets_dropped": tally.dropped,
            "receive_buffer_bytes": tally.held_bytes,
            "receive_buffer_wanted_bytes": tally.wanted_bytes,
            "seconds_writing": round(copy.seconds_writing, 3),
            "failsafe": self._failsafe,
            "diagnosis": self.findings(),
            "seconds": round(self.seconds, 3),
        }

    def findings(self) -> list[str]:
        """What was wrong, as far as this host can tell."""
        tally = self.copy.tally
        facts = HostFacts(
            name=self.config.name,
            address=self.config.local_ip,
            lost=tally.repaired,
            dropped=tally.dropped,
            buffer_bytes=tally.held_bytes,
            buffer_wanted_bytes=tally.wanted_bytes,
        )
        return diagnose_host(facts)

    def outcome(self, failed: Failed | None) -> Outcome:
        """How the run has ended; a commit that was quicker than a failure counts."""
        if self.copy.is_whole:
            return Outcome(Status.OK, self._line(), self.report(None), tuple(self.findings()))
        failed = failed or Failed("the image is not complete")
        report = self.report(failed.reason)
        if self._failsafe is None or failed.is_own_fault:
            return Outcome(Status.FAILED, failed.reason, report, tuple(self.findings()))
        line = f"{failed.reason}; the failsafe registry {self._failsafe} has the image"
        return Outcome(Status.FAILSAFE, line, report, tuple(self.findings()))

    def _line(self) -> str:
        copy, tally = self.copy, self.copy.tally
        digest = copy.digests[self._digest_name].hex()
        fetched = f" {tally.fetched} fetched," if tally.fetched else ""
        return (
            f"the image is here: {copy.bytes_kept} bytes in {self.seconds:.1f} s,"
            f" {tally.repaired} packets repaired,{fetched} {self._digest_name} {digest}"
        )

    @property
    def _digest_name(self) -> str:
        return self.copy.terms.greeting.digest if self.copy.terms else "sha256"

    @property
    def _failsafe(self) -> str | None:
        """The registry that has the image when all else fails."""
        terms = self.copy.terms
        return self.config.failsafe or (terms.greeting.failsafe if terms else None)
