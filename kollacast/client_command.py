"""Puts the client together from its command line, for twistd."""

from __future__ import annotations

from kollacast import streams
from kollacast.exit_status import end_process_with
from kollacast.logs import announce
from kollacast.options import ClientOptions
from kollacast.progress import choose_display
from kollacast.service import KollacastService, Run
from kollacast.sink import FileSink, Sink, StreamSink

Options = ClientOptions


def makeService(options: ClientOptions) -> KollacastService:
    """Make the service of ``kollacast-client``; nothing is written before it starts."""
    # By now twistd has installed the reactor that its command line asks for.
    from twisted.internet import reactor

    # The engine is loaded here, so that --help and a wrong command line answer at once.
    from kollacast.client import Client

    output: str | None = options["output"]
    image_fd = -1
    if output is None:
        image_fd = streams.take_standard_output()
    elif not options.is_daemon:
        streams.close_standard_output()

    def make_run() -> Run:
        sink: Sink = StreamSink(image_fd) if output is None else FileSink(output)
        return Run(Client(reactor, options.config, sink), sink.abandon)

    return KollacastService(
        reactor,
        make_run,
        choose_display(options["progress"], streams.console, reactor, announce),
        announce,
        end_process_with,
        options["report"],
    )
