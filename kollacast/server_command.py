"""Puts the server together from its command line, for twistd."""

from __future__ import annotations

import errno
import signal
from typing import Any

from kollacast import streams
from kollacast.exit_status import end_process_with
from kollacast.local_host import raise_descriptor_limit
from kollacast.logs import announce
from kollacast.monotonic import run_on_monotonic_clock
from kollacast.options import DEFAULT_SPOOL_BYTES, ServerOptions
from kollacast.progress import choose_display
from kollacast.service import KollacastService, Run
from kollacast.source import open_source
from kollacast.spool import Spool

Options = ServerOptions

#: Descriptors for all but connections: files, pipes, ports, and what Python opens.
_OTHER_DESCRIPTORS = 64


def makeService(options: ServerOptions) -> KollacastService:
    """Make the service of ``kollacast-server``; nothing is opened before it starts."""
    # By now twistd has installed the reactor that its command line asks for.
    from twisted.internet import reactor

    run_on_monotonic_clock(reactor)
    # The engine is loaded here, so that --help and a wrong command line answer at once.
    from kollacast.server import Server

    if not options.is_daemon:
        streams.close_standard_output()

    def make_run() -> Run:
        max_connections = _max_connections(options.config.clients)
        source = open_source(options["input"])
        spool = None
        if options["spool"] is not None and source.identity is None:
            spool = Spool(options["spool"], options["spool-size"] or DEFAULT_SPOOL_BYTES)
        server = Server(
            reactor, options.config, source, spool=spool, max_connections=max_connections
        )
        return Run(server, source.close, server.start_now)

    service = KollacastService(
        reactor,
        make_run,
        choose_display(options["progress"], streams.console, reactor, announce),
        announce,
        end_process_with,
        options["report"],
    )
    _start_on_signal(reactor, service)
    return service


def _max_connections(clients: int) -> int:
    """How many connections may be open. Raises OSError where that is not one for each client."""
    limit = raise_descriptor_limit()
    if limit < clients + _OTHER_DESCRIPTORS:
        raise OSError(
            errno.EMFILE,
            f"{clients} clients take {clients + _OTHER_DESCRIPTORS} descriptors, and this process"
            f" may have {limit}: raise the limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile)",
        )
    return limit - _OTHER_DESCRIPTORS


def _start_on_signal(reactor: Any, service: KollacastService) -> None:
    """SIGUSR2 starts the session; SIGUSR1 is twistd's. A daemon inherits this."""
    signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(service.start_now))
