"""The status page's server: what is found where, looks at a fixed pace, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from kollacast.events.reactor import IReactor
from kollacast.operator.outcome import Outcome
from kollacast.server.snapshot import Snapshot
from kollacast.status.board import Board
from kollacast.status.http import BoundedRequest, BoundedSite
from kollacast.status.metrics import Metrics
from kollacast.status.page import page
from kollacast.status.viewers import Viewers

#: Seconds between two looks at the run.
_LOOK_S = 1.0
#: How long those who watch have to read how it went.
_FAREWELL_S = 0.5
_BACKLOG = 64

_log = Logger()


class StatusSite:
    """Serves what ``look`` shows at ``address`` and ``port``, for ``linger_s`` after the end, too.

    With ``per_host``, metrics have each host.
    """

    def __init__(
        self,
        reactor: IReactor,
        address: str,
        port: int,
        look: Callable[[], Snapshot],
        *,
        linger_s: float,
        per_host: bool,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._port_number = port
        self._linger_s = linger_s
        self._board = Board(look)
        self._viewers = Viewers(reactor, self._board)
        self._metrics = Metrics(lambda: self._board.moment, per_host=per_host)
        self._site = BoundedSite(reactor, self._root())
        self._port: IListeningPort | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def start(self) -> None:
        """Listen, and look from now on. Raises OSError where nobody can listen there."""
        try:
            self._port = self._reactor.listenTCP(
                self._port_number,
                self._site,  # type: ignore[arg-type]
                backlog=_BACKLOG,
                interface=self._address,
            )
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
            where = f"{self._address} port {self._port_number}"
            raise OSError(f"cannot serve the status page at {where}: {reason}") from None
        self._looking.start(_LOOK_S)

    def end(self, outcome: Outcome, *, at_once: bool) -> Deferred[None]:
        """Show how it went; fires once that was shown for long enough, and all is closed.

        ``at_once``, nobody is waited for but those who watch already, and not for long.
        """
        if self._looking.running:
            self._looking.stop()
        if self._port is None:
            return succeed(None)
        self._guarded(outcome)
        return Deferred.fromCoroutine(self._close(0.0 if at_once else self._linger_s))

    async def _close(self, linger_s: float) -> None:
        assert self._port is not None
        if linger_s > 0:
            await deferLater(self._reactor, linger_s)
        await maybeDeferred(self._port.stopListening)
        await self._site.idle(_FAREWELL_S)

    # Looks.

    def _look(self) -> None:
        self._guarded(None)

    def _guarded(self, outcome: Outcome | None) -> None:
        """What fails here must not take the run with it."""
        try:
            self._board.look(outcome)
            self._viewers.tell()
        except Exception:
            _log.failure("cannot show the status", event="status-failed")

    # What is found where.

    def _root(self) -> Resource:
        root = _Root()
        text, policy = page()
        root.putChild(b"", _Page(text, policy))
        root.putChild(b"events", _Events(self._viewers))
        root.putChild(b"status.json", _Answer("application/json", self._board.document))
        root.putChild(b"metrics", _Metrics(self._metrics))
        return root


class _Root(Resource):
    def getChild(self, path: bytes, request: Any) -> Resource:
        return _Nothing()

    def render(self, request: Any) -> bytes:
        return _say(request, 404)


class _Nothing(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        return _say(request, 404)


class _Leaf(Resource):
    isLeaf = True

    def render(self, request: Any) -> Any:
        if request.postpath:
            return _say(request, 404)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _say(request, 405)
        if _is_rebound(request):
            return _say(request, 403)
        return super().render(request)


def _is_rebound(request: Any) -> bool:
    """Whether a stranger's page has given this host's own address its name, to read what is here.

    Where others may ask as well, operators choose the names.
    """
    at = str(getattr(request.getHost(), "host", ""))
    name = request.getRequestHostname().decode("ascii", "replace").strip("[]")
    return _is_loopback(at) and not (name == "localhost" or _is_loopback(name))


def _is_loopback(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


def _say(request: Any, code: int) -> bytes:
    """Answer with what a status code means."""
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"text/plain; charset=utf-8")
    return RESPONSES[code] + b"\n"


class _Page(_Leaf):
    """The page itself, under its own policy."""

    def __init__(self, text: bytes, policy: bytes) -> None:
        super().__init__()
        self._text = text
        self._policy = policy

    def render_GET(self, request: BoundedRequest) -> bytes:
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-security-policy", self._policy)
        return self._text


class _Answer(_Leaf):
    """What is made when it is asked for."""

    def __init__(self, kind: str, make: Callable[[], bytes]) -> None:
        super().__init__()
        self._kind = kind.encode()
        self._make = make

    def render_GET(self, request: BoundedRequest) -> bytes:
        request.setHeader(b"content-type", self._kind)
        return self._make()


class _Metrics(_Leaf):
    """In the format that the reader prefers."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: BoundedRequest) -> bytes:
        accept = (request.getHeader(b"accept") or b"").decode("latin-1")
        text, kind = self._metrics.encoded(accept)
        request.setHeader(b"content-type", kind.encode())
        return text


class _Events(_Leaf):
    """Server-sent events: all of the run, then what changes."""

    def __init__(self, viewers: Viewers) -> None:
        super().__init__()
        self._viewers = viewers

    def render_HEAD(self, request: BoundedRequest) -> bytes:
        request.setHeader(b"content-type", b"text/event-stream")
        return b""

    def render_GET(self, request: BoundedRequest) -> Any:
        request.setHeader(b"content-type", b"text/event-stream")
        if not self._viewers.has_room:
            request.setHeader(b"retry-after", b"10")
            return _say(request, 503)
        request.notifyFinish().addBoth(self._gone, request)
        request.stream()
        self._viewers.add(request)
        return NOT_DONE_YET

    def _gone(self, _: Failure | None, request: BoundedRequest) -> None:
        self._viewers.remove(request)
