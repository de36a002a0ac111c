"""The client's cycle: every phase against a server that is driven by hand, message by message."""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from weakref import WeakSet

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.logger import capturedLogs, formatEvent

from kollacast.client.attempt import GREETING_TIMEOUT_S
from kollacast.operator.outcome import Outcome, Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.receiving import output, reception
from kollacast.repair.xor import combine
from kollacast.wire.dialect import JASMINE, KOLLACAST
from kollacast.wire.greeting import MAGIC, PROTOCOL_VERSION, Hello, Refusal, encode_json
from kollacast.wire.messages import (
    BufferCtl,
    Control,
    Credit,
    Detach,
    Packet,
    Repaired,
    Report,
    Request,
    Sent,
)
from kollacast.wire.parity import ParityRun, orders, places
from kollacast.wire.recipes import parity_seq
from kollacast.wire.structures import MAX_JSON_SIZE
from tests.simulation.image import MemorySink
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawServer
from tests.simulation.runs import ClientRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY, GROUP, MTU, PORT, SERVER_IP
from tests.simulation.testcase import MemoryTestCase

_BUFFER = BUFFER_PACKETS * CAPACITY
#: Two buffers, the second of them with two packets, the last one short.
_IMAGE = bytes(i * 11 % 253 for i in range(_BUFFER + CAPACITY + 5))
_DIGEST = hashlib.sha256(_IMAGE).digest()
_SERVER = f"{SERVER_IP} port {PORT}"


def _payload(seq: int) -> bytes:
    """Packet ``seq`` of the image."""
    return _IMAGE[seq * CAPACITY : (seq + 1) * CAPACITY]


class _ClientTestCase(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def assert_failed(self, client: ClientRun, line: str, limit_s: float = 5.0) -> Outcome:
        """The run ends soon, with this line, and leaves nothing behind."""
        outcome = client.finish(limit_s)
        self.assertEqual((outcome.line, outcome.status), (line, Status.FAILED))
        self.assertEqual((client.sink.is_committed, client.sink.is_abandoned), (False, True))
        self.assertFalse(outcome.report["ok"])
        self.assertEqual(outcome.report["reason"], line)
        self.close_server()
        self.assert_all_gone(self.network)
        return outcome

    def assert_whole(self, client: ClientRun, image: bytes = _IMAGE) -> Outcome:
        outcome = client.finish(5.0)
        self.assertEqual(outcome.status, Status.OK, outcome.line)
        self.assertEqual(client.sink.data, image)
        self.assertEqual((client.sink.is_committed, client.sink.is_abandoned), (True, False))
        self.assertTrue(outcome.report["ok"])
        self.assertIsNone(outcome.report["reason"])
        self.close_server()
        self.assert_all_gone(self.network)
        return outcome

    def close_server(self) -> None:
        """End what the test itself has opened."""
        for listener in list(self.network.host(SERVER_IP).listeners.values()):
            listener.stopListening()
        for transport in self.network.transports:
            if transport.host.address == SERVER_IP:
                transport.abortConnection()

    def meet(self, **options: Any) -> tuple[RawServer, ClientRun]:
        """A client that has connected and heard nothing yet."""
        server = self.network.raw_server()
        client = self.network.join(**options)
        self.network.settle()
        return server, client

    def greeted(self, **options: Any) -> tuple[RawServer, ClientRun]:
        """A client that is in."""
        server, client = self.meet(**options)
        server.greet()
        return server, client

    def multicast(self, server: RawServer, *seqs: int) -> None:
        server.multicast(*(server.packet(seq, _payload(seq)) for seq in seqs))

    def bring(self, server: RawServer, until: int = 5) -> None:
        """The image, as far as step ``until``."""
        steps: list[Callable[[], None]] = [
            lambda: server.announce(1, _BUFFER, 0, BUFFER_PACKETS),
            lambda: (self.multicast(server, 0, 1, 2, 3), server.sent())[1],
            lambda: server.announce(2, len(_IMAGE) - _BUFFER, 4, 2),
            lambda: (self.multicast(server, 4, 5), server.sent())[1],
            lambda: server.announce(3, 0, 6, 0),
            lambda: server.sent(),
        ]
        for step in steps[: until + 1]:
            step()

    def told(self, server: RawServer) -> dict[str, Any]:
        """The client's report, which is its last word."""
        message = server.client.heard[-1]
        assert isinstance(message, Report), message
        return message.fields


class ConnectTests(_ClientTestCase):
    """Until there is a server."""

    def test_it_keeps_trying_until_the_server_is_up(self) -> None:
        client = self.network.join(connect_timeout_s=60.0)
        self.network.run_for(45.0)
        self.assertIsNone(client.outcome)
        self.assertEqual(client.phase, "connecting")
        server = self.network.raw_server()
        self.network.run_for(1.0)
        self.assertEqual(len(server.connections), 1)
        server.greet()
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_nobody_is_there(self) -> None:
        client = self.network.join(connect_timeout_s=20.0)
        self.network.run_for(18.0)
        self.assertIsNone(client.outcome)
        self.assert_failed(client, f"no server at {_SERVER} within 20 s: Connection refused", 2.5)

    def test_a_connect_timeout_of_nothing_is_one_attempt(self) -> None:
        client = self.network.join(connect_timeout_s=0.0)
        self.assert_failed(client, f"no server at {_SERVER} within 0 s: Connection refused", 0.5)

    def test_the_host_does_not_answer(self) -> None:
        self.network.host(SERVER_IP).vanish()
        client = self.network.join(connect_timeout_s=25.0)
        line = "it does not answer; check its address, and that its firewall lets in TCP"
        self.assert_failed(client, f"no server at {_SERVER} within 25 s: {line}", 25.5)

    def test_the_name_is_of_no_host(self) -> None:
        self.network.host("10.0.1.1").unknown_names.add("installer")
        client = self.network.join(server_ip="installer", connect_timeout_s=3.0)
        self.assert_failed(
            client,
            f"no server at installer port {PORT} within 3 s: no host has this name",
        )

    def test_the_name_is_no_name(self) -> None:
        """It looks like one; there is no use in trying again."""
        client = self.network.join(server_ip="xn--.lan", connect_timeout_s=3.0)
        self.assert_failed(
            client, f"no server at xn--.lan port {PORT} within 3 s: invalid hostname: xn--.lan", 0.5
        )

    def test_what_answers_says_nothing(self) -> None:
        for timeout_s, waits_s in ((30.0, 30), (3.0, 10)):
            self.network = Network()
            _, client = self.meet(connect_timeout_s=timeout_s)
            self.network.run_for(waits_s - 1.0)
            self.assertIsNone(client.outcome)
            outcome = self.assert_failed(
                client,
                f"what answers at {_SERVER} has not said a word within {waits_s} s: it is a"
                " jasmine server in the middle of another session, or hangs, or is no kollacast"
                " server",
                1.1,
            )
            self.assertEqual(outcome.status, Status.FAILED)

    def test_a_jasmine_server_in_the_middle_of_another_session(self) -> None:
        """Who comes waits in its backlog, is reset at the end, and may find the next one."""
        server, client = self.meet(connect_timeout_s=60.0)
        self.network.run_for(GREETING_TIMEOUT_S + 15.0)
        self.assertIsNone(client.outcome)
        server.client.transport.reset()
        self.network.run_for(1.0)
        self.assertEqual(len(server.connections), 2)
        server.greet()
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_a_jasmine_server_that_was_in_the_middle_of_its_only_session(self) -> None:
        server, client = self.meet(connect_timeout_s=60.0, failsafe="10.0.0.9:4000")
        self.network.run_for(GREETING_TIMEOUT_S + 15.0)
        server.client.transport.reset()
        self.network.host(SERVER_IP).listeners.clear()
        outcome = client.finish(limit_s=36.0)
        self.assertEqual(outcome.status, Status.FAILSAFE)
        self.assertIn(f"no server at {_SERVER} within 60 s: Connection refused", outcome.line)

    def test_what_answers_does_not_end_its_greeting(self) -> None:
        for start in (b"K", b"\x02\0\x47\xcf", MAGIC + b"\0\0\0\x09{}"):
            self.network = Network()
            server, client = self.meet()
            server.send(start)
            self.assert_failed(
                client,
                f"what answers at {_SERVER} is no kollacast server:"
                f" it has not greeted within {GREETING_TIMEOUT_S:g} s",
                GREETING_TIMEOUT_S,
            )

    def test_what_answers_is_something_else(self) -> None:
        for banner in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\0\0\0\0",
        ):
            self.network = Network()
            server, client = self.meet()
            server.send(banner)
            self.assert_failed(
                client, f"{_SERVER}: what answers there is no kollacast or jasmine server"
            )

    def test_what_answers_closes_at_once(self) -> None:
        server = self.network.raw_server()
        server.closes_at_once = True
        client = self.network.join(connect_timeout_s=20.0)
        self.network.run_for(18.0)
        self.assertIsNone(client.outcome)
        self.assert_failed(
            client,
            f"no server at {_SERVER} within 20 s: what answers there closes the connection",
        )

    def test_a_server_that_is_about_to_end_makes_way_for_the_next(self) -> None:
        server = self.network.raw_server()
        server.closes_at_once = True
        client = self.network.join()
        self.network.run_for(3.0)
        server.closes_at_once = False
        self.network.run_for(1.0)
        server.greet()
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_the_connection_breaks_before_the_greeting(self) -> None:
        server, client = self.meet()
        server.client.transport.reset()
        self.network.run_for(1.0)
        self.assertEqual(len(server.connections), 2)
        server.greet()
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)


