"""Sender and receiver on real sockets over loopback: every way out and every way in."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial import unittest

from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake, Landing
from kollacast.packets.sealed_run import SealedRun
from kollacast.transport import frames, interfaces, multicast, receiver, segments, sender
from kollacast.transport.multicast import LINUX, SOL_UDP, UDP_GRO, UDP_SEGMENT
from kollacast.transport.pacing import Pacer
from kollacast.transport.receiver import MulticastReceiver, open_receiver
from kollacast.transport.sender import MOST_AT_ONCE, MulticastProtocol, open_sender
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.messages import BufferCtl
from kollacast.wire.recipes import control_seq
from kollacast.wire.sealing import SEAL_SIZE, Seal
from kollacast.wire.structures import MIN_MTU, payload_capacity

_LOOPBACK = "127.0.0.1"
_GROUP = "239.255.76.67"
_ENGINE, _ = best_crc32c()
#: Bytes that a test's receiver should be able to hold; what is sent at once stays well below.
_WINDOW = 4 * 1024 * 1024
#: What goes wrong is raised where it happens.
_GUARD = Guard(lambda failure: failure.raiseException())


def _free_port() -> int:
    """A number that no other socket has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((_LOOPBACK, 0))
        number: int = probe.getsockname()[1]
        return number


class _Intake(Intake):
    """Counts the batches by the way in which they came."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ways: Counter[str] = Counter()

    def landed(self, landing: Landing, count: int) -> None:
        self.ways["landed"] += 1
        super().landed(landing, count)

    def coalesced(self, landing: Landing, length: int, segment: int) -> None:
        self.ways["coalesced" if segment < length else "one by one"] += 1
        super().coalesced(landing, length, segment)

    def frames(self, landing: Landing, lengths: Sequence[int]) -> None:
        self.ways["frames"] += 1
        super().frames(landing, lengths)

    def datagram(self, data: bytes) -> None:
        self.ways["plain"] += 1
        super().datagram(data)


class _PortsTest(unittest.TestCase):
    """A sender and a receiver of one session, on a group of their own."""

    timeout = 120
    salt = 0xCAFE
    #: Whether packets cross sealed.
    is_sealed = False

    def open(
        self, dialect: Dialect = KOLLACAST, mtu: int = 1500, rate_bps: float | None = None
    ) -> None:
        self.capacity = payload_capacity(mtu - self.overhead)
        codec = dialect.codec(self.salt, _ENGINE)
        group = (_GROUP, _free_port())
        seal = Seal(b"k" * 16, self.salt) if self.is_sealed else None
        self.intake = _Intake(codec, self.capacity, seal=seal)
        self.receiver = MulticastReceiver(reactor, self.intake, self.arrived, _GUARD)
        self.waiting: list[tuple[PacketBuffer, Deferred[None]]] = []
        listening = open_receiver(reactor, self.receiver, group, _LOOPBACK, _WINDOW, _LOOPBACK)
        self.addCleanup(listening.stopListening)
        self.sender = MulticastProtocol(
            reactor,
            codec,
            Pacer(reactor, rate_bps),
            group,
            descending=dialect.descending,
            sealed_run=None
            if seal is None
            else SealedRun(seal, codec, self.capacity, MOST_AT_ONCE),
        )
        sending = open_sender(reactor, self.sender, _LOOPBACK, 0)
        self.addCleanup(sending.stopListening)
        self.next_seq = 0
        self.number = 0

    @property
    def overhead(self) -> int:
        """Bytes that a packet has beside header and payload."""
        return SEAL_SIZE if self.is_sealed else 0

    def arrived(self) -> None:
        for buffer, complete in self.waiting:
            if buffer.complete and not complete.called:
                complete.callback(None)

    async def bring(self, size: int) -> None:
        """Multicast a buffer of ``size`` bytes, and have it whole at the other end."""
        self.number += 1
        image = random.Random(size).randbytes(size)
        source = PacketBuffer(self.capacity, -(-size // self.capacity))
        source.payload[:size] = image
        ctl = source.announce(self.number, self.next_seq, size)
        self.next_seq += ctl.pkt_count
        target = PacketBuffer(self.capacity, ctl.pkt_count)
        target.init(ctl)
        complete: Deferred[None] = Deferred()
        self.waiting.append((target, complete))
        self.intake.arm(target)
        await self.sender.multicast(source)
        await complete
        self.intake.disarm(target)
        self.assertEqual(b"".join(target.views()), image)

    async def bring_control(self) -> None:
        """Packets of the control stream come beside a buffer's, and count as none of them."""
        heard: list[bytes] = []
        self.intake.control = lambda seq, data: heard.append(data)
        said = [b"\x08", b"some words", b"z" * self.capacity]
        placed, sent = self.intake.counts.placed, self.sender.packets_sent
        for number, data in enumerate(said):
            packet = PacketBuffer(self.capacity, 1)
            packet.payload[: len(data)] = data
            packet.announce(0, control_seq(number), len(data))
            await self.sender.multicast(packet, urgent=True, counts=False)
            await self.bring(5 * self.capacity)
        self.assertEqual(heard, said)
        self.assertEqual(self.intake.counts.placed - placed, 15)
        self.assertEqual(self.sender.packets_sent - sent, 15)
        self.assertEqual((self.intake.counts.repeated, self.intake.counts.damaged), (0, 0))

    async def bring_every_size(self, packets: int = 100) -> None:
        """Awkward sizes of up to ``packets`` packets, fewer than any kernel's socket holds."""
        capacity = self.capacity
        whole = packets // 2 * capacity
        for size in (1, capacity - 1, capacity, capacity + 1, whole, packets * capacity - 5):
            await self.bring(size)
        counts = self.intake.counts
        self.assertEqual(counts.placed, self.next_seq)
        self.assertEqual((counts.repeated, counts.damaged), (0, 0))
        self.assertEqual(self.sender.packets_sent, self.next_seq)

    def one_by_one(self) -> None:
        """A sender on a system that does not segment."""
        self.patch(sender, "LINUX", False)

    def no_gro(self) -> None:
        """A receiver under a kernel that does not coalesce."""

        class _Socket(socket.socket):
            def setsockopt(self, level: int, option: int, *value: Any) -> None:
                if (level, option) == (SOL_UDP, UDP_GRO):
                    raise OSError(errno.ENOPROTOOPT, "Protocol not available")
                super().setsockopt(level, option, *value)

        self.patch(socket, "socket", _Socket)


