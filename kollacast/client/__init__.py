"""Floor 4: the receiver's side of a session."""

from kollacast.client.client import Client

__all__ = ["Client"]
