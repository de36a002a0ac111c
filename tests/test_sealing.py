"""Sealed packets: who opens what, what is made of a buffer, and whole sessions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.trial.unittest import SynchronousTestCase

from fuzz import deliveries
from kollacast.client.terms import of_greeting
from kollacast.operator.outcome import Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.sealed_run import SealedRun
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.recipes import SEQ_SPAN, control_seq, parity_seq
from kollacast.wire.sealing import SEAL_METHOD, SEAL_SIZE, Seal, SealError, new_key
from kollacast.wire.structures import MIN_MTU, WireError
from tests.hostile.attacker import crc_before
from tests.simulation.links import Weather
from tests.simulation.network import Network
from tests.simulation.settings import CAPACITY, MTU
from tests.simulation.testcase import MemoryTestCase

_KEY = bytes(range(16))
_SALT = 0x01020304
_CAPACITY = 32
_SECRET = b"sixteen bytes or more"
_CODEC = KOLLACAST.codec(_SALT, best_crc32c()[0])


def _views(*texts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(text)) for text in texts]


def _sealed(seal: Seal, seq: int, payloads: Sequence[bytes]) -> list[memoryview]:
    views = _views(*payloads)
    sealed = _views(*(bytes(len(view) + SEAL_SIZE) for view in views))
    seal.seal(seq, views, sealed)
    return sealed


class ForgeryTests(SynchronousTestCase):
    """Who has seen one packet can make others that the checksum takes: so seals are needed."""

    def test_a_salt_from_one_packet(self) -> None:
        engine = best_crc32c()[0]
        for size in (1, 4, 33):
            data = random.Random(size).randbytes(size)
            self.assertEqual(crc_before(engine(memoryview(data), _SALT), data), _SALT)


class SealTests(SynchronousTestCase):
    """The cipher's part."""

    def test_the_bytes(self) -> None:
        """Each is what AES-128-GCM makes of it, with the salt and the seq as the nonce."""
        sealed = _sealed(Seal(_KEY, _SALT), 7, [b"first", b"second"])
        for seq, payload, data in ((7, b"first", sealed[0]), (8, b"second", sealed[1])):
            nonce = bytes.fromhex("0000000001020304") + seq.to_bytes(4, "big")
            self.assertEqual(bytes(data), AESGCM(_KEY).encrypt(nonce, payload, None))

    def opened(self, seal: Seal, seqs: Sequence[int], sealed: Sequence[memoryview]) -> list[bytes]:
        outs = _views(*(bytes(len(data) - SEAL_SIZE) for data in sealed))
        is_open = seal.open(seqs, b"\x01" * len(seqs), sealed, outs)
        return [bytes(out) if ok else b"" for ok, out in zip(is_open, outs, strict=True)]

    def test_who_opens_what(self) -> None:
        texts = [b"one", b"two", b"three"]
        sealed = _sealed(Seal(_KEY, _SALT), 40, texts)
        self.assertEqual(self.opened(Seal(_KEY, _SALT), (40, 41, 42), sealed), texts)
        self.assertEqual(
            self.opened(Seal(_KEY, _SALT), (40, 42, 42), sealed), [b"one", b"", b"three"]
        )
        for other in (Seal(new_key(), _SALT), Seal(_KEY, _SALT + 1)):
            self.assertEqual(self.opened(other, (40, 41, 42), sealed), [b""] * 3)
        for at in range(len(sealed[1])):
            sealed[1][at] ^= 1
            self.assertEqual(self.opened(Seal(_KEY, _SALT), (40, 41, 42), sealed)[1], b"")
            sealed[1][at] ^= 1

    def test_what_is_damaged_is_not_opened(self) -> None:
        sealed = _sealed(Seal(_KEY, _SALT), 0, [b"one"])
        outs = _views(bytes(3))
        self.assertEqual(Seal(_KEY, _SALT).open((0,), b"\x00", sealed, outs), b"\x00")
        self.assertEqual(bytes(outs[0]), bytes(3))

    def test_no_seq_is_used_for_something_else(self) -> None:
        """Those that are counted modulo a span end the session where they would begin anew."""
        seal = Seal(_KEY, _SALT)
        for kind, span in ((control_seq, SEQ_SPAN // 2), (parity_seq, SEQ_SPAN)):
            _sealed(seal, kind(5), [b"again"])
            _sealed(seal, kind(3), [b"a little before"])
            for number in (SEQ_SPAN // 2 - 1, span - 1):
                _sealed(seal, kind(number), [b"the last of a part"])
            with self.assertRaises(SealError):
                _sealed(seal, kind(span), [b"the first of the next round"])
        _sealed(seal, 3, [b"the image's own are never as many"])


class RunTests(SynchronousTestCase):
    """What is made of a buffer."""

    def setUp(self) -> None:
        self.sealings: list[tuple[int, int]] = []
        outer = self

        class Counted(Seal):
            def seal(
                self, seq: int, payloads: Sequence[memoryview], sealed: Sequence[memoryview]
            ) -> None:
                outer.sealings.append((seq, len(payloads)))
                super().seal(seq, payloads, sealed)

        self.run_ = SealedRun(Counted(_KEY, _SALT), _CODEC, _CAPACITY, 8)
        self.buffer = self.filled(100, 20 * _CAPACITY - 5)

    def filled(self, base: int, size: int) -> PacketBuffer:
        buffer = PacketBuffer(_CAPACITY, 20)
        buffer.payload[:size] = random.Random(base).randbytes(size)
        buffer.announce(1, base, size)
        return buffer

    def test_it_holds_what_was_not_taken(self) -> None:
        """The kernel takes some; the rest is there already, and is not sealed again."""
        self.assertEqual(self.run_.hold(self.buffer, 0, 8), (0, 8))
        self.assertEqual(self.run_.hold(self.buffer, 5, 8), (5, 3))
        self.assertEqual(self.run_.hold(self.buffer, 8, 30), (0, 8))
        self.assertEqual(self.sealings, [(100, 8), (108, 8)])

    def test_another_buffer_between(self) -> None:
        self.run_.hold(self.buffer, 0, 8)
        before = bytes(self.run_.buffer.payload)
        other = self.filled(500, 3 * _CAPACITY)
        self.assertEqual(self.run_.hold(other, 0, 3), (0, 3))
        self.assertEqual(self.run_.hold(self.buffer, 0, 8), (0, 8))
        self.assertEqual(bytes(self.run_.buffer.payload), before)

    def test_the_buffer_s_next_life(self) -> None:
        self.run_.hold(self.buffer, 0, 8)
        self.buffer.announce(2, 120, 20 * _CAPACITY)
        self.run_.hold(self.buffer, 0, 8)
        self.assertEqual(self.sealings, [(100, 8), (120, 8)])

    def datagrams(self) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < 20:
            slot, count = self.run_.hold(self.buffer, len(found), 8)
            run = self.run_.buffer
            payloads = run.slots(slot, count)
            headers = [bytes(run.vector(slot + i, 1)[0]) for i in range(count)]
            found += [header + payload for header, payload in zip(headers, payloads, strict=True)]
        return found

    def test_there_and_back(self) -> None:
        datagrams = self.datagrams()
        forged = bytearray(datagrams[4])
        forged[20] ^= 1
        again = memoryview(forged)[12:]
        forged[:12] = _CODEC.header(104, again)
        tag_alone = _CODEC.header(105, memoryview(bytes(SEAL_SIZE))) + bytes(SEAL_SIZE)
        for way in deliveries.WAYS:
            intake = Intake(_CODEC, _CAPACITY, seal=Seal(_KEY, _SALT))
            target = PacketBuffer(_CAPACITY, 20)
            target.init(self.buffer.ctl)
            intake.arm(target)
            way(intake, [bytes(forged), tag_alone, b"noise", *datagrams[:4]])
            self.assertEqual((intake.counts.placed, intake.counts.damaged), (4, 3))
            way(intake, datagrams[2:])
            size = self.buffer.ctl.buffer_size
            self.assertEqual(b"".join(target.views()), self.buffer.payload[:size])
            counts = intake.counts
            self.assertEqual((counts.placed, counts.repeated, counts.damaged), (20, 2, 3))


class SessionTests(MemoryTestCase):
    """Whole sessions."""

    def test_what_a_client_makes_of_a_greeting(self) -> None:
        greeting = Greeting("", 7, "239.1.1.1", 1, 1500, 4, 2, "sha256")
        terms = of_greeting(replace(greeting, seal=SEAL_METHOD, seal_key="ab" * 16))
        self.assertIsNotNone(terms.shape.seal)
        # Such a key is no use in a log.
        self.assertNotIn("abab", repr(terms))
        plain = of_greeting(replace(greeting, mtu=1500 - SEAL_SIZE))
        self.assertIsNone(plain.shape.seal)
        self.assertEqual(terms.shape.capacity, plain.shape.capacity)
        wrongs: tuple[tuple[dict[str, Any], str], ...] = (
            ({"seal": "rot13", "seal_key": "ab" * 16}, "sealed by rot13"),
            ({"seal": SEAL_METHOD, "seal_key": "ab" * 8}, "not known here"),
            ({"seal": SEAL_METHOD}, "not known here"),
            ({"seal": SEAL_METHOD, "mtu": MIN_MTU + 15}, "holds no sealed packet"),
        )
        for wrong, why in wrongs:
            with self.assertRaisesRegex(WireError, why):
                of_greeting(replace(greeting, **wrong))

    def test_a_key_that_anybody_can_read(self) -> None:
        """A client leaves a server that tells it one."""
        network = Network()
        server = network.serve(b"image", encrypt=True, mtu=MTU + SEAL_SIZE)
        outcome = network.join().finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("where anybody can read it", outcome.line)
        server.server.interrupt("enough")
        server.finish()

    def test_a_key_that_is_used_up(self) -> None:
        """The run ends, and says why, before a number is used for something else."""
        network = Network()
        batches: list[int] = []

        def seal(seal: Seal, seq: int, *more: Any) -> None:
            batches.append(seq)
            if len(batches) > 3:
                raise SealError("the key is used up")
            original(seal, seq, *more)

        original = Seal.seal
        self.patch(Seal, "seal", seal)
        mtu = MTU + SEAL_SIZE
        server = network.serve(b"image" * 400, encrypt=True, mtu=mtu, secret=_SECRET)
        client = network.join(secret=_SECRET)
        self.assertIn("the key is used up", server.finish().line)
        self.assertIn("the key is used up", client.finish().line)

    def test_nothing_of_the_image_crosses_readable(self) -> None:
        network = Network(weather=Weather(loss=0.2))
        image = b"a sentence that anybody knows, " * 40
        server = network.serve(image, clients=3, encrypt=True, mtu=MTU + SEAL_SIZE, secret=_SECRET)
        clients = [network.join(secret=_SECRET) for _ in range(3)]
        for client in clients:
            self.assertEqual(client.finish().status, Status.OK)
            self.assertEqual(client.sink.data, image)
        self.assertEqual(server.finish().status, Status.OK)
        self.assertGreater(len(network.datagrams), 40)
        for datagram in network.datagrams:
            self.assertNotIn(b"sentence", datagram)
            self.assertLessEqual(len(datagram), 12 + CAPACITY + SEAL_SIZE)
