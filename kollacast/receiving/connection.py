"""What a stream needs of the connection to its server."""

from __future__ import annotations

from typing import Protocol


class Connection(Protocol):
    """The way to the server, and what is expected on it."""

    @property
    def local_ip(self) -> str:
        """This host's address on the way to the server."""

    @property
    def server_ip(self) -> str:
        """The server's address."""

    def send(self, message: bytes) -> None:
        """Send a message."""

    def expect_packets(self, count: int) -> None:
        """So many retransmissions are due."""

    def abort(self) -> None:
        """Close at once."""
