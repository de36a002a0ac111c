"""A network, and the programs that a test runs on it."""

from __future__ import annotations

from typing import Any

from kollacast.files.digest import Digester
from kollacast.wire.dialect import KOLLACAST, Dialect
from tests.simulation.fabric import Fabric, Host
from tests.simulation.image import MemorySource
from tests.simulation.links import Weather
from tests.simulation.raw_ends import RawClient, RawServer
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import PORT, SERVER_IP


class Network(Fabric):
    """Without a ``seed`` it is orderly, and its weather is fair unless said otherwise."""

    def __init__(self, seed: int | None = None, weather: Weather | None = None) -> None:
        super().__init__(seed, weather)
        self._clients = 0
        # What was served last.
        self._image = b""

    def new_host(self, hosts: str) -> Host:
        """A host that nobody has been on, in the network of which the address begins so."""
        return self.host(f"{hosts}.{self._next_client()}")

    def serve(self, source: MemorySource | bytes, **options: Any) -> ServerRun:
        """Run a server; ``options`` are of its configuration, or ``threads=True``."""
        if isinstance(source, bytes):
            source = MemorySource(source)
        self._image = source.image
        return ServerRun(self, source, **options)

    def join(self, **options: Any) -> ClientRun:
        """Run a client on a host of its own; ``options`` likewise, and ``sink``."""
        return ClientRun(self, self._next_client(), **options)

    def join_again(self, run: ClientRun, **options: Any) -> ClientRun:
        """Run a client on the host of ``run``, which is over, with what that one has kept."""
        return ClientRun(self, run.number, sink=run.sink.reopen(), **options)

    @property
    def tree(self) -> str:
        """What a client that has the image which was served last says of it."""
        digester = Digester("tree")
        digester.update([memoryview(self._image)])
        return digester.values()["tree"].hex()

    def raw_client(self, dialect: Dialect = KOLLACAST) -> RawClient:
        """A connection to the server, to be driven by hand."""
        client = RawClient(self.new_host("10.0.9"), dialect, lambda: self.tree)
        self.settle()
        return client

    def raw_server(self, dialect: Dialect = KOLLACAST) -> RawServer:
        """What listens where the clients look for their server, to be driven by hand."""
        server = RawServer(self, dialect)
        self.host(SERVER_IP).listenTCP(PORT, server)
        return server

    @property
    def next_client(self) -> int:
        """The number of the next client's host."""
        return self._clients + 1

    def _next_client(self) -> int:
        self._clients += 1
        return self._clients
