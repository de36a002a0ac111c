"""A client that knows its image's digest keeps that image and no other, whoever sends it."""

from __future__ import annotations

import hashlib
from random import Random

from kollacast.files.digest import KNOWN_DIGESTS, Digester, ExpectedDigest
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.runs import ClientRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = Random(1).randbytes(40 * CAPACITY + 5)
_OTHER = Random(2).randbytes(len(_IMAGE))


def _expect(image: bytes, *names: str) -> Expectation:
    digester = Digester(*names)
    digester.update([memoryview(image)])
    return Expectation(digests=tuple(ExpectedDigest(*d) for d in digester.values().items()))


class ExpectedImageTests(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def assert_refused(self, client: ClientRun, name: str, wrong: bytes = _OTHER) -> None:
        outcome = client.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        right, found = (_expect(image, name).digests[0].value.hex() for image in (_IMAGE, wrong))
        self.assertEqual(
            outcome.line,
            f"the image is not the one that --expect names: its {name} is {found}, not {right}",
        )
        self.assertFalse(client.sink.is_committed)
        self.assertFalse(client.sink.is_kept, "a later run would go on from it")

    def test_the_right_one(self) -> None:
        for dialect in ("kollacast", "jasmine"):
            self.network = Network()
            server = self.network.serve(_IMAGE, dialect_name=dialect)
            client = self.network.join(expectation=_expect(_IMAGE, *KNOWN_DIGESTS))
            outcome = client.finish()
            self.assertEqual(outcome.status, Status.OK, outcome.line)
            self.assertEqual(client.sink.data, _IMAGE)
            for name in KNOWN_DIGESTS:
                value = _expect(_IMAGE, name).digests[0].value.hex()
                self.assertEqual(outcome.report[name], value)
            self.assertEqual(server.finish().status, Status.OK)

    def test_both_ends_report_the_tree(self) -> None:
        server = self.network.serve(_IMAGE)
        client = self.network.join()
        tree = _expect(_IMAGE, "tree").digests[0].value.hex()
        for outcome in (client.finish(), server.finish()):
            self.assertEqual(outcome.report["tree"], tree)
            self.assertEqual(outcome.report["sha256"], hashlib.sha256(_IMAGE).hexdigest())

    def test_another_one(self) -> None:
        """One of several digests is enough to tell, in either dialect."""
        for dialect in ("kollacast", "jasmine"):
            for name in KNOWN_DIGESTS:
                self.network = Network()
                server = self.network.serve(_OTHER, dialect_name=dialect)
                client = self.network.join(expectation=_expect(_IMAGE, name))
                self.assert_refused(client, name)
                self.assertEqual(server.finish().status, Status.FAILED)
                self.assert_all_gone(self.network)

    def test_a_right_and_a_wrong_one(self) -> None:
        right, wrong = _expect(_OTHER, "sha256"), _expect(_IMAGE, "tree")
        self.network.serve(_OTHER)
        client = self.network.join(expectation=Expectation(digests=right.digests + wrong.digests))
        self.assert_refused(client, "tree")

    def _interrupted(self) -> ClientRun:
        """A client that has a part, of an image that it has the digest of."""
        server = self.network.serve(MemorySource(_IMAGE, identity="file"), clients=2)
        slow = self.network.join(threads=True)
        self.network.settle()
        slow.threads["disk"].held = True
        quick = self.network.join(expectation=_expect(_IMAGE, "sha256"))
        self.network.run_until(lambda: quick.sink.data)
        self.network.settle()
        quick.client.interrupt("interrupted")
        quick.finish()
        server.host.kill()
        slow.host.vanish()
        self.assertTrue(quick.sink.is_kept)
        return quick

    def test_a_part_outlasts_a_greeting_that_names_another_image(self) -> None:
        """Nothing in it is proved; without an expectation the part would be gone."""
        quick = self._interrupted()
        kept = quick.sink.data
        raw = self.network.raw_server()
        liar = self.network.join_again(quick, expectation=_expect(_IMAGE, "sha256"))
        self.network.settle()
        raw.greet(image="beef", fetch=True, name="another")
        self.network.settle()
        liar.client.interrupt("interrupted")
        liar.finish()
        self.assertTrue(liar.sink.is_kept)
        self.assertEqual(liar.sink.data, kept)

    def test_a_part_is_gone_on_from_under_another_name(self) -> None:
        """What is expected names the image, and no server has to name it in the same way."""
        quick = self._interrupted()
        size = len(quick.sink.data)
        server = self.network.serve(MemorySource(_IMAGE, identity="a copy of the file"), clients=1)
        again = self.network.join_again(quick, expectation=_expect(_IMAGE, "sha256"))
        outcome = again.finish()
        self.assertEqual(outcome.status, Status.OK, outcome.line)
        self.assertEqual(again.sink.data, _IMAGE)
        self.assertEqual(outcome.report["bytes_resumed"], size)
        self.assertGreaterEqual(size, BUFFER_PACKETS * CAPACITY)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_server_that_comes_back_with_another_image(self) -> None:
        """It is gone on with, and what comes of that is not kept."""
        self.network.serve(MemorySource(_IMAGE, identity="file"), clients=2)
        slow = self.network.join(threads=True)
        self.network.settle()
        slow.threads["disk"].held = True
        quick = self.network.join(expectation=_expect(_IMAGE, "sha256"))
        self.network.run_until(lambda: quick.sink.data)
        self.network.settle()
        begun = quick.sink.data
        slow.host.vanish()
        self.network.host("10.0.0.1").kill()
        self.network.serve(MemorySource(_OTHER, identity="other"), clients=1)
        mixed = begun + _OTHER[len(begun) :]
        outcome = quick.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        # The server's own digest is looked at first, and it is not that of this mixture.
        self.assertIn(hashlib.sha256(mixed).hexdigest(), outcome.line)
        self.assertFalse(quick.sink.is_committed)
        self.assertFalse(quick.sink.is_kept)

    def test_a_jasmine_server_of_a_stranger(self) -> None:
        """It needs no secret and proves nothing: the digest is all there is."""
        server = self.network.serve(_OTHER, dialect_name="jasmine")
        client = self.network.join(expectation=_expect(_IMAGE, "sha256"))
        self.assert_refused(client, "sha256")
        self.assertEqual(server.finish().status, Status.FAILED)
