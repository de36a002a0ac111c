"""Puts the client together from its command line, for twistd."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kollacast.command import streams
from kollacast.command.client_options import ClientOptions
from kollacast.command.hangup import end_on_hangup
from kollacast.command.monotonic import run_on_monotonic_clock
from kollacast.command.service import KollacastService, Running, service_of
from kollacast.events.reactor import IMainReactor
from kollacast.files.file_sink import FileSink
from kollacast.files.sink import Sink
from kollacast.files.stream_sink import StreamSink
from kollacast.transport.worker import ThreadWorker

Options = ClientOptions

#: Seconds for the removal of what a failed run has unpacked; the next one removes the rest.
_CLEAR_S = 60.0

_log = Logger()


def makeService(options: ClientOptions) -> KollacastService:
    """Make the service of ``kollacast-client``; nothing is written before it starts."""
    # By now twistd has installed the reactor that its command line asks for.
    from twisted.internet import reactor as installed

    reactor = run_on_monotonic_clock(installed)
    end_on_hangup(reactor)
    # The engine is loaded here, so that --help and a wrong command line answer at once.
    from kollacast.client import Client

    config = options.config
    output, root = config.output_path, config.registry_root
    image_fd = -1
    if output is None and root is None:
        image_fd = streams.take_standard_output()
    elif not config.is_daemon:
        streams.close_standard_output()

    def prepare() -> Running:
        sink: Sink
        if root is not None:
            sink = _registry_sink(reactor, root, config.reserve)
        else:
            sink = StreamSink(image_fd) if output is None else FileSink(output, config.reserve)
        return Running(Client(reactor, config, sink), sink.abandon)

    return service_of(reactor, config, prepare)


def _registry_sink(reactor: IMainReactor, root: str, reserve: float) -> Sink:
    """A sink that unpacks; what it leaves of an image that is not whole goes before the process."""
    from kollacast.images.registry_sink import RegistrySink

    sink = RegistrySink(root, reserve=reserve)

    def clear() -> Deferred[None]:
        cleared = ThreadWorker(reactor, "clear").run(sink.clear)
        cleared.addTimeout(_CLEAR_S, reactor)
        return cleared.addErrback(
            lambda failure: _log.warn(
                "{root}: left unclean: {why}",
                event="storage-unclean",
                root=root,
                why=failure.value,
            )
        )

    # It is no part of the run, which ends on any disk, and which the service has ended by then.
    reactor.addSystemEventTrigger("before", "shutdown", clear)
    return sink
