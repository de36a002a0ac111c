"""What is told of a client's run, at one moment: its progress, its report, its last line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kollacast.client.arrivals import Tally
from kollacast.client.endings import Failed
from kollacast.client.local_copy import LocalCopy
from kollacast.operator.config import ClientConfig
from kollacast.operator.outcome import Outcome, Progress, Status


@dataclass(frozen=True)
class Account:
    """A run as it stands."""

    phase: str  #: in an operator's words
    name: str  #: of this host
    server: str  #: its address or name
    seconds: float  #: since the run began
    is_whole: bool  #: whether the image is here, verified and under its name
    image: str | None  #: the image's name, where the server has said it
    size: int | None  #: of the image in bytes, likewise
    dialect: str | None  #: None before anything is agreed on
    digest_name: str
    digest: str | None  #: of the image, in hexadecimal digits
    failsafe: str | None  #: registry that has the image when all else fails, host:port
    packets: Tally
    bytes_kept: int = 0
    bytes_resumed: int = 0  #: of them, those of an earlier run

    def progress(self) -> Progress:
        """How far the run is."""
        return Progress(
            phase=self.phase,
            bytes_done=self.bytes_kept,
            bytes_total=self.size,
            clients=0,
            clients_expected=0,
            packets_repaired=self.packets.repaired,
        )

    def report(self, reason: str | None) -> dict[str, Any]:
        """What the server and the report's file are told; ``reason`` says what has failed."""
        return {
            "ok": self.is_whole,
            "reason": reason,
            "name": self.name,
            "server": self.server,
            "image": self.image,
            "dialect": self.dialect,
            "bytes": self.bytes_kept,
            "bytes_resumed": self.bytes_resumed,
            self.digest_name: self.digest,
            **{f"packets_{how}": count for how, count in asdict(self.packets).items()},
            "failsafe": self.failsafe,
            "seconds": round(self.seconds, 3),
        }

    def outcome(self, failed: Failed | None) -> Outcome:
        """How the run has ended; a commit that was quicker than a failure counts."""
        if self.is_whole:
            return Outcome(Status.OK, self._line(), self.report(None))
        failed = failed or Failed("the image is not complete")
        report = self.report(failed.reason)
        if self.failsafe is None or failed.is_own_fault:
            return Outcome(Status.FAILED, failed.reason, report)
        line = f"{failed.reason}; the failsafe registry {self.failsafe} has the image"
        return Outcome(Status.FAILSAFE, line, report)

    def _line(self) -> str:
        fetched = f" {self.packets.fetched} fetched," if self.packets.fetched else ""
        return (
            f"the image is here: {self.bytes_kept} bytes in {self.seconds:.1f} s,"
            f" {self.packets.repaired} packets repaired,{fetched} {self.digest_name} {self.digest}"
        )


def account_of(copy: LocalCopy, config: ClientConfig, phase: str, seconds: float) -> Account:
    """The account of a run whose image comes to ``copy``."""
    terms, output = copy.terms, copy.output
    return Account(
        phase=phase,
        name=config.name,
        server=config.server_ip,
        seconds=seconds,
        is_whole=copy.is_whole,
        image=terms.name if terms else None,
        size=terms.size if terms else None,
        dialect=terms.shape.dialect.name if terms else None,
        digest_name=terms.digest if terms else "sha256",
        digest=copy.digest.hex() if copy.digest is not None else None,
        failsafe=config.failsafe or (terms.failsafe if terms else None),
        bytes_kept=output.bytes_kept if output else 0,
        bytes_resumed=output.bytes_resumed if output else 0,
        packets=copy.arrivals.tally,
    )
