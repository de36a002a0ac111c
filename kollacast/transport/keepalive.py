"""How a TCP connection notices that the host at its other end is gone without a word.

A session may rightly be silent for hours: its other clients have not come
yet, or the image comes from a slow pipe.  So silence says nothing, and the
kernel's probes do; its own defaults would take two hours.
"""

from __future__ import annotations

import socket

from twisted.internet.interfaces import ITCPTransport

#: Option of TCP and its value: probe after 10 s of silence, every 5 s, and
#: give up after 4 that went unanswered.  See tcp(7).
_OPTIONS = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
#: Milliseconds in which a message must be acknowledged.
_UNACKNOWLEDGED_MS = 30_000


def watch_peer(transport: ITCPTransport, *, always_reads: bool) -> None:
    """Send small messages at once, and lose the connection when its peer's host is gone.

    ``always_reads`` says that the peer never leaves what it is sent in its
    socket: what is not acknowledged then means the same as silence.
    """
    transport.setTcpNoDelay(True)
    transport.setTcpKeepAlive(True)
    handle: socket.socket = transport.getHandle()  # type: ignore[attr-defined]
    for option, value in _OPTIONS:
        handle.setsockopt(socket.IPPROTO_TCP, option, value)
    if always_reads:
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
