"""Puts the server together from its command line, for twistd."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING

from kollacast.command import streams
from kollacast.command.hangup import end_on_hangup
from kollacast.command.local_host import raise_descriptor_limit
from kollacast.command.monotonic import run_on_monotonic_clock
from kollacast.command.server_options import ServerOptions
from kollacast.command.service import KollacastService, Running, service_of
from kollacast.files.file_source import open_source
from kollacast.files.spool import Spool

if TYPE_CHECKING:
    from kollacast.events.reactor import IMainReactor
    from kollacast.operator.config import ServerConfig
    from kollacast.server import Server
    from kollacast.status.site import StatusSite

Options = ServerOptions

#: Descriptors for all but connections: files, pipes, ports, and what Python opens.
_OTHER_DESCRIPTORS = 64
#: Of the status page, and all who look at it.
_STATUS_DESCRIPTORS = 40


def makeService(options: ServerOptions) -> KollacastService:
    """Make the service of ``kollacast-server``; nothing is opened before it starts."""
    # By now twistd has installed the reactor that its command line asks for.
    from twisted.internet import reactor as installed

    reactor = run_on_monotonic_clock(installed)
    end_on_hangup(reactor)
    # The engine is loaded here, so that --help and a wrong command line answer at once.
    from kollacast import repair
    from kollacast.server import Server

    config = options.config
    repair.prepare(config.clients)
    if not config.is_daemon:
        streams.close_standard_output()

    def prepare() -> Running:
        others = _OTHER_DESCRIPTORS + (_STATUS_DESCRIPTORS if config.status_at else 0)
        max_connections = _max_connections(config.clients, others)
        source = open_source(config.input_path)
        spool = None
        if config.spool_path is not None and source.identity is None:
            spool = Spool(config.spool_path, config.spool_bytes)
        server = Server(reactor, config, source, spool=spool, max_connections=max_connections)
        return Running(server, source.close, server.start_now, _page(reactor, config, server))

    service = service_of(reactor, config, prepare)
    # SIGUSR1 is twistd's. A daemon inherits this.
    signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(service.start_now))
    return service


def _page(reactor: IMainReactor, config: ServerConfig, server: Server) -> StatusSite | None:
    """The status page where one is wanted; only then is it loaded."""
    if config.status_at is None:
        return None
    from kollacast.status.site import StatusSite

    address, port = config.status_at
    return StatusSite(
        reactor,
        address,
        port,
        server.snapshot,
        linger_s=config.status_linger_s,
        per_host=config.metrics_per_host,
    )


def _max_connections(clients: int, others: int) -> int:
    """How many connections may be open, beside so many descriptors for all else.

    Raises OSError where that is not one for each client.
    """
    limit = raise_descriptor_limit()
    if limit < clients + others:
        raise OSError(
            errno.EMFILE,
            f"{clients} clients take {clients + others} descriptors, and this process"
            f" may have {limit}: raise the limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile)",
        )
    return limit - others
