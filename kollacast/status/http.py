"""HTTP with every bound that hostile or slow viewers need: one request a connection, GET and HEAD.

Twisted's own server does the reading; here is how much of it, for how long, and what is not read.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from kollacast.events.observer import Observer

#: Connections that are open at a time.
MOST_CONNECTIONS = 32
#: Seconds from the connection to the last byte of the response; event streams are no responses.
_PATIENCE_S = 10.0
#: Bytes of a request's line and headers, and headers.
_MOST_HEADER_BYTES = 8192
_MOST_HEADERS = 64
#: Bytes of a body, which nobody reads.
_MOST_BODY = 65536

_HEADERS = {
    b"server": b"kollacast",
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


class BoundedRequest(Request):
    """A request whose body is dropped as it comes."""

    channel: BoundedChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._body = 0

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        self._body += len(data)
        if self._body > _MOST_BODY:
            self.channel.abort()

    def render(self, resrc: IResource) -> None:
        for name, value in _HEADERS.items():
            self.setHeader(name, value)
        super().render(resrc)

    def stream(self) -> None:
        """The response goes on for as long as it is read."""
        self.channel.wait_no_more()

    def abort(self) -> None:
        """Give the one up who asked."""
        self.channel.abort()


class BoundedChannel(HTTPChannel):
    """One connection, for one request."""

    totalHeadersSize = _MOST_HEADER_BYTES
    maxHeaders = _MOST_HEADERS
    # A line that is longer is refused before it is a header.
    MAX_LENGTH = _MOST_HEADER_BYTES
    site: BoundedSite

    def __init__(self) -> None:
        super().__init__()
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.site.connections.add(self)
        self._deadline = self.site.clock.callLater(_PATIENCE_S, self.abort)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.wait_no_more()
        super().connectionLost(reason)
        self.site.forget(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Never: whoever wants more comes again."""
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False

    def wait_no_more(self) -> None:
        """It may take as long as it takes."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def abort(self) -> None:
        """Close at once, whatever has not been read."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


class BoundedSite(Site):
    """What is served under ``root``, to so many at a time."""

    noisy = False
    protocol = BoundedChannel  # type: ignore[assignment]
    requestFactory = BoundedRequest

    def __init__(self, clock: IReactorTime, root: IResource) -> None:
        super().__init__(root, requestFactory=BoundedRequest, timeout=None, reactor=clock)
        self.clock = clock
        self.connections: set[BoundedChannel] = set()
        self._idle: Observer[None] = Observer()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.connections) >= MOST_CONNECTIONS:
            return None
        return super().buildProtocol(addr)

    def forget(self, connection: BoundedChannel) -> None:
        """It is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._idle.fire(None)

    def idle(self, patience_s: float) -> Deferred[None]:
        """Fires when all connections are closed; those that are not by then are aborted."""
        if not self.connections:
            return succeed(None)
        late = self.clock.callLater(patience_s, self._abort)
        return self._idle.wait().addCallback(lambda _: late.cancel() if late.active() else None)

    def _abort(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    def startFactory(self) -> None:
        """No access log, and no clock for its lines."""

    def stopFactory(self) -> None:
        """Likewise."""

    def log(self, request: HTTPRequest) -> None:
        """Who looks is nobody's business."""
