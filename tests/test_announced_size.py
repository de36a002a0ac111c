"""What a server has announced of the image's size holds: nothing is kept beyond it."""

from __future__ import annotations

from random import Random
from typing import Any

from kollacast.operator.outcome import Status
from tests.simulation.image import MemorySink, MemorySource
from tests.simulation.network import Network
from tests.simulation.settings import CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = Random(1).randbytes(400 * CAPACITY + 5)
#: All by multicast, all by TCP, and a pipe.
_WAYS: tuple[dict[str, Any], ...] = (
    {"identity": "file"},
    {"identity": "file", "unicast": True},
    {"identity": None},
)


class AnnouncedSizeTests(MemoryTestCase):
    def _distribute(self, size: int | None, way: dict[str, Any]) -> tuple[Status, str, MemorySink]:
        self.network = Network()
        options = dict(way)
        source = MemorySource(_IMAGE, size=size, identity=options.pop("identity"))
        server = self.network.serve(source, **options)
        client = self.network.join()
        outcome = client.finish()
        self.assertEqual(server.finish().status == Status.OK, outcome.status == Status.OK)
        self.assert_all_gone(self.network)
        return outcome.status, outcome.line, client.sink

    def test_right_or_not_known(self) -> None:
        for way in _WAYS:
            for size in (None, len(_IMAGE)):
                status, line, sink = self._distribute(size, way)
                self.assertEqual((status, sink.data), (Status.OK, _IMAGE), line)

    def test_an_image_that_goes_on(self) -> None:
        """Not a byte beyond is kept, however much comes."""
        for way in _WAYS:
            for size in (1, 100 * CAPACITY, len(_IMAGE) - 1):
                status, line, sink = self._distribute(size, way)
                self.assertEqual(status, Status.FAILED)
                self.assertEqual(line, f"the image goes on beyond its {size} bytes")
                self.assertLessEqual(len(sink.data), size)
                self.assertFalse(sink.is_committed or sink.is_kept)

    def test_an_image_that_ends_before(self) -> None:
        for way in _WAYS:
            size = len(_IMAGE) + 1
            status, line, sink = self._distribute(size, way)
            self.assertEqual(status, Status.FAILED)
            self.assertEqual(
                line, f"the image has {len(_IMAGE)} bytes, and was announced with {size}"
            )
            self.assertFalse(sink.is_committed)

    def test_no_room_for_it(self) -> None:
        """The server hears of it by name before a byte is written; the others have it."""
        server = self.network.serve(MemorySource(_IMAGE, size=len(_IMAGE)), clients=2)
        small = self.network.join(sink=MemorySink(room=len(_IMAGE) - 1))
        other = self.network.join()
        outcome = small.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(outcome.line, "cannot write the image: No space left on device")
        self.assertEqual(small.sink.data, b"")
        self.assertEqual(other.finish().status, Status.OK)
        ended = server.finish()
        self.assertEqual(ended.status, Status.PARTIAL)
        self.assertIn("No space left on device", ended.line)

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()