class GreetingTests(_ClientTestCase):
    """What the server opens with, and what the client answers."""

    def test_the_hello(self) -> None:
        server, client = self.greeted(name="node-17")
        self.assertEqual(
            server.client.heard,
            [Hello("node-17", 64 * 1024 * 1024 // CAPACITY, coding=False, room=2)],
        )
        self.assertEqual(client.phase, "waiting for the others")
        (port,) = self.network.ports
        self.assertEqual((port.host.address, port.group), ("10.0.1.1", (GROUP, PORT)))

    def test_a_refusal(self) -> None:
        server, client = self.meet()
        server.send(Refusal("all 3 clients are here already").encode())
        self.assert_failed(client, "the server refuses this client: all 3 clients are here already")

    def test_a_refusal_is_one_clean_line(self) -> None:
        server, client = self.meet()
        server.send(Refusal("no\n\x1b[2J").encode())
        self.assert_failed(client, "the server refuses this client: no??[2J")

    def test_greetings_that_make_no_sense(self) -> None:
        good = {
            "version": PROTOCOL_VERSION,
            "session": "s",
            "salt": 1,
            "group": GROUP,
            "port": PORT,
            "mtu": 1500,
            "buffer_packets": 4,
            "window": 2,
            "digest": "sha256",
        }
        for change, complaint in (
            ({"version": 1}, "the peer speaks version 1, this is version 2"),
            ({"mtu": 67}, "the peer's mtu 67 holds no packet"),
            ({"group": "10.0.0.1"}, "the peer's group 10.0.0.1 is not a multicast address"),
            ({"window": 0}, "the peer's window is not a number from 1 to 64"),
            ({"port": "x"}, "the peer's port is not a number from 1 to 65535"),
        ):
            self.network = Network()
            server, client = self.meet()
            server.send(MAGIC + encode_json({**good, **change}))
            self.assert_failed(client, f"{_SERVER}: {complaint}")
        for text, complaint in (
            (b"\0\0\0\x01{", "the peer's JSON cannot be read"),
            (
                b"\xff\xff\xff\xff",
                f"{0xFFFFFFFF} bytes of JSON are announced, {MAX_JSON_SIZE} is the limit",
            ),
        ):
            self.network = Network()
            server, client = self.meet()
            server.send(MAGIC + text)
            self.assert_failed(client, f"{_SERVER}: {complaint}")

    def test_later_features_are_ignored(self) -> None:
        server, client = self.meet()
        greeting = {
            "version": PROTOCOL_VERSION,
            "salt": server.salt,
            "group": GROUP,
            "port": PORT,
            "mtu": MTU,
            "buffer_packets": BUFFER_PACKETS,
            "window": 2,
            "digest": "sha256",
            "flavour": ["new"],
        }
        server.send(MAGIC + encode_json(greeting))
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_a_digest_that_is_not_installed(self) -> None:
        server, client = self.meet()
        server.greet(digest="md6")
        line = "the image is proved by md6, which is not known here"
        self.assert_failed(client, line)
        self.assertIsInstance(server.client.heard[0], Hello)
        self.assertEqual(self.told(server)["reason"], line)

    def test_a_group_that_cannot_be_received(self) -> None:
        """It goes on by TCP: outside the barrier where it can, by repairs where it cannot."""
        in_use = OSError(errno.EADDRINUSE, "Address already in use")
        no_room = OSError(errno.ENOBUFS, "No buffer space available")
        for error, text in (
            (OSError(errno.ENODEV, "No such device"), "No such device: "),
            (CannotListenError(GROUP, PORT, in_use), "in use: another program has this UDP port"),
            (no_room, "net.ipv4.igmp_max_memberships"),
        ):
            for fetch in (True, False):
                self.network = Network()
                self.network.host("10.0.1.1").port_error = error
                with capturedLogs() as events:
                    server, client = self.meet()
                    server.greet(fetch=fetch, image="ab")
                said = [formatEvent(event) for event in events]
                (line,) = (line for line in said if "cannot receive group" in line)
                self.assertIn(text, line)
                self.assertIn("Going on by TCP", line)
                self.assertIsNone(client.outcome)
                told = [type(message) for message in server.client.heard]
                self.assertEqual(told, [Hello, Detach] if fetch else [Hello])
                if not fetch:
                    self.assert_brought_by_tcp(server, client)

    def test_the_group_is_joined_for_what_the_server_sends(self) -> None:
        for any_source, named, joined in (
            (False, SERVER_IP, SERVER_IP),
            (False, "10.9.9.9", "10.9.9.9"),
            (False, None, None),
            (True, SERVER_IP, None),
        ):
            server, client = self.meet(any_source=any_source)
            server.greet(source=named)
            self.network.settle()
            [port] = self.network.ports
            self.assertEqual(port.source, joined)
            client.client.interrupt("enough")
            client.finish()
            self.close_server()

    def assert_brought_by_tcp(self, server: RawServer, client: ClientRun) -> None:
        """In step with the others, and all of it by repairs."""
        for number, (size, base, count) in enumerate(
            ((_BUFFER, 0, BUFFER_PACKETS), (len(_IMAGE) - _BUFFER, BUFFER_PACKETS, 2)), 1
        ):
            server.announce(number, size, base, count)
            server.sent()
            seqs = range(base, base + count)
            self.assertEqual(server.client.heard[-1], Request(tuple(seqs)))
            for seq in seqs:
                server.repair(seq, _payload(seq))
        server.announce(3, 0, BUFFER_PACKETS + 2, 0)
        server.sent()
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_the_largest_buffers_are_cut_to_what_the_client_holds(self) -> None:
        server, client = self.meet()
        with capturedLogs() as events:
            server.greet(mtu=65535, buffer_packets=65536, window=64)
        told = "buffers of 1024 packets are the most for here"
        self.assertIn(told, [formatEvent(event) for event in events])
        (hello,) = server.client.heard
        assert isinstance(hello, Hello)
        self.assertEqual(hello.packets, 64 * 1024 * 1024 // 65492)
        self.assertIsNone(client.outcome)
        server.announce(1, 65492 * (hello.packets + 1), 0, hello.packets + 1)
        self.assert_failed(
            client,
            f"{_SERVER}: a buffer of {hello.packets + 1} packets is announced,"
            f" {hello.packets} is the limit",
        )


class ReceiveTests(_ClientTestCase):
    """From the first announcement to the report."""

    def test_every_answer_in_its_place(self) -> None:
        server, client = self.greeted()
        heard = server.client.heard
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        self.assertEqual(heard[1:], [])
        self.assertEqual(client.phase, "receiving")
        self.multicast(server, 0, 1, 2, 3)
        self.assertEqual(heard[1:], [])
        self.assertEqual(client.sink.data, _IMAGE[:_BUFFER])
        server.sent()
        self.assertEqual(heard[1:], [Credit(1, 3)])
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.multicast(server, 4)
        server.sent()
        self.assertEqual(heard[2:], [Request((5,))])
        server.repair(5, _payload(5))
        self.assertEqual(heard[3:], [Credit(2, 4, 1, 1)])
        self.assertEqual(client.account.copy.tally.repaired, 1)
        server.announce(3, 0, 6, 0)
        self.assertEqual(heard[4:], [])
        server.sent()
        self.assertEqual(heard[4:], [Credit(3, 5)])
        self.assertEqual(client.phase, "verifying")
        self.assertFalse(client.sink.is_committed)
        server.digest(_DIGEST)
        outcome = self.assert_whole(client)
        report = self.told(server)
        self.assertEqual(report["ok"], True)
        for told in (report, outcome.report):
            self.assertEqual(told["bytes"], len(_IMAGE))
            self.assertEqual((told["packets_multicast"], told["packets_repaired"]), (5, 1))
            self.assertEqual(told["sha256"], _DIGEST.hex())
        self.assertIn(f"{len(_IMAGE)} bytes", outcome.line)
        self.assertIn("1 packets repaired", outcome.line)
        self.assertIn(_DIGEST.hex(), outcome.line)

    def test_every_byte_on_its_own(self) -> None:
        self.network.chunk_bytes = 1
        server, client = self.greeted()
        self.bring(server, until=0)
        self.multicast(server, 0, 2)
        server.sent()
        server.repair(1, _payload(1))
        server.repair(3, _payload(3))
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.multicast(server, 4, 5)
        server.sent()
        server.announce(3, 0, 6, 0)
        server.sent()
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_an_empty_image(self) -> None:
        server, client = self.greeted()
        server.announce(1, 0, 0, 0)
        server.sent()
        server.digest(hashlib.sha256().digest())
        self.assert_whole(client, b"")

    def test_the_second_buffer_may_be_whole_before_the_first(self) -> None:
        server, client = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.assertEqual(server.client.heard[1:], [])
        self.multicast(server, 0, 1, 3)
        server.sent()
        self.multicast(server, 4, 5)
        server.sent()
        self.assertEqual(server.client.heard[1:], [Request((2,))])
        self.assertEqual(client.sink.data, b"")
        server.repair(2, _payload(2))
        self.assertEqual(server.client.heard[2:], [Credit(1, 3, 1, 1), Credit(2, 4)])
        self.assertEqual(client.sink.data, _IMAGE)

    def test_datagrams_in_any_order_and_twice(self) -> None:
        for reads in ("coalesced", "frames", "plain"):
            self.network = Network()
            server, client = self.greeted(reads=reads)
            server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
            server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
            self.multicast(server, 5, 3, 3, 0)
            self.multicast(server, 4, 0, 2, 1, 1)
            server.sent()
            server.sent()
            self.assertEqual(server.client.heard[-1], Credit(2, 4))
            server.announce(3, 0, 6, 0)
            server.sent()
            server.digest(_DIGEST)
            outcome = self.assert_whole(client)
            self.assertEqual(outcome.report["packets_repaired"], 0)
            self.assertEqual(outcome.report["packets_multicast"], 6)

    def test_datagrams_that_wait_in_the_socket_are_not_asked_for(self) -> None:
        """SENT overtakes them where the client has not read yet."""
        server, _ = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        for seq in range(BUFFER_PACKETS):
            self.network.multicast(server.group, server.packet(seq, _payload(seq)))
        (port,) = self.network.ports
        port.stopReading()
        server.sent()
        self.assertEqual(server.client.heard[1:], [Credit(1, 3)])

    def test_datagrams_that_come_before_they_are_announced(self) -> None:
        """The hello has granted room for them, and TCP may be slower."""
        server, client = self.greeted()
        self.multicast(server, 0, 1, 2, 3)
        self.network.run_for(1.0)
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.sent()
        self.assertEqual(server.client.heard[1:], [Credit(1, 3)])
        self.assertEqual(client.sink.data, _IMAGE[:_BUFFER])
        self.assertEqual(client.account.copy.tally.repeated, 0)

    def test_late_datagrams_make_the_answers_needless(self) -> None:
        server, client = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.sent()
        self.assertEqual(server.client.heard[1:], [Request((0, 1, 2, 3))])
        self.multicast(server, 0, 1, 2, 3)
        self.assertEqual(server.client.heard[2:], [Credit(1, 3, 4, 1)])
        for seq in range(BUFFER_PACKETS):
            server.repair(seq, _payload(seq))
        self.assertIsNone(client.outcome)
        self.assertEqual(client.account.copy.tally.repaired, 0)

    def test_done_waits_for_the_disk(self) -> None:
        server, client = self.greeted(threads=True)
        client.threads["disk"].held = True
        self.bring(server, until=1)
        self.assertEqual(server.client.heard[1:], [])
        client.threads["disk"].release()
        self.network.settle()
        self.assertEqual(server.client.heard[1:], [Credit(1, 3)])

    def test_done_waits_for_the_digest_thread(self) -> None:
        """A buffer that is still read must not be filled again."""
        server, client = self.greeted(threads=True)
        client.threads["digest"].held = True
        self.bring(server, until=1)
        self.assertEqual(server.client.heard[1:], [])
        client.threads["digest"].release()
        self.network.settle()
        self.assertEqual(server.client.heard[1:], [Credit(1, 3)])

    def test_memory_goes_back_once_no_buffer_follows(self) -> None:
        alive: WeakSet[PacketBuffer] = WeakSet()

        class Counted(PacketBuffer):
            def __init__(self, capacity: int, max_packets: int) -> None:
                super().__init__(capacity, max_packets)
                alive.add(self)

        self.patch(reception, "PacketBuffer", Counted)
        server, client = self.greeted()
        self.bring(server, until=1)
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.assertEqual(len(alive), 1)
        server.announce(3, 0, 6, 0)
        self.multicast(server, 4, 5)
        server.sent()
        self.assertEqual(server.client.heard[-1], Credit(2, 4))
        self.assertEqual(len(alive), 0)
        server.sent()
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_no_memory_for_a_whole_window(self) -> None:
        """Those that there are go round: what comes too early is lost, and less is granted."""
        made = 0

        def make(capacity: int, packets: int) -> PacketBuffer:
            nonlocal made
            made += 1
            if made > 1:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            return PacketBuffer(capacity, packets)

        self.patch(reception, "PacketBuffer", make)
        server, client = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.assertEqual(server.client.heard[1:], [])
        self.multicast(server, 4)
        self.multicast(server, 0, 1, 2, 3)
        self.multicast(server, 5)
        server.sent()
        self.assertEqual(server.client.heard[1:], [Credit(1, 2)])
        server.sent()
        self.assertEqual(server.client.heard[2:], [Request((4, 5))])
        server.repair(4, _payload(4))
        server.repair(5, _payload(5))
        self.assertEqual(server.client.heard[3:], [Credit(2, 3, 2, 1)])
        server.announce(3, 0, 6, 0)
        server.sent()
        server.digest(_DIGEST)
        self.assert_whole(client)

    def test_done_waits_for_sent(self) -> None:
        server, _ = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        self.multicast(server, 0, 1, 2, 3)
        self.network.run_for(10.0)
        self.assertEqual(server.client.heard[1:], [])

    def test_a_damaged_answer_is_asked_for_again(self) -> None:
        server, _ = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        self.multicast(server, 0, 1, 2)
        server.sent()
        server.send(b"\x20" + server.packet(3, _payload(3))[:-1] + b"!")
        self.assertEqual(server.client.heard[1:], [Request((3,)), Request((3,))])
        server.repair(3, _payload(3))
        self.assertEqual(server.client.heard[3:], [Credit(1, 3, 1, 1)])

    def test_answers_that_are_always_damaged(self) -> None:
        server, client = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.sent()
        for _ in range(17):
            server.send(b"\x20" + server.packet(3, _payload(3))[:-1] + b"!")
        self.assert_failed(client, f"{_SERVER}: the server's retransmissions are damaged")


class ParityTests(_ClientTestCase):
    """Packets 1 and 2 of the first buffer are lost, and parity of it has come."""

    def setUp(self) -> None:
        super().setUp()
        self.server, self.client = self.greeted()
        self.bring(self.server, until=0)
        self.multicast(self.server, 0, 3)
        self.server.sent()
        self.heard = self.server.client.heard
        self.assertEqual(self.heard.pop(), Request((1, 2)))

    def run_with(self, *sums: set[int]) -> Repaired:
        """Multicast a run of which these rows come through, and no others."""
        run = next(run for run in self.runs() if all(row in self.rows(run) for row in sums))
        rows = self.rows(run)
        for wanted in sums:
            payloads = [memoryview(_payload(seq)) for seq in wanted]
            seq = run.seqs[rows.index(wanted)]
            self.server.multicast(self.server.packet(seq, combine(payloads, CAPACITY)))
        return Repaired(1, run.first, run.count, run.layers)

    def runs(self) -> Iterator[ParityRun]:
        return (ParityRun(parity_seq(number), 3, 3) for number in itertools.count())

    def rows(self, run: ParityRun) -> list[set[int]]:
        """Of which packets each of its packets is."""
        rows: list[set[int]] = [set() for _ in range(run.count)]
        for order in orders(run, BUFFER_PACKETS):
            for index, row in enumerate(rows):
                for slot in order[places(run, BUFFER_PACKETS, index)]:
                    row ^= {slot} & set(range(BUFFER_PACKETS))
        return rows

    def say(self, told: Repaired) -> None:
        self.server.tell(told)
        self.network.settle()

    def end(self) -> None:
        self.server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.multicast(self.server, 4, 5)
        self.server.sent()
        self.server.announce(3, 0, 6, 0)
        self.server.sent()
        self.server.digest(_DIGEST)
        self.assert_whole(self.client)

    def test_it_mends_all(self) -> None:
        self.say(self.run_with({0, 1, 2, 3}, {2, 3}))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.end()
        report = self.told(self.server)
        self.assertEqual((report["packets_multicast"], report["packets_decoded"]), (4, 2))

    def test_it_mends_one_of_two(self) -> None:
        self.say(self.run_with({0, 1}))
        self.assertEqual(self.heard.pop(), Request((2,)))
        self.server.repair(2, _payload(2))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.end()

    def test_one_packet_by_tcp_tells_the_other(self) -> None:
        self.say(self.run_with({1, 2}))
        request = self.heard.pop()
        assert isinstance(request, Request)
        (seq,) = request.seqs
        self.server.repair(seq, b"x" * CAPACITY)  # its sum is right: it is believed
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.assertEqual(self.client.account.copy.tally.decoded, 1)
        self.assertEqual(self.client.account.copy.tally.retransmitted, 1)

    def test_a_damaged_packet_by_tcp_tells_nothing(self) -> None:
        self.say(self.run_with({1, 2}))
        request = self.heard.pop()
        assert isinstance(request, Request)
        (seq,) = request.seqs
        self.server.send(Packet(seq, 0, _payload(seq)).encode(KOLLACAST))
        self.assertEqual(self.heard.pop(), request)
        self.server.repair(seq, _payload(seq))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.end()

    def test_a_second_run_completes_it(self) -> None:
        self.say(self.run_with({1, 2}))
        self.heard.pop()
        self.say(self.run_with({1, 3}))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.end()

    def test_nothing_of_it_has_come(self) -> None:
        self.say(Repaired(1, parity_seq(100), 4, 4))
        self.assertEqual(self.heard.pop(), Request((1, 2)))
        for seq in (1, 2):
            self.server.repair(seq, _payload(seq))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.end()

    def test_late_datagrams_bring_what_is_being_solved_for(self) -> None:
        told = self.run_with({0, 1, 2, 3}, {2, 3})
        self.server.client.transport.write(self.server.told(told))
        for seq in (1, 2):
            self.network.multicast(self.server.group, self.server.packet(seq, _payload(seq)))
        self.network.settle()
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.assertEqual(self.client.account.copy.tally.repeated, 0)
        self.end()

    def test_of_a_buffer_that_is_whole_or_is_none(self) -> None:
        before = list(self.heard)
        self.say(Repaired(7, parity_seq(0), 4, 4))
        self.assertEqual(self.heard, before)
        for seq in (1, 2):
            self.server.repair(seq, _payload(seq))
        self.assertEqual(self.heard.pop(), Credit(1, 3, 2, 1))
        self.say(Repaired(1, parity_seq(0), 4, 4))
        self.end()

    def test_of_the_end(self) -> None:
        for seq in (1, 2):
            self.server.repair(seq, _payload(seq))
        self.server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.multicast(self.server, 4, 5)
        self.server.sent()
        self.server.announce(3, 0, 6, 0)
        self.say(Repaired(3, parity_seq(0), 4, 5))
        self.server.sent()
        self.say(Repaired(3, parity_seq(0), 4, 5))
        self.server.digest(_DIGEST)
        self.assert_whole(self.client)


class CatchingUpTests(_ClientTestCase):
    """Much of the control stream is heard at once."""

    def test_a_buffer_ends_while_parity_of_the_next_is_looked_for(self) -> None:
        """All of the first has come, one packet of the second is lost, and all of its parity."""
        server, client = self.greeted()
        server.announce(1, _BUFFER, 0, BUFFER_PACKETS)
        server.announce(2, len(_IMAGE) - _BUFFER, 4, 2)
        self.multicast(server, 0, 1, 2, 3, 4)
        server.send(server.told(Sent(1, 4), Sent(2, 2), Repaired(2, parity_seq(0), 1, 2)))
        self.network.settle()
        self.assertEqual(server.client.heard[1:], [Credit(1, 3), Request((5,))])
        server.repair(5, _payload(5))
        self.assertEqual(server.client.heard[3:], [Credit(2, 4, 1, 1)])
        server.tell(BufferCtl(3, 0, 6, 0))
        server.tell(Sent(3, 0))
        server.digest(_DIGEST)
        self.assert_whole(client)


class OffenceTests(_ClientTestCase):
    """A server that breaks the protocol: one line, and no image."""

    def _offend(self, until: int, offence: Callable[[RawServer], object], line: str) -> None:
        self.network = Network()
        server, client = self.greeted()
        self.bring(server, until)
        offence(server)
        self.assert_failed(client, f"{_SERVER}: {line}")
        self.assertEqual(self.told(server)["reason"], f"{_SERVER}: {line}")

    def test_an_unknown_message(self) -> None:
        self._offend(
            1,
            lambda server: server.send(b"\xee"),
            "no message of a server begins with the byte 0xee",
        )

    def test_sent_for_nothing(self) -> None:
        line = "SENT for a buffer that was not announced or is not ready"
        self._offend(1, RawServer.sent, line)

    def test_announcements_that_cannot_be(self) -> None:
        for ctl, line in (
            ((2, _BUFFER, 3, 4), "a buffer is announced that begins with seq 3"),
            ((2, _BUFFER, 5, 4), "a buffer is announced that begins with seq 5"),
            ((2, 9 * CAPACITY, 4, 9), "a buffer of 9 packets is announced, 4 is the limit"),
            (
                (2, 2 * CAPACITY + 1, 4, 2),
                f"a buffer of 2 packets cannot hold {2 * CAPACITY + 1} bytes",
            ),
            ((2, 1, 4, 2), "a buffer of 2 packets cannot hold 1 bytes"),
            ((2, 1, 4, 0), "a buffer of 0 packets cannot hold 1 bytes"),
            ((2, 56, 0x7FFFFFFF, 2), "a buffer reaches into the reserved seqs from 0x80000000 up"),
        ):
            self._offend(1, lambda server, ctl=ctl: server.announce(*ctl), line)  # type: ignore[misc]

    def test_parity_that_cannot_be(self) -> None:
        for told, line in (
            (
                Repaired(1, 0xA0000000, 3, 17),
                "repairs of 3 parity packets in 17 layers from 0xa0000000 on",
            ),
            (
                Repaired(1, 0xC0000000, 3, 4),
                "repairs of 3 parity packets in 4 layers from 0xc0000000 on",
            ),
        ):
            self._offend(
                0,
                lambda server, told=told: server.tell(told),  # type: ignore[misc]
                line,
            )

    def test_an_announcement_beyond_the_window(self) -> None:
        self._offend(
            0,
            lambda server: [server.announce(2 + i, 56, 4 + 2 * i, 2) for i in range(3)],
            "a buffer beyond the window of 2 is announced",
        )

    def test_an_announcement_after_the_end(self) -> None:
        self._offend(
            4,
            lambda server: server.announce(4, 28, 6, 1),
            "a buffer is announced that begins with seq 6",
        )

    def test_an_answer_that_is_too_large(self) -> None:
        self._offend(
            0,
            lambda server: server.repair(0, bytes(CAPACITY + 1)),
            f"a packet of {CAPACITY + 1} bytes, {CAPACITY} is the limit",
        )

    def test_an_answer_without_the_packet(self) -> None:
        self._offend(
            0,
            lambda server: server.repair(2, b""),
            "the server does not hold the packet 2 any more",
        )

    def test_a_digest_before_the_image(self) -> None:
        self._offend(
            -1,
            lambda server: server.digest(_DIGEST),
            "the digest comes before the image, or twice",
        )

    def test_a_part_of_the_control_stream_that_is_not_the_next(self) -> None:
        gap = Control(1, 5, ()).encode(KOLLACAST)
        self._offend(1, lambda server: server.send(gap), "a gap in the control stream")

    def test_a_report_without_end(self) -> None:
        self._offend(
            1,
            lambda server: server.send(b"\x80\0\x01\0\x01"),
            "65537 bytes of JSON are announced, 65536 is the limit",
        )

    def test_packets_that_do_not_add_up(self) -> None:
        server, client = self.greeted()
        server.announce(1, 50, 0, 2)
        server.multicast(server.packet(0, bytes(20)), server.packet(1, bytes(20)))
        self.assert_failed(client, "buffer 1 was announced with 50 bytes and came with 40")


class ProofTests(_ClientTestCase):
    """Nothing counts until the whole image is proved and on disk."""

    def test_a_digest_that_does_not_match(self) -> None:
        for threads in (False, True):
            self.network = Network()
            server, client = self.greeted(threads=threads)
            self.bring(server)
            other = bytes(32)
            server.digest(other)
            line = (
                f"the image is not the server's: its sha256 is {_DIGEST.hex()},"
                f" the server's {other.hex()}"
            )
            self.assert_failed(client, line)
            self.assertEqual(self.told(server)["ok"], False)
            self.assertEqual(self.told(server)["reason"], line)

    def test_a_digest_twice(self) -> None:
        server, client = self.greeted(threads=True)
        client.threads["digest"].held = True
        self.bring(server, until=3)
        client.threads["digest"].release()
        self.bring_end(server)
        client.threads["disk"].held = True
        server.digest(_DIGEST)
        server.digest(_DIGEST)
        client.threads["disk"].release()
        self.assert_failed(client, f"{_SERVER}: the digest comes before the image, or twice")

    def bring_end(self, server: RawServer) -> None:
        self.network.settle()
        server.announce(3, 0, 6, 0)
        server.sent()

    def test_a_digest_that_comes_before_the_last_repairs(self) -> None:
        """The server says it as soon as all is multicast."""
        server, client = self.greeted()
        self.bring(server, until=2)
        self.multicast(server, 4)
        server.sent()
        server.announce(3, 0, 6, 0)
        server.sent()
        server.digest(_DIGEST)
        self.assertEqual(server.client.heard[-1], Request((5,)))
        self.assertFalse(client.sink.is_committed)
        server.repair(5, _payload(5))
        self.assertEqual(server.client.heard[-2], Credit(3, 5))
        self.assertTrue(self.told(server)["ok"])
        self.assert_whole(client)

    def test_it_ends_when_the_server_has_read_the_report(self) -> None:
        server, client = self.greeted()
        server.client.closes = False
        self.bring(server)
        server.digest(_DIGEST)
        self.assertTrue(self.told(server)["ok"])
        self.network.run_for(2.0)
        self.assertIsNone(client.outcome)
        server.client.transport.loseConnection()
        self.network.settle()
        self.assertIsNotNone(client.outcome)
        self.assert_whole(client)

    def test_a_server_that_never_closes_is_not_waited_for(self) -> None:
        server, client = self.greeted()
        server.client.closes = False
        self.bring(server)
        server.digest(_DIGEST)
        self.network.run_for(4.0)
        self.assertIsNotNone(client.outcome)
        self.assert_whole(client)

    def test_the_report_waits_for_the_disk(self) -> None:
        server, client = self.greeted(threads=True)
        self.bring(server)
        client.threads["disk"].held = True
        server.digest(_DIGEST)
        self.network.run_for(30.0)
        self.assertIsNone(client.outcome)
        self.assertEqual(server.client.heard[-1], Credit(3, 5))
        client.threads["disk"].release()
        self.assert_whole(client)
        self.assertTrue(self.told(server)["ok"])


class SinkTests(_ClientTestCase):
    """A disk that is full, a pipe that nobody reads."""

    def _fails(self, sink: MemorySink, line: str, until: int = 5) -> None:
        for threads in (False, True):
            self.network = Network()
            sink.data, sink.is_abandoned = b"", False
            server, client = self.greeted(sink=sink, threads=threads)
            self.bring(server, until)
            if until == 5:
                server.digest(_DIGEST)
            self.assert_failed(client, line)
            self.assertEqual(self.told(server)["reason"], line)

    def test_the_disk_is_full_at_once(self) -> None:
        self._fails(MemorySink(room=0), "cannot write the image: No space left on device", until=1)

    def test_the_disk_runs_full(self) -> None:
        self._fails(
            MemorySink(room=_BUFFER), "cannot write the image: No space left on device", until=3
        )

    def test_the_disk_is_full_at_the_commit(self) -> None:
        error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        self._fails(
            MemorySink(commit_error=error), f"cannot write the image: {os.strerror(errno.EDQUOT)}"
        )

    def test_no_thread_for_the_digest(self) -> None:
        """The kernel has one for the disk, and no other."""
        server, client = self.greeted(threads=True)

        def refuse(function: object, *words: object) -> Deferred[None]:
            return fail(OSError(errno.EAGAIN, "can't start new thread"))

        client.threads["digest"].run = refuse  # type: ignore[assignment]
        self.bring(server, until=1)
        self.assert_failed(client, "cannot write the image: can't start new thread")

    def test_nobody_reads_the_pipe(self) -> None:
        self._fails(
            MemorySink(broken=True),
            "cannot write the image: nothing reads standard output any more",
            until=1,
        )


class EndTests(_ClientTestCase):
    """The server goes away, gives up, or the operator has had enough, in each phase."""

    def _phases(self, **options: Any) -> Iterator[tuple[str, RawServer, ClientRun]]:
        """A session for each phase, stopped there, in a network of its own: `self.network`."""
        for name, until in (
            ("greeted", -1),
            ("announced", 0),
            ("between buffers", 1),
            ("at the end", 5),
        ):
            yield name, *self._at(until, **options)
        server, client = self._at(0, **options)
        self.multicast(server, 2)
        yield "receiving", server, client
        server, client = self._at(0, **options)
        server.sent()
        yield "repairing", server, client
        server, client = self._at(0, **options)
        server.sent()
        server.repair(1, _payload(1))
        server.send(b"\x20" + server.packet(2, _payload(2))[:20])
        yield "in the middle of a repair", server, client
        server, client = self._at(0, threads=True, **options)
        client.threads["disk"].held = True
        self.multicast(server, 0, 1, 2, 3)
        yield "flushing", server, client

    def _phases_begun(self) -> Iterator[tuple[str, RawServer, ClientRun]]:
        """Those in which a buffer has been announced, or more."""
        return itertools.islice(self._phases(), 1, None)

    def _at(self, until: int, **options: Any) -> tuple[RawServer, ClientRun]:
        self.network = Network()
        server, client = self.greeted(**options)
        self.bring(server, until)
        return server, client

    def test_before_anything_has_begun_it_comes_back(self) -> None:
        """Also where nobody can fetch: it misses nothing."""
        for breaks in ("loseConnection", "reset"):
            server, client = self._at(-1)
            getattr(server.client.transport, breaks)()
            self.network.settle()
            self.assertIsNone(client.outcome)
            self.assertEqual(len(server.connections), 2)
            server.greet()
            self.bring(server, 5)
            server.digest(_DIGEST)
            self.assertEqual(client.finish(1.0).status, Status.OK)

    def test_the_server_closes(self) -> None:
        for name, server, client in self._phases_begun():
            server.client.transport.loseConnection()
            outcome = client.finish(1.0)
            self.assertEqual(
                outcome.line, "the server closed the connection before the image was complete", name
            )
            for thread in client.threads.values():
                thread.release()
            self.assert_failed(client, outcome.line)

    def test_the_connection_breaks(self) -> None:
        for name, server, client in self._phases_begun():
            server.client.transport.reset()
            outcome = client.finish(1.0)
            self.assertEqual(
                outcome.line, "the server closed the connection before the image was complete", name
            )
            for thread in client.threads.values():
                thread.release()
            self.assert_failed(client, outcome.line)

    def test_the_server_loses_its_power(self) -> None:
        for name, _, client in self._phases_begun():
            self.network.host(SERVER_IP).vanish()
            self.network.run_for(25.0)
            self.assertIsNone(client.outcome, name)
            outcome = client.finish(6.0)
            for thread in client.threads.values():
                thread.release()
            self.assert_failed(client, outcome.line)

    def test_the_server_gives_up(self) -> None:
        for name, server, client in self._phases():
            if name == "in the middle of a repair":
                continue  # nothing can be said there
            server.report("cannot read the image: Input/output error")
            for thread in client.threads.values():
                thread.release()
            self.assert_failed(
                client, "the server gave up: cannot read the image: Input/output error"
            )

    def test_the_server_gives_up_without_a_reason(self) -> None:
        server, client = self.greeted()
        server.send(b"\x80" + encode_json({"ok": False}))
        self.assert_failed(client, "the server gave up: it gave no reason")

    def test_an_interrupt(self) -> None:
        for name, server, client in self._phases():
            closed: list[None] = []
            client.client.interrupt("interrupted").addCallback(closed.append)
            for thread in client.threads.values():
                thread.release()
            self.assert_failed(client, "interrupted")
            self.assertEqual(len(closed), 1, name)
            self.assertEqual(self.told(server)["reason"], "interrupted", name)

    def test_an_interrupt_before_there_is_a_server(self) -> None:
        for wait_s in (0.0, 0.05, 0.35, 5.0, 5.1, 5.2, 5.3):
            self.network = Network()
            client = self.network.join()
            self.network.run_for(wait_s)
            client.client.interrupt("interrupted")
            self.assert_failed(client, "interrupted", 0.1)

    def test_an_interrupt_while_the_host_does_not_answer(self) -> None:
        self.network.host(SERVER_IP).vanish()
        client = self.network.join()
        self.network.run_for(1.0)
        client.client.interrupt("interrupted")
        self.assert_failed(client, "interrupted", 0.1)

    def test_an_interrupt_before_the_greeting(self) -> None:
        _, client = self.meet()
        client.client.interrupt("interrupted")
        self.assert_failed(client, "interrupted", 0.5)

    def test_an_interrupt_while_the_server_does_not_read(self) -> None:
        self.network.wire_bytes = 8
        server, client = self.meet()
        server.greet()
        server.client.transport.pauseProducing()
        client.client.interrupt("interrupted")
        self.assert_failed(client, "interrupted", 3.5)

    def test_an_interrupt_after_the_end_changes_nothing(self) -> None:
        server, client = self.greeted()
        self.bring(server)
        server.digest(_DIGEST)
        self.assert_whole(client)
        closed: list[None] = []
        client.client.interrupt("interrupted").addCallback(closed.append)
        self.assertEqual(len(closed), 1)
        assert client.outcome is not None
        self.assertEqual(client.outcome.status, Status.OK)

    def test_a_server_that_leaves_during_the_commit_is_not_needed_any_more(self) -> None:
        for thread in ("digest", "disk"):
            for leaves in ("loseConnection", "reset"):
                server, client = self._at(5, threads=True)
                client.threads[thread].held = True
                server.digest(_DIGEST)
                getattr(server.client.transport, leaves)()
                self.network.run_for(5.0)
                self.assertIsNone(client.outcome)
                client.threads[thread].release()
                self.assert_whole(client)

    def test_an_interrupt_during_the_commit_is_in_time(self) -> None:
        for thread in ("digest", "disk"):
            server, client = self._at(5, threads=True)
            client.threads[thread].held = True
            server.digest(_DIGEST)
            client.client.interrupt("interrupted")
            self.network.settle()
            client.threads[thread].release()
            self.assert_failed(client, "interrupted")

    def test_an_interrupt_while_what_is_here_is_read_back(self) -> None:
        """A digest that will not be known any more is not waited for."""
        self.patch(output, "_PIECE", 8)
        sink = MemorySink()
        sink.data, sink.identity = _IMAGE[: 5 * CAPACITY], "ab"
        server, client = self.meet(sink=sink, threads=True)
        client.threads["digest"].held = True
        server.greet(fetch=True, image="ab")
        server.end(5)
        server.digest(hashlib.sha256(sink.data).digest())
        self.assertEqual(client.phase, "verifying")
        client.client.interrupt("interrupted")
        self.network.settle()
        client.threads["digest"].release()
        self.assert_failed(client, "interrupted")

    def test_an_interrupt_that_comes_after_the_commit_is_too_late(self) -> None:
        """The file has its name: the run has not failed, whatever the operator wanted."""
        server, client = self._at(5, threads=True)
        server.client.transport.write(b"\x40" + _DIGEST)
        self.network.run_until(lambda: client.sink.is_committed)
        self.assertIsNone(client.outcome)
        client.client.interrupt("interrupted")
        self.assert_whole(client)


class JasmineTests(_ClientTestCase):
    """Against a server of the jasmine dialect, byte by byte."""

    _image = bytes((7 * i + 3) % 256 for i in range(2926))
    _group_info = bytes.fromhex("0200 47cf e0ee001f 0000000000000000")
    _announcement = bytes.fromhex("01000000 6e0b0000 00000000 03000000")
    _end = bytes.fromhex("02000000 00000000 03000000 00000000")
    _last = bytes.fromhex("02000000 d2e1eaf0 06000000 dbe2e9f0f7fe")

    def _meet(self, **options: Any) -> tuple[RawServer, ClientRun]:
        server = self.network.raw_server(JASMINE)
        server.group = ("224.238.0.31", PORT)
        client = self.network.join(**options)
        self.network.settle()
        return server, client

    def _packets(self) -> list[bytes]:
        """The three datagrams of the recorded session, first to last."""
        return [
            bytes.fromhex("00000000 0fc2bbb4 b4050000") + self._image[:1460],
            bytes.fromhex("01000000 8b3d3732 b4050000") + self._image[1460:2920],
            self._last,
        ]

    def test_the_recorded_session(self) -> None:
        """The last packet is lost; the rest is the record, byte for byte."""
        for chunk in (None, 1, 3):
            self.network = Network()
            self.network.chunk_bytes = chunk
            server, client = self._meet()
            server.send(self._group_info)
            self.assertEqual(server.client.data, b"")
            server.send(self._announcement)
            self.assertEqual(server.client.data.hex(), "01")
            server.multicast(*reversed(self._packets()[:2]))
            server.send(b"\x08")
            self.assertEqual(server.client.data.hex(), "01020100000002000000")
            server.send(self._last)
            self.assertEqual(server.client.data.hex()[20:], "04")
            server.send(self._end)
            self.assertEqual(server.client.data.hex()[22:], "01")
            self.assertFalse(client.sink.is_committed)
            server.send(b"\x08")
            self.assertEqual(server.client.data.hex()[24:], "04")
            outcome = self.assert_whole(client, self._image)
            self.assertEqual(outcome.report["dialect"], "jasmine")
            self.assertEqual(outcome.report["sha256"], hashlib.sha256(self._image).hexdigest())

    def test_all_of_it_in_one_piece(self) -> None:
        """A server that is ahead of the client's reading."""
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        server.multicast(*reversed(self._packets()))
        server.send(b"\x08")
        server.send(self._end)
        server.send(b"\x08")
        self.assertEqual(server.client.data.hex(), "01040104")
        self.assert_whole(client, self._image)

    def test_nothing_by_multicast(self) -> None:
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        server.send(b"\x08")
        self.assertEqual(server.client.data.hex()[2:], "0203000000000000000100000002000000")
        server.send(b"".join(self._packets()))
        server.send(self._end)
        server.send(b"\x08")
        outcome = self.assert_whole(client, self._image)
        self.assertEqual(outcome.report["packets_repaired"], 3)

    def test_short_packets_in_mid_stream(self) -> None:
        """A jasmine server that reads a pipe: data is placed by running total."""
        pieces = [self._image[:1000], self._image[1000:1001], self._image[1001:2461]]
        server, client = self._meet()
        server.send(self._group_info)
        server.announce(1, 2461, 0, 3)
        server.salt = 0
        server.multicast(*(server.packet(seq, piece) for seq, piece in enumerate(pieces)))
        server.sent()
        server.announce(2, 465, 3, 1)
        server.sent()
        server.repair(3, self._image[2461:])
        server.announce(3, 0, 4, 0)
        server.sent()
        self.assert_whole(client, self._image)

    def test_answers_after_late_datagrams(self) -> None:
        """The answers still come, and do not count as announcements."""
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        server.send(b"\x08")
        server.multicast(*self._packets())
        self.assertTrue(server.client.data.hex().endswith("04"))
        server.send(b"".join(self._packets()))
        server.send(self._end)
        server.send(b"\x08")
        self.assert_whole(client, self._image)

    def test_a_packet_that_the_server_does_not_hold(self) -> None:
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        server.send(b"\x08")
        server.send(bytes.fromhex("00000000 00000000 00000000"))
        self.assert_failed(client, f"{_SERVER}: the server does not hold the packet 0 any more")

    def test_a_server_that_is_not_understood(self) -> None:
        for start, line in (
            (
                b"\x02\0\0\0\xe0\xee\0\x1f" + bytes(8),
                "the peer's port is not a number from 1 to 65535",
            ),
            (
                b"\x02\0\x47\xcf\x0a\0\0\x01" + bytes(8),
                "the peer's group 10.0.0.1 is not a multicast address",
            ),
        ):
            self.network = Network()
            server, client = self._meet()
            server.send(start)
            self.assert_failed(client, f"{_SERVER}: {line}")

    def test_another_byte_where_sent_is_due(self) -> None:
        server, client = self._meet()
        server.send(self._group_info + self._announcement + b"\x01")
        self.assert_failed(client, f"{_SERVER}: the byte 0x01 stands where SENT is due")

    def test_a_buffer_of_too_many_packets(self) -> None:
        server, client = self._meet()
        server.send(self._group_info)
        server.announce(1, 1460 * 65537, 0, 65537)
        self.assert_failed(
            client, f"{_SERVER}: a buffer of 65537 packets is announced, 65536 is the limit"
        )

    def test_a_buffer_as_large_as_the_newer_c_servers_make(self) -> None:
        """Only what is announced costs memory, and the same memory serves the next buffer."""
        image = random.Random(65536).randbytes(4 * 65536 + 3000 + 5)
        server, client = self._meet()
        server.send(self._group_info)
        server.salt = 0
        codec = server.codec

        def packet(seq: int, payload: bytes) -> bytes:
            return codec.header(seq, memoryview(payload)) + payload

        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        server.announce(1, 3000, 0, 3000)
        self.assertEqual(server.client.data, b"\x01")
        # 300 bytes a slot, beside the packets: of 65536 slots it would be 20 MB.
        self.assertLess(tracemalloc.get_traced_memory()[1], 3_000_000)
        tracemalloc.stop()
        server.multicast(*(packet(seq, image[seq : seq + 1]) for seq in reversed(range(3000))))
        server.sent()
        server.announce(2, 4 * 65536, 3000, 65536)
        server.sent()
        missing = struct.unpack("<65537I", server.client.data[-4 * 65537 :])
        self.assertEqual(missing, (65536, *range(3000, 3000 + 65536)))
        pieces = [image[start : start + 4] for start in range(3000, len(image) - 5, 4)]
        server.send(b"".join(packet(3000 + i, piece) for i, piece in enumerate(pieces)))
        server.announce(3, 5, 68536, 1)
        server.multicast(packet(68536, image[-5:]))
        server.sent()
        server.announce(4, 0, 68537, 0)
        server.sent()
        outcome = self.assert_whole(client, image)
        self.assertEqual(outcome.report["packets_multicast"], 3001)
        self.assertEqual(outcome.report["packets_repaired"], 65536)

    def test_no_memory_for_what_is_announced(self) -> None:
        """It is asked for when it is announced, and the reason is this host's."""
        server, client = self._meet(failsafe="10.0.0.9:4000")
        server.send(self._group_info)
        asked: list[int] = []

        def refuse(file: int, size: int, **options: int) -> NoReturn:
            asked.append(size)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        self.patch(mmap, "mmap", refuse)
        server.announce(1, 30000, 0, 30000)
        line = "cannot hold the image: no memory for a buffer of 30000 packets:"
        self.assert_failed(client, f"{line} Cannot allocate memory")
        self.assertEqual((asked, server.client.data), ([12 * 30000], b""))

    def test_a_disk_that_fails_at_the_commit_leaves_the_end_unanswered(self) -> None:
        sink = MemorySink(commit_error=OSError(errno.EIO, "Input/output error"))
        server, client = self._meet(sink=sink)
        server.send(self._group_info + self._end[:8] + bytes(8))
        server.send(b"\x08")
        self.assert_failed(client, "cannot write the image: Input/output error")
        self.assertEqual(server.client.data.hex(), "01")

    def test_an_interrupt(self) -> None:
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        client.client.interrupt("interrupted")
        self.assert_failed(client, "interrupted")
        self.assertEqual(server.client.data.hex(), "01")

    def test_the_server_closes(self) -> None:
        server, client = self._meet()
        server.send(self._group_info + self._announcement)
        server.client.transport.loseConnection()
        self.assert_failed(client, "the server closed the connection before the image was complete")