class Ways(_PortsTest):
    """Images of awkward sizes, by every way that a kernel offers."""

    async def test_segmented_and_coalesced(self) -> None:
        if not LINUX:
            raise unittest.SkipTest("UDP segmentation offload is Linux's")
        self.open()
        await self.bring_every_size()
        self.assertTrue(self.intake.ways["landed"])
        self.assertTrue(self.intake.ways["coalesced"])
        self.assertFalse(self.intake.ways["frames"] or self.intake.ways["plain"])
        await self.bring_control()

    async def test_one_by_one_until_frames_are_read_in_batches(self) -> None:
        """Where nothing comes coalesced, recvmmsg takes over after a while."""
        if not frames.available():
            raise unittest.SkipTest("this system's libc has no recvmmsg")
        self.one_by_one()
        self.open()
        for _ in range(4):
            await self.bring_every_size()
        self.assertTrue(self.intake.ways["one by one"])
        self.assertTrue(self.intake.ways["frames"])
        self.assertFalse(self.intake.ways["coalesced"])
        self.assertLess(self.intake.ways["frames"], self.next_seq // 4)

    async def test_frames_from_the_beginning_without_gro(self) -> None:
        if not frames.available():
            raise unittest.SkipTest("this system's libc has no recvmmsg")
        self.no_gro()
        self.open()
        await self.bring_every_size()
        await self.bring_control()
        self.assertEqual(set(self.intake.ways), {"frames"})

    async def test_plain_without_gro_and_recvmmsg(self) -> None:
        self.no_gro()
        self.patch(frames, "available", lambda: False)
        self.open()
        await self.bring_every_size()
        await self.bring_control()
        self.assertEqual(set(self.intake.ways), {"plain"})

    async def test_plain_on_another_system(self) -> None:
        self.patch(receiver, "LINUX", False)
        self.one_by_one()
        self.open()
        await self.bring_every_size()
        self.assertEqual(set(self.intake.ways), {"plain"})

    async def test_jumbo_frames(self) -> None:
        self.open(mtu=9000)
        self.assertEqual(self.capacity, 8960 - self.overhead)
        await self.bring_every_size(packets=18)

    async def test_the_smallest_and_the_largest_packets(self) -> None:
        for mtu in (44 + self.overhead, MIN_MTU + self.overhead, 65535):
            self.open(mtu=mtu)
            for size in (1, self.capacity, 3 * self.capacity + 1):
                await self.bring(size)

    async def test_at_a_rate(self) -> None:
        """Nothing is lost or left when the sender has to wait in mid-buffer."""
        self.open(rate_bps=40e6)
        began = reactor.seconds()
        await self.bring(200 * self.capacity)
        await self.bring(10)
        took = reactor.seconds() - began
        self.assertGreater(took, 200 * 1500 * 8 / 40e6 - 0.02)

    async def test_several_buffers_at_once(self) -> None:
        """They leave one after another, also when the sender is waiting for its turn."""
        for rate_bps in (None, 40e6):
            self.open(rate_bps=rate_bps)
            waiting = [Deferred.fromCoroutine(self.bring(30 * self.capacity)) for _ in range(4)]
            for result in waiting:
                await result

    async def test_the_end_of_the_stream_sends_nothing(self) -> None:
        self.open()
        empty = PacketBuffer(self.capacity, 4)
        self.assertTrue(empty.announce(1, 0, 0).is_end)
        await self.sender.multicast(empty)
        self.assertEqual(self.sender.packets_sent, 0)

    async def test_what_was_sent_before_is_there_after_a_drain(self) -> None:
        """SENT may overtake datagrams that wait in the socket: a drain brings them in."""
        self.open()
        source = PacketBuffer(self.capacity, 60)
        source.announce(1, 0, 60 * self.capacity)
        target = PacketBuffer(self.capacity, 60)
        target.init(source.ctl)
        self.intake.arm(target)
        finished = self.sender.multicast(source)
        while not finished.called:
            self.sender.writable()
        self.receiver.drain()
        self.assertTrue(target.complete)


class SealedWays(Ways):
    """The same with packets that are sealed, from their first to their last."""

    is_sealed = True


class DescendingWays(_PortsTest):
    """The order of the jasmine dialect."""

    async def test_from_the_last_packet_to_the_first(self) -> None:
        self.open(JASMINE)
        await self.bring_every_size()

    async def test_from_the_last_to_the_first_one_by_one(self) -> None:
        self.one_by_one()
        self.open(JASMINE)
        await self.bring_every_size()


class Doors(_PortsTest):
    """Ports that cannot be opened, and ports that close in the midst of things."""

    def receiver_for(self) -> MulticastReceiver:
        codec = KOLLACAST.codec(0, _ENGINE)
        return MulticastReceiver(reactor, Intake(codec, 1460), lambda: None, _GUARD)

    def test_no_interface_has_the_local_address(self) -> None:
        number = _free_port()
        for local_ip, source in product(("192.0.2.1", "not an address"), (None, _LOOPBACK)):
            with self.assertRaises(OSError) as caught:
                open_receiver(reactor, self.receiver_for(), (_GROUP, number), local_ip, 0, source)
            self.assertNotIsInstance(caught.exception, CannotListenError)
        # It has not kept the port.
        port = open_receiver(reactor, self.receiver_for(), (_GROUP, number), _LOOPBACK, 0, None)
        self.addCleanup(port.stopListening)

    def test_the_sender_s_address_is_no_interface_s(self) -> None:
        protocol = MulticastProtocol(
            Clock(),
            KOLLACAST.codec(0, _ENGINE),
            Pacer(Clock(), None),
            (_GROUP, 9),
            descending=False,
        )
        with self.assertRaises(CannotListenError):
            open_sender(reactor, protocol, "192.0.2.1", 1)

    def test_the_port_is_somebody_else_s(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("", 0))
            group = (_GROUP, other.getsockname()[1])
            with self.assertRaises(CannotListenError):
                open_receiver(reactor, self.receiver_for(), group, _LOOPBACK, 0, None)

    def test_two_clients_of_one_host_share_the_port(self) -> None:
        group = (_GROUP, _free_port())
        for _ in range(2):
            port = open_receiver(reactor, self.receiver_for(), group, _LOOPBACK, 0, None)
            self.addCleanup(port.stopListening)

    def come_in(self, source: str | None, *senders: str) -> list[str]:
        """Of these senders' datagrams, those that the kernel lets in where ``source`` is joined."""
        port = open_receiver(
            reactor, self.receiver_for(), (_GROUP, _free_port()), _LOOPBACK, _WINDOW, source
        )
        self.addCleanup(port.stopListening)
        port.rejoin()
        for sender_ip in senders:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind((sender_ip, 0))
                stranger.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_LOOPBACK)
                )
                stranger.sendto(sender_ip.encode(), (_GROUP, port.getHost().port))
        came = []
        with contextlib.suppress(BlockingIOError):
            while True:
                came.append(port.socket.recv(100).decode())
        return came

    def test_nobody_s_datagrams_but_the_source_s(self) -> None:
        three = ("127.0.0.2", _LOOPBACK, "127.0.0.3")
        self.assertEqual(self.come_in(_LOOPBACK, *three), [_LOOPBACK])
        self.assertEqual(self.come_in("192.0.2.7", *three), [])
        self.assertEqual(self.come_in(None, *three), list(three))

    def test_a_kernel_that_knows_no_sources(self) -> None:
        refused = (-1, b"")
        self.patch(interfaces, "source_request", lambda *addresses: refused)
        with capturedLogs() as events:
            self.assertEqual(self.come_in("192.0.2.7", _LOOPBACK), [_LOOPBACK])
        [*_, line] = [formatEvent(event) for event in events]
        self.assertIn("cannot keep to multicast from 192.0.2.7 (Protocol not available)", line)

    async def test_a_stranger_s_datagrams_among_those_that_come_together(self) -> None:
        """Where there are many they are read as many at a time, though others come together."""
        if not frames.available():
            raise unittest.SkipTest("no recvmmsg here")
        self.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_LOOPBACK)
            )
            group = (_GROUP, self.receiver.transport.getHost().port)
            for _ in range(30):
                await self.bring(40 * self.capacity)
                for _ in range(20):
                    stranger.sendto(b"noise", group)
        self.assertGreater(self.intake.ways["frames"], 10)
        self.assertGreater(self.intake.counts.damaged, 500)

    def test_what_the_kernel_has_no_room_for_is_counted(self) -> None:
        group = (_GROUP, _free_port())
        port = open_receiver(reactor, self.receiver_for(), group, _LOOPBACK, 4096, None)
        self.addCleanup(port.stopListening)
        self.assertEqual((port.dropped(), port.held_bytes), (0, 4096))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_LOOPBACK))
            for _ in range(100):
                sock.sendto(bytes(1000), group)
        come = 0
        with contextlib.suppress(BlockingIOError):
            while port.socket.recv(2000):
                come += 1
        self.assertGreater(come, 0)
        self.assertEqual(port.dropped(), 100 - come)

    def test_a_kernel_that_does_not_count(self) -> None:
        port = open_receiver(
            reactor, self.receiver_for(), (_GROUP, _free_port()), _LOOPBACK, 0, None
        )
        self.addCleanup(port.stopListening)
        self.patch(multicast, "SO_MEMINFO", 1 << 20)
        self.assertEqual(port.dropped(), 0)

    async def test_another_group_s_datagrams_do_not_come_in(self) -> None:
        self.open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_LOOPBACK)
            )
            port = self.receiver.transport.getHost().port
            stranger.sendto(b"other group", ("239.255.76.68", port))
            stranger.sendto(b"no group", (_LOOPBACK, port))
        await self.bring(3 * self.capacity)
        self.receiver.drain()
        self.assertEqual(self.intake.counts.damaged, 0)

    async def test_strangers_on_the_group_are_counted_and_do_no_harm(self) -> None:
        self.open()
        port = self.receiver.transport.getHost().port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(_LOOPBACK)
            )
            for datagram in (b"", b"x", bytes(12), bytes(1472), bytes(1473), bytes(65507)):
                stranger.sendto(datagram, (_GROUP, port))
        await self.bring(3 * self.capacity)
        self.assertGreaterEqual(self.intake.counts.damaged, 3)
        self.assertEqual(self.intake.counts.placed, 3)

    async def test_closing_while_the_sender_waits_for_its_turn(self) -> None:
        """Nothing is left behind that would go off later: trial looks after that."""
        self.open(rate_bps=8e4)
        source = PacketBuffer(self.capacity, 100)
        source.announce(1, 0, 100 * self.capacity)
        finished = self.sender.multicast(source)
        while self.sender.packets_sent == 0:
            self.sender.writable()
        await maybeDeferred(self.sender.transport.stopListening)
        self.assertFalse(finished.called)

    async def test_multicasting_from_a_closed_port_goes_nowhere(self) -> None:
        self.open()
        await maybeDeferred(self.sender.transport.stopListening)
        source = PacketBuffer(self.capacity, 1)
        source.announce(1, 0, 1)
        self.assertFalse(self.sender.multicast(source).called)


