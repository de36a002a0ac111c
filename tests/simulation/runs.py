"""Runs of the program's own server and client, whole but for the network below them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kollacast.client import Client
from kollacast.client.account import Account
from kollacast.files.spool import Spool
from kollacast.operator.config import ClientConfig, ServerConfig
from kollacast.operator.outcome import Outcome
from kollacast.server import Server
from kollacast.server.snapshot import Snapshot
from tests.simulation.fabric import Fabric, Host, open_receiver, open_sender
from tests.simulation.image import MemorySink, MemorySource
from tests.simulation.inline_worker import InlineWorker
from tests.simulation.multicast import MemorySendPort, SendSocket
from tests.simulation.settings import BUFFER_PACKETS, GROUP, MTU, PORT, SERVER_IP
from tests.simulation.tcp import MemoryTransport
from tests.simulation.thread import MemoryThread


class _Run:
    """One run of either end."""

    def __init__(self, network: Fabric, host: Host) -> None:
        self.network = network
        self.host = host
        self.threads: dict[str, MemoryThread] = {}
        self._outcomes: list[Outcome] = []

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None as long as it has not."""
        assert len(self._outcomes) <= 1, "a run ends once"
        return self._outcomes[0] if self._outcomes else None

    def finish(self, limit_s: float = 600.0) -> Outcome:
        """Let time pass until the run is over."""
        self.network.run_until(lambda: self._outcomes, limit_s)
        self.network.settle()
        return self._outcomes[0]

    def _workers(self, threads: bool) -> Callable[[Any, str], Any]:
        def make(reactor: Any, name: str) -> Any:
            if not threads:
                return InlineWorker()
            self.threads[name] = MemoryThread(self.host)
            return self.threads[name]

        return make


class ServerRun(_Run):
    """A server and its image."""

    def __init__(
        self,
        network: Fabric,
        source: MemorySource,
        *,
        clients: int = 1,
        threads: bool = False,
        spool: Spool | None = None,
        max_connections: int = sys.maxsize,
        **options: Any,
    ) -> None:
        super().__init__(network, network.host(SERVER_IP))
        self.source = source
        config = ServerConfig(
            local_ip=SERVER_IP,
            clients=clients,
            port=PORT,
            group=GROUP,
            ttl=1,
            mtu=MTU,
            buffer_packets=BUFFER_PACKETS,
        )
        self.config = replace(config, **options)
        self.port: MemorySendPort | None = None
        self.server = Server(
            self.host,
            self.config,
            source,
            spool=spool,
            max_connections=max_connections,
            make_worker=self._workers(threads),
            open_port=self._open_port,
        )
        self.ended = self.server.run()
        self.ended.addCallback(self._outcomes.append)

    def _open_port(self, *args: Any) -> MemorySendPort:
        self.port = open_sender(*args)
        return self.port

    @property
    def socket(self) -> SendSocket:
        assert self.port is not None
        return self.port.socket

    @property
    def snapshot(self) -> Snapshot:
        return self.server.snapshot()

    @property
    def phase(self) -> str:
        return self.server.progress().phase


class ClientRun(_Run):
    """A client and what it has received."""

    def __init__(
        self,
        network: Fabric,
        number: int,
        *,
        sink: MemorySink | None = None,
        threads: bool = False,
        reads: str = "coalesced",
        hosts: str = "10.0.1",
        **options: Any,
    ) -> None:
        super().__init__(network, network.host(f"{hosts}.{number}"))
        self.number = number
        self.host.reads = reads
        self.sink = sink or MemorySink()
        config = ClientConfig(
            local_ip=self.host.address,
            server_ip=SERVER_IP,
            port=PORT,
            connect_timeout_s=30.0,
            name=f"host{number}",
        )
        self.config = replace(config, **options)
        self.client = Client(
            self.host,
            self.config,
            self.sink,
            make_worker=self._workers(threads),
            open_port=open_receiver,
        )
        self.client.run().addCallback(self._outcomes.append)

    @property
    def transport(self) -> MemoryTransport:
        """The latest connection of this client."""
        return next(t for t in reversed(self.network.transports) if t.host is self.host)

    @property
    def account(self) -> Account:
        return self.client.account()

    @property
    def phase(self) -> str:
        return self.account.phase
