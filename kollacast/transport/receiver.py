"""The multicast receiver: batches of datagrams, straight into the intake's slots.

Three ways to read, fastest first, chosen by what the link delivers:

* coalesced: one ``recvmsg`` brings the packets that the kernel has put
  together (UDP_GRO, Linux 5.0), scattered over headers and payloads, and
  several such in a row are verified together;
* frames: one ``recvmmsg`` brings up to 64 single datagrams, each to its slot;
* plain: one datagram a call, where the kernel offers neither.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.packets.intake import BATCH, RUN, Intake, Landing
from kollacast.transport import frames, segments
from kollacast.transport.diagnosis import why_unreached
from kollacast.transport.multicast import LINUX, SOL_UDP, UDP_GRO, MulticastPort

_log = Logger()

_MAX_DATAGRAM = 65536
_ANCILLARY_SIZE = socket.CMSG_SPACE(4)
#: Batches read before the reactor gets its turn again.
_BATCHES_A_TURN = 16
#: Seconds for which datagrams may gather once the socket is empty.  Woken for
#: each one, a client at 1 Gbit/s spends more on waking than on receiving.
_GATHER_S = 0.050
#: The same where the kernel holds less than a window: 4 MB at 10 Gbit/s.
_GATHER_LESS_S = 0.003
#: The same where buffers follow on each other fast.
_GATHER_LEAST_S = 0.001
#: So many single datagrams more than coalesced ones, each of which outweighs some, say that the
#: link does not coalesce, or that a stranger sends so many that it does not matter; and then so
#: many in a row that none is left from before.
_SINGLES = 128
_OUTWEIGHED = 8


class MulticastReceiver(DatagramProtocol):
    """Hands what arrives at its port to an :class:`Intake`.

    ``arrived()`` is called after each turn that brought something.  What goes
    wrong is told to ``guard``.
    """

    transport: _ReceivePort

    def __init__(
        self, clock: IReactorTime, intake: Intake, arrived: Callable[[], None], guard: Guard
    ) -> None:
        self._clock = clock
        self._guard = guard
        self._intake = intake
        self.arrived = arrived
        #: Seconds for which datagrams may gather in the socket's buffer.
        self.gather_s = self._gather_most_s = _GATHER_S
        self._read: Callable[[], bool] = self._read_plain
        self._segments: segments.SegmentReceiver
        # Whether the kernel is asked to coalesce.
        self._coalesces = True
        self._singles = 0
        self._gathering: IDelayedCall | None = None

    def startProtocol(self) -> None:
        self._socket: socket.socket = self.transport.socket
        if LINUX:
            try:
                self._socket.setsockopt(SOL_UDP, UDP_GRO, 1)
                self._read = self._read_coalesced
                if segments.available(self._socket):
                    self._segments = segments.SegmentReceiver(self._socket)
                    self._read = self._read_segments
            except OSError:
                if frames.available():
                    self._read = self._read_frames

    def readable(self) -> None:
        """Something waits, and it is the receiver's turn."""
        self._guard.wrap(self._take_turn)()

    def _take_turn(self) -> None:
        if self._read_batches(_BATCHES_A_TURN) < _BATCHES_A_TURN and self._gathering is None:
            # The socket is empty now: let some more come before the next look.
            self.transport.stopReading()
            self._gather()

    def _gather(self) -> None:
        self._gathering = self._guard.call_later(self._clock, self.gather_s, self._gathered)

    def hold(self) -> None:
        """Let all that comes wait in the socket; to be called once it is open."""
        self.transport.stopReading()

    def go_on(self) -> None:
        """Read what has come, and what comes."""
        self.transport.startReading()
        self.drain()

    def holds_less(self) -> None:
        """The kernel holds less than a window."""
        self.gather_s = self._gather_most_s = _GATHER_LESS_S

    def look_every(self, seconds: float) -> None:
        """Let datagrams gather for so long, or for less."""
        self.gather_s = min(max(seconds, _GATHER_LEAST_S), self._gather_most_s)

    def drain(self) -> None:
        """Read all that waits, so that what is missing now has not come."""
        # Bounded: a sender faster than this loop must not hold the reactor.
        self._read_batches(64 * _BATCHES_A_TURN)

    def stopProtocol(self) -> None:
        self._guard.wrap(self._gather_no_more)()

    def _gather_no_more(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def _gathered(self) -> None:
        """Look without being woken, as long as each look finds something, and not too much."""
        self._gathering = None
        if 0 < self._read_batches(_BATCHES_A_TURN) < _BATCHES_A_TURN:
            self._gather()
        else:
            self.transport.startReading()

    def _read_batches(self, limit: int) -> int:
        """Read up to ``limit`` batches, fewer when nothing is left to read; returns how many."""
        count = 0
        more = True
        while more and count < limit:
            try:
                more = self._read()
            except OSError:
                # Mostly EAGAIN: nothing waits.  Of anything else, such as a link
                # that is down, the repairs by TCP make good what it costs.
                break
            count += 1
        if count:
            self.arrived()
        return count

    def _read_segments(self) -> bool:
        """Large datagrams that belong behind each other, until one does not; then verify them."""
        intake = self._intake
        landing = intake.landing(RUN)
        most = min(_MAX_DATAGRAM // intake.stride + 1, BATCH)
        count = 0
        odd = None
        try:
            while landing.room - count >= most:
                slot = landing.slot + count
                length, segment = self._segments.receive(landing.buffer, slot, most)
                self._count_singles(length, segment)
                packets, rest = divmod(length, intake.stride)
                is_whole = segment == intake.stride or packets == 1
                if rest or not is_whole or not intake.is_expected(landing, slot):
                    odd = (Landing(landing.buffer, slot, landing.room - count), length, segment)
                    break
                count += packets
        except OSError:
            if not count:
                raise
            more = False
        else:
            more = True
        if count:
            intake.landed(landing, count)
        if odd is not None:
            intake.coalesced(*odd)
        elif not count:
            return self._read_coalesced()
        return more

    def _read_coalesced(self) -> bool:
        intake = self._intake
        landing = intake.landing()
        iov = intake.vector(landing, min(_MAX_DATAGRAM // intake.stride + 1, BATCH))
        length, ancillary, flags, _ = self._socket.recvmsg_into(iov, _ANCILLARY_SIZE)
        segment = length
        for level, kind, value in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                (segment,) = struct.unpack("=i", value[:4])
        if flags & socket.MSG_TRUNC or length == 0:
            return True
        intake.coalesced(landing, length, segment)
        self._count_singles(length, segment)
        return True

    def _count_singles(self, length: int, segment: int) -> None:
        if segment < length:
            self._singles = max(self._singles - _OUTWEIGHED, 0) if self._coalesces else 0
            return
        self._singles += 1
        if self._singles < _SINGLES or not frames.available():
            return
        if self._coalesces:
            # What is in the socket stays as it is, and is not for frames' small slots.
            self._socket.setsockopt(SOL_UDP, UDP_GRO, 0)
            self._coalesces = False
            self._singles = 0
        else:
            self._read = self._read_frames

    def _read_frames(self) -> bool:
        landing = self._intake.landing()
        lengths = frames.receive(
            self._socket.fileno(), landing.buffer, landing.slot, landing.room or BATCH
        )
        self._intake.frames(landing, lengths)
        return len(lengths) == (landing.room or BATCH)

    def _read_plain(self) -> bool:
        self._intake.datagram(self._socket.recv(_MAX_DATAGRAM))
        return True


class _ReceivePort(MulticastPort):
    """A port that lets its protocol read in batches."""

    group: str
    local_ip: str
    held_bytes: int
    source: str | None

    def doRead(self) -> None:
        self.protocol.readable()

    def rejoin(self) -> None:
        """Leave the group and join it again, so that a switch which has forgotten hears of it."""
        try:
            self.leave(self.group, self.local_ip)
        except OSError:
            pass  # the interface may have been made anew, and then knows of no group
        try:
            self.join(self.group, self.local_ip, self.source)
        except OSError as error:
            _log.info(
                "cannot join the group again: {error}",
                event="group-not-rejoined",
                error=error.strerror,
            )

    def why_unreached(self, source: str, mtu: int) -> str | None:
        """What on this host keeps multicast of ``mtu`` bytes from ``source`` out, if it is here."""
        return why_unreached(self.local_ip, source, mtu)


def open_receiver(
    reactor: IReactorTime,
    protocol: MulticastReceiver,
    group: tuple[str, int],
    local_ip: str,
    window: int,
    source: str | None,
) -> _ReceivePort:
    """Join ``group`` (address, port) on the interface of ``local_ip``, for what ``source`` sends.

    A ``source`` of None is anybody.  ``window`` is how many bytes the kernel should be able to
    hold.  Raises CannotListenError and OSError.
    """
    address, number = group
    # Twisted's port names a reactor for a way to join that is not used here.
    port = _ReceivePort(
        number,
        protocol,
        address,
        reactor=reactor,  # type: ignore[arg-type]
        listenMultiple=True,
    )
    port.group, port.local_ip, port.source = address, local_ip, source
    port.startListening()
    try:
        port.join(address, local_ip, source)
    except OSError:
        port.stopListening()
        raise
    granted = port.held_bytes = port.set_buffer(socket.SO_RCVBUF, window)
    if granted < window:
        protocol.holds_less()
        _log.warn(
            "the kernel holds {granted} KiB of multicast, {window} KiB are wanted:"
            " sysctl -w net.core.rmem_max={value}",
            event="receive-buffer-small",
            granted=granted // 1024,
            window=window // 1024,
            value=window,
        )
    return port