#: Refusals that may be of the segments alone: a single packet shows it.
_OF_SEGMENTS = (errno.EINVAL, errno.EIO)


class _Kernel:
    """A socket whose every send ends as the test says."""

    def __init__(self) -> None:
        self.answers: list[OSError] = []
        self.refuse_segments: OSError | None = None
        self.sent: list[bytes] = []

    def setsockopt(self, *args: Any) -> None:
        pass

    def sendmsg(
        self, views: Sequence[memoryview], ancillary: Sequence[Any], flags: int, address: Any
    ) -> int:
        if self.answers:
            raise self.answers.pop(0)
        if ancillary:
            ((level, kind, _),) = ancillary
            assert (level, kind) == (SOL_UDP, UDP_SEGMENT)
            if self.refuse_segments is not None:
                raise self.refuse_segments
        data = b"".join(views)
        self.sent.append(data)
        return len(data)


class _Transport:
    """Keeps whether the sender wants to be asked for more."""

    def __init__(self, kernel: _Kernel) -> None:
        self.socket = kernel
        self.writing = False
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1

    def explain(self, error: OSError, group: tuple[str, int]) -> str:
        return f"{error.strerror}, {group[0]}"

    def startWriting(self) -> None:
        self.writing = True

    def stopWriting(self) -> None:
        self.writing = False


