"""The multicast sender: whole buffers out of one port, in batches.

As many packets leave as one large datagram as the kernel can cut it into
(UDP_SEGMENT, Linux 4.18): 44 at an MTU of 1500, straight from the buffer's
slots.  A batch is some of these in one system call, or one where the packets
go backwards or the rate is low.  Where the kernel or the device
refuses, a batch is one packet.

What the kernel refuses outright is lost, as what a switch drops is: nobody is
told but the operator, and who lacks it gets it by TCP.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.sealed_run import SealedRun
from kollacast.transport import diagnosis, segments
from kollacast.transport.multicast import LINUX, SOL_UDP, UDP_SEGMENT, MulticastPort
from kollacast.transport.outage import Outage
from kollacast.transport.pacing import Pacer
from kollacast.wire.packets import PacketCodec
from kollacast.wire.sealing import SEAL_SIZE
from kollacast.wire.structures import IP_UDP_HEADER_SIZE

_log = Logger()

#: UDP payload bytes of the largest IPv4 datagram.
_MAX_DATAGRAM = 65507
#: UDP_MAX_SEGMENTS of Linux.
_MAX_SEGMENTS = 64
#: Packets that leave in one batch, at the most.
MOST_AT_ONCE = segments.MOST * _MAX_SEGMENTS
#: Batches handed to the kernel before the reactor gets its turn again.
_BATCHES_A_TURN = 8
#: The kernel's queue behind the socket, which is twice this: 12 ms at 1 Gbit/s.  Short enough
#: that it pushes back before the queue of the egress link drops (700 packets where they are
#: single, of the 1000 that Linux gives a device), long enough to bridge a turn for which the
#: process waits on a busy machine.
_SEND_BUFFER = 768 * 1024

_AGAIN = {errno.EAGAIN, errno.EWOULDBLOCK}
#: A device or kernel that cannot segment says one of these.
_NO_SEGMENTS = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}


class _SendPort(MulticastPort):
    """A port that asks its protocol for more whenever it can be written to."""

    def doWrite(self) -> None:
        self.protocol.writable()

    def explain(self, error: OSError, group: tuple[str, int]) -> str:
        """Why the kernel refuses to send, and what would help."""
        return diagnosis.why_refused(error, self.interface, group)


@dataclass(slots=True)
class _Job:
    """One buffer on its way: ``done`` packets of it have left, ``sealed`` ones may.

    Its rate is that of all that left between its first batch and its last, and cannot be told
    when it ``was_refused`` in between.
    """

    buffer: PacketBuffer
    finished: Deferred[float]
    done: int = 0
    sealed: int = 0
    began_at: float = 0.0
    began_bits: int = 0
    counts: bool = True
    was_refused: bool = False


class MulticastProtocol(DatagramProtocol):
    """Multicasts buffers to one group, one after another."""

    transport: _SendPort

    def __init__(
        self,
        clock: IReactorTime,
        codec: PacketCodec,
        pacer: Pacer,
        group: tuple[str, int],
        *,
        descending: bool,
        sealed_run: SealedRun | None = None,
    ) -> None:
        """With ``sealed_run`` packets leave by way of it, sealed; never ``descending`` then."""
        self._clock = clock
        self._codec = codec
        self._pacer = pacer
        self._group = group
        self._descending = descending
        self._jobs: deque[_Job] = deque()
        self._urgent: deque[_Job] = deque()
        self._bits = 0
        self._wake: IDelayedCall | None = None
        self._sealed_run = sealed_run
        self._segments = LINUX
        # Whether segments were refused, and single packets have not shown yet that it is these.
        self._doubts_segments = False
        self._outage = Outage(clock)
        self._segment_sender: segments.SegmentSender | None = None
        #: Of what counts: the image, and what repairs it.
        self.bytes_sent = 0
        self.packets_sent = 0

    def startProtocol(self) -> None:
        if self._segments:
            try:
                self.transport.socket.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
            except OSError:
                self._segments = False
        if self._segments and not self._descending and segments.available(self.transport.socket):
            self._segment_sender = segments.SegmentSender(self.transport.socket, self._group)

    def multicast(
        self, buffer: PacketBuffer, *, urgent: bool = False, counts: bool = True
    ) -> Deferred[float]:
        """Send every packet of ``buffer``, sealing its headers on the way.

        Fires when the kernel has taken the last packet, with the rate in bits
        a second at which it took them, 0 when that cannot be told: also when the
        kernel has refused some, which are lost then.  An ``urgent`` buffer goes
        before what is left of all that are not, and one that does not count is not
        among what was sent.  Never fires once the port is
        closed; fails with an error of the program.
        """
        finished: Deferred[float] = Deferred()
        if buffer.ctl.pkt_count == 0:
            finished.callback(0.0)
            return finished
        if self.transport is None:
            return finished
        job = _Job(buffer, finished, counts=counts)
        (self._urgent if urgent else self._jobs).append(job)
        if self._wake is None:
            self.transport.startWriting()
        return finished

    def writable(self) -> None:
        """The socket takes more, and it is the sender's turn."""
        try:
            self._send_some()
        except Exception:
            failure = Failure()
            jobs = [*self._urgent, *self._jobs]
            self._urgent.clear()
            self._jobs.clear()
            self.transport.stopWriting()
            for job in jobs:
                job.finished.errback(failure)

    def _send_some(self) -> None:
        for _ in range(_BATCHES_A_TURN):
            jobs = self._urgent or self._jobs
            if not jobs:
                self.transport.stopWriting()
                return
            delay = self._pacer.delay_s()
            if delay > 0:
                self.transport.stopWriting()
                self._wake = self._clock.callLater(delay, self._resume)
                return
            try:
                if not self._send_batch(jobs[0]):
                    return
            except OSError as error:
                if self._is_refused(error, jobs[0]):
                    return
                self._lose(jobs.popleft())
                continue
            if jobs[0].done == jobs[0].buffer.ctl.pkt_count:
                self._finish(jobs.popleft())

    @property
    def is_refused(self) -> bool:
        """Whether the kernel has refused what it was given last."""
        return self._outage.is_on

    def withhold(self, buffer: PacketBuffer) -> None:
        """Make ``buffer`` ready to be sent by other ways, and by this one not at all."""
        if buffer.ctl.pkt_count:
            self._seal(buffer, 0, buffer.ctl.pkt_count)

    def _is_refused(self, error: OSError, job: _Job) -> bool:
        """The kernel refuses ``job``'s next batch: whether it gets another try, after a pause."""
        job.was_refused = True
        if self._doubts_segments:
            # It is not the segments.
            self._doubts_segments = False
            self._segments = True
        pause_s = self._outage.refused(error)
        if self._outage.is_news(error):
            self._outage.say(error, self.transport.explain(error, self._group))
        # Where the address is, or is again, may be another interface.
        self.transport.renew()
        if pause_s is None:
            return False
        self.transport.stopWriting()
        self._wake = self._clock.callLater(pause_s, self._resume)
        return True

    def _lose(self, job: _Job) -> None:
        """Nothing more of ``job`` leaves by this way."""
        self.withhold(job.buffer)
        job.finished.callback(0.0)

    def stopProtocol(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._urgent.clear()
        self._jobs.clear()

    def _resume(self) -> None:
        self._wake = None
        self.transport.startWriting()

    def _send_batch(self, job: _Job) -> bool:
        """Send the job's next batch; False when the kernel takes none now."""
        stride = job.buffer.layout.stride
        if self._sealed_run is not None:
            stride += SEAL_SIZE
        left = job.buffer.ctl.pkt_count - job.done
        large = min(_MAX_DATAGRAM // stride, _MAX_SEGMENTS) if self._segments else 1
        most = (
            segments.MOST * large if self._segment_sender is not None and self._segments else large
        )
        count = max(int(min(left, most, self._pacer.burst_bytes() // stride)), 1)
        try:
            if self._segment_sender is not None and self._segments:
                sent = self._send_large(self._segment_sender, job, count, min(large, count))
            else:
                sent = self._send_one(job, count)
        except OSError as error:
            if error.errno in _AGAIN:
                return False
            if count > 1 and error.errno in _NO_SEGMENTS:
                self._segments = False
                self._doubts_segments = True
                return True
            raise
        if self._doubts_segments:
            self._doubts_segments = False
            _log.info(
                "the kernel takes no segments, and gets packets one by one",
                event="segments-refused",
            )
        if self._outage.is_on:
            self._outage.passed()
        with_last = not job.done if self._descending else sent == left
        short = -job.buffer.ctl.buffer_size % job.buffer.capacity if with_last else 0
        if job.counts:
            self.bytes_sent += sent * stride - short
            self.packets_sent += sent
        size = sent * (stride + IP_UDP_HEADER_SIZE) - short
        self._pacer.sent(size)
        self._bits += 8 * size
        if job.done == 0:
            # What leaves from here on takes the time from here on.
            job.began_at = self._clock.seconds()
            job.began_bits = self._bits
        job.done += sent
        return True

    def _send_large(self, sender: segments.SegmentSender, job: _Job, count: int, large: int) -> int:
        """Send up to ``count`` packets; how many the kernel has taken."""
        end = job.done + count
        if job.sealed < end:
            self._seal(job.buffer, job.sealed, end - job.sealed)
            job.sealed = end
        buffer, first, count = self._leaving(job.buffer, job.done, count)
        return sender.send(buffer, first, count, min(large, count))

    def _leaving(
        self, buffer: PacketBuffer, first: int, count: int
    ) -> tuple[PacketBuffer, int, int]:
        """Where up to ``count`` packets are as they cross the network: buffer, slot, how many."""
        if self._sealed_run is None:
            return buffer, first, count
        return self._sealed_run.buffer, *self._sealed_run.hold(buffer, first, count)

    def _send_one(self, job: _Job, count: int) -> int:
        """The same by Python's own call, and no more than one large datagram."""
        buffer = job.buffer
        left = buffer.ctl.pkt_count - job.done
        first = job.done
        if self._descending:
            # All segments but the last must be full, so a short packet goes alone.
            if job.done == 0 and buffer.ctl.buffer_size % buffer.capacity:
                count = 1
            first = left - count
        self._seal(buffer, first, count)
        buffer, first, count = self._leaving(buffer, first, count)
        vector = buffer.vector(first, count)
        vector[-1] = buffer.slots(first + count - 1, 1)[0]
        if self._descending:
            vector = [view for slot in range(count - 1, -1, -1) for view in vector[2 * slot :][:2]]
        stride = buffer.layout.stride
        ancillary: list[tuple[int, int, bytes]] = (
            [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", stride))] if count > 1 else []
        )
        self.transport.socket.sendmsg(vector, ancillary, 0, self._group)
        return count

    def _seal(self, buffer: PacketBuffer, first: int, count: int) -> None:
        """Make headers, as packets have them by TCP, too."""
        payloads = buffer.slots(first, count)
        self._codec.seal(buffer.headers, first, buffer.ctl.packet_id_base + first, payloads)

    def _finish(self, job: _Job) -> None:
        elapsed = self._clock.seconds() - job.began_at
        is_known = elapsed > 0 and not job.was_refused
        job.finished.callback((self._bits - job.began_bits) / elapsed if is_known else 0.0)


def open_sender(
    reactor: IReactorTime, protocol: MulticastProtocol, local_ip: str, ttl: int
) -> _SendPort:
    """Open the port that ``protocol`` sends from.  Raises CannotListenError."""
    # Twisted's port names a reactor for a way to join that is not used here.
    port = _SendPort(0, protocol, local_ip, reactor=reactor)  # type: ignore[arg-type]
    port.startListening()
    # It only sends: what arrives at an ephemeral port is not for it.
    port.stopReading()
    port.send_from(local_ip, ttl)
    port.set_buffer(socket.SO_SNDBUF, _SEND_BUFFER)
    return port
