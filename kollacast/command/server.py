"""Puts the server together from its command line, for twistd."""

from __future__ import annotations

import signal
from typing import Any

from kollacast.command import streams
from kollacast.command.exit_status import end_process_with
from kollacast.command.local_host import raise_descriptor_limit
from kollacast.command.logs import announce
from kollacast.command.monotonic import run_on_monotonic_clock
from kollacast.command.options import DEFAULT_SPOOL_BYTES, ServerOptions
from kollacast.command.progress import choose_display
from kollacast.command.service import KollacastService, Run
from kollacast.files.source import open_source
from kollacast.files.spool import Spool

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
        source = open_source(options["input"])
        spool = None
        if options["spool"] is not None and source.identity is None:
            spool = Spool(options["spool"], options["spool-size"] or DEFAULT_SPOOL_BYTES)
        connections = raise_descriptor_limit() - _OTHER_DESCRIPTORS
        server = Server(
            reactor, options.config, source, spool=spool, max_connections=max(connections, 1)
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


def _start_on_signal(reactor: Any, service: KollacastService) -> None:
    """SIGUSR2 starts the session; SIGUSR1 is twistd's. A daemon inherits this."""
    signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(service.start_now))