class Refusals(unittest.SynchronousTestCase):
    """What the kernel may answer to a send, on a transport that the test drives."""

    capacity = 20
    packets = 100

    def setUp(self) -> None:
        self.kernel = _Kernel()
        self.clock = Clock()
        self.pacer = Pacer(self.clock, None)
        self.sender = MulticastProtocol(
            self.clock, KOLLACAST.codec(1, _ENGINE), self.pacer, (_GROUP, 9), descending=False
        )
        self.transport = _Transport(self.kernel)
        self.sender.transport = self.transport  # type: ignore[assignment]
        self.sender.startProtocol()
        self.buffer = self.filled(0)

    def filled(self, base: int) -> PacketBuffer:
        buffer = PacketBuffer(self.capacity, self.packets)
        size = self.packets * self.capacity - 3
        buffer.payload[:size] = random.Random(base).randbytes(size)
        buffer.announce(1, base, size)
        return buffer

    def run_until(self, done: Callable[[], bool], turns: int = 1000) -> None:
        for _ in range(turns):
            if done():
                return
            if self.transport.writing:
                self.sender.writable()
            else:
                self.clock.advance(0.001)
        self.fail("the sender does not get on")

    def everything(self, *buffers: PacketBuffer) -> bytes:
        """The datagrams of whole buffers, one behind the other."""
        return b"".join(
            b"".join(
                bytes(buffer.headers[12 * slot : 12 * slot + 12])
                + bytes(buffer.get(buffer.ctl.packet_id_base + slot) or b"")
                for slot in range(self.packets)
            )
            for buffer in buffers
        )

    def test_a_full_socket_is_waited_for(self) -> None:
        self.kernel.answers += [OSError(errno.EAGAIN, "")] * 6
        finished = self.sender.multicast(self.buffer)
        self.assertTrue(self.transport.writing)
        for _ in range(6):
            self.sender.writable()
            self.assertTrue(self.transport.writing)
            self.assertEqual(self.kernel.sent, [])
        self.run_until(lambda: finished.called)
        self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))

    def test_where_segments_are_refused_packets_go_one_by_one(self) -> None:
        for number in (
            errno.EIO,
            errno.EINVAL,
            errno.EMSGSIZE,
            errno.EOPNOTSUPP,
            errno.ENOPROTOOPT,
        ):
            self.setUp()
            self.kernel.refuse_segments = OSError(number, "cannot segment")
            finished = self.sender.multicast(self.buffer)
            self.run_until(lambda finished=finished: finished.called)  # type: ignore[misc]
            self.assertEqual(len(self.kernel.sent), self.packets)
            self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))
            self.assertEqual(self.sender.packets_sent, self.packets)
            self.assertEqual(self.sender.bytes_sent, len(self.everything(self.buffer)))

    def refuse(self, number: int, seconds: float = 1000.0) -> list[float]:
        """The kernel refuses everything for so long; the times of its refusals, as they come."""
        end = self.clock.seconds() + seconds
        times: list[float] = []

        def sendmsg(*args: Any) -> int:
            if self.clock.seconds() < end:
                times.append(self.clock.seconds())
                raise OSError(number, os.strerror(number))
            return _Kernel.sendmsg(self.kernel, *args)

        self.patch(self.kernel, "sendmsg", sendmsg)
        return times

    def test_a_short_outage_costs_nothing_but_its_time(self) -> None:
        """Whatever the kernel's reason: it is tried again, with pauses, and said once."""
        for number in (
            *(errno.EPERM, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV),
            *(errno.ENETDOWN, errno.EINVAL, errno.EHOSTUNREACH, errno.EIO),
        ):
            self.setUp()
            with capturedLogs() as events:
                refusals = self.refuse(number, 0.2)
                finished = self.sender.multicast(self.buffer)
                self.run_until(lambda finished=finished: finished.called)  # type: ignore[misc]
            self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))
            # In segments as before: these were not what was refused.
            self.assertLess(len(self.kernel.sent), 5)
            self.assertLess(self.clock.seconds(), 0.31)
            attempts = len(refusals) // (2 if number in _OF_SEGMENTS else 1)
            self.assertLess(attempts, 10)
            self.assertEqual(self.transport.renewed, attempts)
            # How fast it left would say nothing of the network.
            self.assertEqual(self.successResultOf(finished), 0.0)
            refused, over = (formatEvent(event) for event in events)
            self.assertIn(f"refuses to multicast: {os.strerror(number)}, {_GROUP}", refused)
            self.assertIn("multicast leaves again, after 0.", over)

    def test_a_lasting_outage_is_not_waited_for(self) -> None:
        """After three seconds what is refused is lost at once, until something is taken again."""
        with capturedLogs() as events:
            refusals = self.refuse(errno.EPERM, 10.0)
            buffers = [self.filled(100 * number) for number in range(4)]
            results = [self.sender.multicast(buffer, urgent=False) for buffer in buffers]
            urgent = self.sender.multicast(self.filled(900), urgent=True)
            self.run_until(lambda: all(result.called for result in [*results, urgent]), 5000)
            self.assertGreaterEqual(self.clock.seconds(), 3.0)
            self.assertLess(self.clock.seconds(), 3.2)
            self.assertLess(len(refusals), 50)
            self.assertEqual(self.kernel.sent, [])
            for result in (*results, urgent):
                self.assertEqual(self.successResultOf(result), 0.0)
            self.assertTrue(self.sender.is_refused)
            # What TCP sends needs the headers.
            self.assertNotIn(bytes(12), [bytes(b.headers[-12:]) for b in buffers])
            self.clock.advance(10.0)
            last = self.sender.multicast(self.buffer)
            self.run_until(lambda: last.called)
        self.assertFalse(self.sender.is_refused)
        self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))
        self.assertEqual(len(events), 2)

    def test_a_refusal_that_comes_and_goes_is_said_once(self) -> None:
        with capturedLogs() as events:
            for base in range(0, 1000, 100):
                self.kernel.answers.append(OSError(errno.EPERM, "Operation not permitted"))
                finished = self.sender.multicast(self.filled(base))
                self.run_until(lambda finished=finished: finished.called)  # type: ignore[misc]
        self.assertEqual(len(events), 2)

    def test_full_queues_are_no_news(self) -> None:
        with capturedLogs() as events:
            self.kernel.answers += [OSError(errno.ENOBUFS, "No buffer space available")] * 3
            finished = self.sender.multicast(self.buffer)
            self.run_until(lambda: finished.called)
        self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))
        self.assertEqual(events, [])

    def test_packets_that_are_too_long_for_the_link(self) -> None:
        """Refused in segments, and then one by one: it is not the segments, and all is lost."""
        self.refuse(errno.EMSGSIZE)
        finished = self.sender.multicast(self.buffer)
        self.run_until(lambda: finished.called, 5000)
        self.assertEqual(self.successResultOf(finished), 0.0)
        self.assertEqual(self.kernel.sent, [])

    def test_a_port_that_closes_in_an_outage(self) -> None:
        self.refuse(errno.ENETDOWN)
        finished = self.sender.multicast(self.buffer)
        self.sender.writable()
        self.sender.stopProtocol()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(finished.called)

    def test_it_asks_for_nothing_when_all_is_sent(self) -> None:
        finished = self.sender.multicast(self.buffer)
        self.run_until(lambda: finished.called)
        self.sender.writable()
        self.assertFalse(self.transport.writing)

    def test_an_urgent_buffer_goes_before_the_rest(self) -> None:
        self.pacer.rate_bps = 1e6
        slow = self.sender.multicast(self.buffer)
        self.run_until(lambda: bool(self.kernel.sent))
        urgent_buffer = self.filled(500)
        urgent = self.sender.multicast(urgent_buffer, urgent=True)
        self.run_until(lambda: urgent.called)
        self.assertFalse(slow.called)
        self.run_until(lambda: slow.called)
        sent = b"".join(self.kernel.sent)
        self.assertIn(self.everything(urgent_buffer), sent)
        self.assertEqual(
            sent.replace(self.everything(urgent_buffer), b""), self.everything(self.buffer)
        )

    def test_what_does_not_count_takes_its_time_and_is_in_no_sum(self) -> None:
        self.pacer.rate_bps = 1e6
        finished = self.sender.multicast(self.buffer, urgent=True, counts=False)
        self.run_until(lambda: finished.called)
        self.assertEqual(b"".join(self.kernel.sent), self.everything(self.buffer))
        self.assertEqual((self.sender.packets_sent, self.sender.bytes_sent), (0, 0))
        self.assertGreater(self.successResultOf(finished), 0.9e6)
        counted = self.filled(100)
        finished = self.sender.multicast(counted)
        self.run_until(lambda: finished.called)
        self.assertEqual(self.sender.packets_sent, self.packets)
        self.assertEqual(self.sender.bytes_sent, len(self.everything(counted)))

    def test_waiting_for_its_turn_it_leaves_one_timer_however_often_it_is_called(self) -> None:
        self.pacer.rate_bps = 1e5
        self.sender.multicast(self.buffer)
        self.run_until(lambda: not self.transport.writing)
        for base in (100, 200):
            self.sender.multicast(self.filled(base))
            if self.transport.writing:
                self.sender.writable()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.sender.transport = None  # type: ignore[assignment]
        self.sender.stopProtocol()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_rate_is_told_with_the_last_packet(self) -> None:
        """It is what left between the first batch and the last, headers included."""
        self.pacer.rate_bps = 1e6
        buffer = self.filled(0)
        finished = self.sender.multicast(buffer)
        self.run_until(lambda: finished.called)
        rate = self.successResultOf(finished)
        self.assertGreater(rate, 0.9e6)
        self.assertLess(rate, 1.1e6)

    def test_a_buffer_of_one_batch_tells_no_rate(self) -> None:
        buffer = PacketBuffer(self.capacity, 1)
        buffer.announce(1, 0, 5)
        finished = self.sender.multicast(buffer)
        self.sender.writable()
        self.assertEqual(self.successResultOf(finished), 0.0)


