"""Every input that a search has found to matter, once more through what reads from the network."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fuzz import CORPUS, control_stream, image_files, seeds, targets
from kollacast.images import archive, limits
from kollacast.images.catalog import Catalog
from kollacast.images.layout import BadImage, Link
from kollacast.packets.intake import Intake
from kollacast.receiving.control import ControlReader
from kollacast.wire.parser import ClientStream, ServerStream
from kollacast.wire.structures import WireError
from tests.vectors import PROPERTY


class CorpusTests(SynchronousTestCase):
    """Nothing in the corpus, and nothing recorded, breaks its target."""

    def test_every_input(self) -> None:
        for name, target in targets.TARGETS.items():
            inputs = {str(path): path.read_bytes() for path in (CORPUS / name).iterdir()}
            self.assertGreater(len(inputs), 10, name)
            inputs.update(
                (f"recorded session {number}", seed) for number, seed in enumerate(seeds.of(name))
            )
            for source, data in inputs.items():
                try:
                    target(data)
                except Exception as error:
                    self.fail(f"{name}: {source}: {error!r}")

    def test_every_corpus_has_its_target(self) -> None:
        self.assertEqual({path.name for path in CORPUS.iterdir()}, set(targets.TARGETS))


@st.composite
def _spliced(draw: st.DrawFn, name: str) -> bytes:
    """Pieces of recorded sessions and of the corpus behind each other, and anything between."""
    known = [*seeds.of(name), *(path.read_bytes() for path in sorted((CORPUS / name).iterdir()))]
    pieces = st.sampled_from(known) | st.binary(max_size=40)
    parts = draw(st.lists(st.tuples(pieces, st.integers(0, 200), st.integers(0, 200)), max_size=5))
    return b"".join(data[start : start + count] for data, start, count in parts)


class SplicedTests(SynchronousTestCase):
    """What recorded sessions become when they are cut and put together anew."""

    @PROPERTY
    @given(st.data())
    def test_any_splice(self, data: st.DataObject) -> None:
        for name, target in targets.TARGETS.items():
            target(data.draw(_spliced(name), name))


class TargetTests(SynchronousTestCase):
    """A target sees that something is wrong, when something is."""

    def sees(self, name: str, data: bytes, pattern: str) -> None:
        with self.assertRaisesRegex(Exception, pattern):
            targets.TARGETS[name](data)

    def test_messages_that_depend_on_the_pieces(self) -> None:
        class Stream(ClientStream):
            def feed(self, data):
                return super().feed(data[:20])

        self.patch(targets, "ClientStream", Stream)
        self.sees("client_of_jasmine", b"\x01" * 21, "byte by byte")

    def test_another_error_than_the_parsers_own(self) -> None:
        class Stream(ServerStream):
            def feed(self, data):
                raise struct.error("unpack requires a buffer of 4 bytes")

        self.patch(targets, "ServerStream", Stream)
        self.sees("server", b"KCST", "unpack requires")

    def test_an_error_that_is_no_line(self) -> None:
        class Stream(ServerStream):
            def feed(self, data):
                raise WireError("two\nlines")

        self.patch(targets, "ServerStream", Stream)
        self.sees("server", b"KCST", "no line for a log")

    def test_a_queue_without_a_bound(self) -> None:
        self.patch(targets, "_MAX_QUEUE", 10)
        self.sees("server", b"KCST\0\0\0\xff" + bytes(12), "12 bytes wait")

    def test_a_way_of_delivery_that_places_something_else(self) -> None:
        self.patch(Intake, "datagram", lambda intake, data: None)
        self.sees("datagrams_of_kollacast", seeds.of("datagrams_of_kollacast")[0], "single")

    def test_control_packets_that_some_deliveries_lose(self) -> None:
        """The data is told, and a buffer has nothing of it."""
        known = Intake.datagram

        def datagram(intake: Intake, data: bytes) -> None:
            told, intake.control = intake.control, lambda seq, data: None
            known(intake, data)
            intake.control = told

        self.patch(Intake, "datagram", datagram)
        self.sees("datagrams_of_kollacast", seeds.of("datagrams_of_kollacast")[4], "single")

    def test_a_part_that_reads_otherwise_by_tcp(self) -> None:
        self.patch(ServerStream, "feed", lambda stream, data: iter(()))
        for seed in seeds.of("control_parts"):
            self.sees("control_parts", seed, "by TCP")

    def test_a_reader_that_hears_something_twice(self) -> None:
        class Reader(ControlReader):
            def _take(self, control, known):
                super()._take(control, control.first - 1)

        self.patch(control_stream, "ControlReader", Reader)
        self.sees("control_reader", seeds.of("control_reader")[1], "1 is heard behind 1")

    def test_a_reader_that_leaves_something_out(self) -> None:
        class Reader(ControlReader):
            def _take(self, control, known):
                super()._take(control, max(known, control.first))

        self.patch(control_stream, "ControlReader", Reader)
        self.sees("control_reader", seeds.of("control_reader")[1], "2 is heard behind 0")

    def test_a_reader_that_asks_twice(self) -> None:
        class Reader(ControlReader):
            def _ask(self):
                self._asked_at = None
                super()._ask()

        self.patch(control_stream, "ControlReader", Reader)
        self.sees("control_reader", seeds.of("control_reader")[3], "an answer is due")

    def test_a_reader_that_leaves_a_timer(self) -> None:
        self.patch(ControlReader, "stop", lambda reader: None)
        self.sees("control_reader", seeds.of("control_reader")[0], "a timer is left")

    def test_an_archive_that_makes_too_many_folders(self) -> None:
        self.patch(limits.Account, "file", lambda account, path: None)
        self.sees("archives", seeds.of("archives")[6], "1314 folders and 27 files are made")

    def test_an_archive_that_makes_what_it_has_not(self) -> None:
        self.patch(image_files, "_GROWTH", -(10**6))
        self.patch(limits.Account, "content", lambda account, size: None)
        self.sees("archives", seeds.of("archives")[0], "bytes are written")

    def test_an_archive_that_leads_out(self) -> None:
        self.patch(archive, "locate", lambda name: Link(name, None, "a", "t"))
        self.sees("archives", seeds.of("archives")[0], "is made")

    def test_an_archive_that_reads_otherwise_when_it_is_unpacked(self) -> None:
        answers = iter(("", "refused"))

        def read(stream: object, create: object) -> Catalog:
            raise BadImage(f"it is {next(answers)}")

        self.patch(image_files, "read_storage", read)
        self.sees("archives", seeds.of("archives")[0], "unpacked")

    def test_json_that_is_read_in_another_way(self) -> None:
        self.patch(limits, "read_json", lambda data: None)
        self.sees("manifests", seeds.of("manifests")[0], "in another way")
