"""Floor 4: the sender's side of a session."""

from kollacast.server.server import Server

__all__ = ["Server"]
