"""What goes wrong with some hosts of a crowd, in the middle of the image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Disturbance:
    """The first hosts lose more than the others, the next ones stall, those behind them go."""

    lossy: int = 0
    lossy_share: float = 0.0  #: of packets that these lose, from the start on
    stalled: int = 0
    stall_s: float = 0.0  #: for which these read and answer nothing
    killed: int = 0  #: whose connection is closed without a word

    @property
    def hosts(self) -> int:
        """How many are disturbed, in one way or another."""
        return self.lossy + self.stalled + self.killed

    @property
    def has_middle(self) -> bool:
        """Whether something befalls hosts in the middle."""
        return bool(self.stalled or self.killed)

    def is_lossy(self, host: int) -> bool:
        """Whether the host of this number loses more."""
        return host < self.lossy

    @property
    def to_stall(self) -> range:
        """The numbers of those that stall."""
        return range(self.lossy, self.lossy + self.stalled)

    @property
    def to_kill(self) -> range:
        """The numbers of those that go."""
        return range(self.lossy + self.stalled, self.hosts)