class Interrupted(unittest.SynchronousTestCase):
    """What the kernel may answer to a read."""

    def receiver(self, error: OSError) -> MulticastReceiver:
        class _Socket:
            def recv(self, size: int) -> bytes:
                raise error

        class _Port:
            socket = _Socket()

            def stopReading(self) -> None:
                pass

            def startReading(self) -> None:
                pass

        self.patch(receiver, "LINUX", False)
        self.arrivals = 0

        def arrived() -> None:
            self.arrivals += 1

        intake = Intake(KOLLACAST.codec(0, _ENGINE), 16)
        protocol = MulticastReceiver(Clock(), intake, arrived, _GUARD)
        protocol.transport = _Port()  # type: ignore[assignment]
        protocol.startProtocol()
        return protocol

    def test_nothing_there_and_interruptions_pass(self) -> None:
        for number in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
            protocol = self.receiver(OSError(number, ""))
            protocol.readable()
            protocol.drain()
            self.assertEqual(self.arrivals, 0)
            protocol.stopProtocol()

    def test_a_link_that_is_down_does_not_close_the_port(self) -> None:
        """Twisted drops a port whose doRead raises."""
        protocol = self.receiver(OSError(errno.ENETDOWN, "Network is down"))
        protocol.readable()
        self.assertEqual(self.arrivals, 0)
        protocol.stopProtocol()


