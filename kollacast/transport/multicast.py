"""What sender and receiver share: the multicast port of Twisted with a socket set up.

Twisted joins groups for any sender, by the interface's address; here a group is joined for one
sender (RFC 3678), so that the kernel drops what others send to it, and by the interface's number.
Constants that Python's socket module lacks are those of Linux's UAPI headers
(``linux/udp.h``, ``linux/in.h``, ``asm-generic/socket.h``).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys

from twisted.internet import udp
from twisted.logger import Logger

from kollacast.transport import interfaces

_log = Logger()

LINUX = sys.platform.startswith("linux")

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
IP_MULTICAST_ALL = 49
SO_MEMINFO = 55
#: Of the numbers that SO_MEMINFO gives, which is that (``linux/sock_diag.h``).
_MEMINFO_DROPS = 8

#: What a join is refused with where the interface is not there, whoever the sender.
_NO_INTERFACE = (errno.ENODEV, errno.EADDRNOTAVAIL)


class MulticastPort(udp.MulticastPort):
    """A port on one interface, whose socket buffers can be sized."""

    def createInternetSocket(self) -> socket.socket:
        """A socket whose address other clients of this host may have too.

        Without SO_REUSEPORT: it is not needed, and sockets that share it are one group to the
        kernel (6.6 and later), which gives a datagram to any of them, also to one that has joined
        on another interface.
        """
        sock: socket.socket = super().createInternetSocket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return sock

    def send_from(self, local_ip: str, ttl: int) -> None:
        """Multicast leaves by the interface of ``local_ip`` and loops back to this host.

        Raises OSError where there is none.
        """
        sock = self.socket
        self._local_ip = local_ip
        self._choose()
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)

    def renew(self) -> None:
        """Choose the interface anew: the address may be at another one by now, or back."""
        try:
            self._choose()
        except OSError:
            pass  # then it stays at what it was, and the next attempt to send says so

    def _choose(self) -> None:
        self.socket.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interfaces.request("0.0.0.0", self._local_ip)
        )

    def join(self, group: str, local_ip: str, source: str | None) -> None:
        """Receive ``group`` on the interface of ``local_ip``, and on no other.

        Of what is sent to it only what ``source`` sends; of anybody for None, and where the kernel
        knows no sources. Raises OSError where the interface cannot.
        """
        # First of all: what other sockets of this host have joined is none of this one's.
        self.socket.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        refused = None
        if source is not None:
            option, request = interfaces.source_request(group, local_ip, source)
            try:
                self.socket.setsockopt(socket.IPPROTO_IP, option, request)
                return
            except OSError as error:
                if error.errno in _NO_INTERFACE:
                    raise
                refused = error
        self.socket.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, interfaces.request(group, local_ip)
        )
        if refused is not None:
            _log.warn(
                "the kernel cannot keep to multicast from {source} ({why}): taking everybody's",
                event="any-source",
                source=source,
                why=refused.strerror,
            )

    def leave(self, group: str, local_ip: str) -> None:
        """Receive ``group`` there no more.  Raises OSError where it was not joined."""
        self.socket.setsockopt(
            socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, interfaces.request(group, local_ip)
        )

    def dropped(self) -> int:
        """How many datagrams the kernel had no room for, or found damaged, since it was opened.

        0 where it does not say (Linux does since 4.12, ``SK_MEMINFO_DROPS``).
        """
        size = (_MEMINFO_DROPS + 1) * 4
        try:
            counts = self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, size)
            (dropped,) = struct.unpack_from("=I", counts, size - 4)
        except (OSError, struct.error):
            return 0
        return int(dropped)

    def set_buffer(self, option: int, size: int) -> int:
        """Size SO_SNDBUF or SO_RCVBUF, by force where that is permitted.

        ``size`` counts payload bytes; the kernel doubles it to make room for
        its own bookkeeping.  Returns the bytes granted, in the same sense.
        """
        force = SO_RCVBUFFORCE if option == socket.SO_RCVBUF else SO_SNDBUFFORCE
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            self.socket.setsockopt(socket.SOL_SOCKET, option, size)
        return self.socket.getsockopt(socket.SOL_SOCKET, option) // 2