class Looks(unittest.SynchronousTestCase):
    """When a receiver looks at its socket, and when it asks to be woken."""

    def setUp(self) -> None:
        waiting: list[bytes] = []

        class _Socket:
            def recv(self, size: int) -> bytes:
                if not waiting:
                    raise BlockingIOError
                return waiting.pop()

        class _Port:
            socket = _Socket()
            is_woken = True

            def stopReading(self) -> None:
                self.is_woken = False

            def startReading(self) -> None:
                self.is_woken = True

        self.patch(receiver, "LINUX", False)
        self.waiting = waiting
        self.clock = Clock()
        self.port = _Port()
        intake = Intake(KOLLACAST.codec(0, _ENGINE), 16)
        self.receiver = MulticastReceiver(self.clock, intake, lambda: None, _GUARD)
        self.receiver.transport = self.port  # type: ignore[assignment]
        self.receiver.startProtocol()

    def look(self, datagrams: int) -> None:
        """So many datagrams have come when it is time for the next look."""
        self.waiting += [b"no packet"] * datagrams
        self.clock.advance(self.receiver.gather_s)

    def test_it_looks_without_being_woken_as_long_as_something_comes(self) -> None:
        self.waiting.append(b"no packet")
        self.receiver.readable()
        for _ in range(3):
            self.assertFalse(self.port.is_woken)
            self.look(2)
            self.assertEqual(self.waiting, [])
        self.look(0)
        self.assertTrue(self.port.is_woken)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_reactor_gets_its_turn_when_much_has_come(self) -> None:
        self.receiver.readable()
        self.look(100)
        self.assertTrue(self.waiting)
        self.assertTrue(self.port.is_woken)
        while self.port.is_woken:
            self.receiver.readable()
        self.assertEqual(self.waiting, [])

    def looks_after(self, seconds: float) -> None:
        """The next look is due then, and not before."""
        self.waiting += [b"no packet"]
        self.receiver.readable()
        self.waiting += [b"no packet"]
        self.clock.advance(seconds - 0.0001)
        self.assertEqual(len(self.waiting), 1)
        self.clock.advance(0.0002)
        self.assertEqual(len(self.waiting), 0)
        self.look(0)

    def test_how_often_it_looks_is_asked_for_and_has_bounds(self) -> None:
        self.looks_after(0.050)
        for asked, given in ((0.01, 0.01), (0.0, 0.001), (-1.0, 0.001), (3600.0, 0.050)):
            self.receiver.look_every(asked)
            self.looks_after(given)

    def test_where_the_kernel_holds_less_it_looks_more_often(self) -> None:
        self.receiver.holds_less()
        self.looks_after(0.003)
        for asked, given in ((0.002, 0.002), (0.0, 0.001), (3600.0, 0.003)):
            self.receiver.look_every(asked)
            self.looks_after(given)

    def test_a_port_that_closes_looks_no_more(self) -> None:
        self.receiver.readable()
        self.receiver.stopProtocol()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class Vectors(unittest.SynchronousTestCase):
    def test_runs_out_and_in(self) -> None:
        """Two whole runs and a shorter one whose last packet is short, by one call and by three."""
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        ):
            if not segments.available(here):
                raise unittest.SkipTest("this system's libc has no sendmmsg")
            there.bind((_LOOPBACK, 0))
            there.setsockopt(SOL_UDP, UDP_GRO, 1)
            sent, came = PacketBuffer(16, 12), PacketBuffer(16, 12)
            for size in (190, 192):  # the buffer's second life ends with a full packet
                sent.payload[:] = random.Random(size).randbytes(192)
                sent.announce(1, 0, size)
                sender = segments.SegmentSender(here, there.getsockname())
                self.assertEqual(sender.send(sent, 1, 11, 4), 11)
                receiver = segments.SegmentReceiver(there)
                self.assertEqual(receiver.receive(came, 0, 12), (4 * 28, 28))
                self.assertEqual(receiver.receive(came, 4, 8), (4 * 28, 28))
                self.assertEqual(receiver.receive(came, 8, 4), (3 * 28 - (192 - size), 28))
                self.assertEqual(came.payload[: size - 16], sent.payload[16:size])
                with self.assertRaises(BlockingIOError):
                    receiver.receive(came, 0, 12)

    def test_what_is_no_run(self) -> None:
        """A single packet is not cut; what is empty or longer than its slots counts for nothing."""
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        ):
            if not segments.available(here):
                raise unittest.SkipTest("this system's libc has no sendmmsg")
            there.bind((_LOOPBACK, 0))
            buffer = PacketBuffer(16, 4)
            buffer.announce(1, 0, 64)
            self.assertEqual(
                segments.SegmentSender(here, there.getsockname()).send(buffer, 3, 1, 4), 1
            )
            here.sendto(b"", there.getsockname())
            here.sendto(bytes(57), there.getsockname())
            receiver = segments.SegmentReceiver(there)
            self.assertEqual(receiver.receive(buffer, 0, 2), (28, 28))
            self.assertEqual(receiver.receive(buffer, 0, 2), (0, 0))
            self.assertEqual(receiver.receive(buffer, 0, 2), (0, 0))
        self.assertFalse(segments.available(object()))

    def test_a_call_that_fails_says_why(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            if not segments.available(here):
                raise unittest.SkipTest("this system's libc has no sendmmsg")
            buffer = PacketBuffer(16, 4)
            buffer.announce(1, 0, 64)
            sender = segments.SegmentSender(here, (_LOOPBACK, 9))
            receiver = segments.SegmentReceiver(here)
        for call in (lambda: sender.send(buffer, 0, 4, 4), lambda: receiver.receive(buffer, 0, 4)):
            with self.assertRaises(OSError) as caught:
                call()
            self.assertEqual(caught.exception.errno, errno.EBADF)

    def test_recvmmsg_says_when_nothing_waits(self) -> None:
        if not frames.available():
            raise unittest.SkipTest("this system's libc has no recvmmsg")
        buffer = PacketBuffer(16, 8)
        buffer.init(BufferCtl(1, 128, 0, 8))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as idle:
            idle.bind((_LOOPBACK, 0))
            with self.assertRaises(BlockingIOError):
                frames.receive(idle.fileno(), buffer, 0, 8)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                for size in (28, 12, 0, 100):
                    other.sendto(bytes(size), idle.getsockname())
            self.assertEqual(frames.receive(idle.fileno(), buffer, 2, 3), [28, 12, 0])
            self.assertEqual(frames.receive(idle.fileno(), buffer, 2, 6), [28])
        with self.assertRaises(OSError):
            frames.receive(-1, buffer, 0, 8)
