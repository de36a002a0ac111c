"""Files with holes have the same content, whatever was there before and in what order it came."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest import SkipTest, mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.files import sparse
from kollacast.files.file_sink import FileSink
from kollacast.files.sparse import BLOCK, write_sparse

_DATA = random.Random(1).randbytes(BLOCK)
_ZEROS = bytes(BLOCK)


class SparseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, self.fd)

    def write(self, offset: int, *parts: bytes) -> None:
        write_sparse(self.fd, [memoryview(part) for part in parts], offset, lambda: False)

    def allocated(self) -> int:
        return self.path.stat().st_blocks * 512

    def needs_holes(self) -> None:
        with Path(self.mktemp()).open("wb") as file:
            file.truncate(1 << 20)
            if os.fstat(file.fileno()).st_blocks:
                raise SkipTest("a file system without holes")

    def test_blocks_of_zeros_take_no_space(self) -> None:
        self.needs_holes()
        image = _DATA + 10 * _ZEROS + _DATA + 5 * _ZEROS
        self.write(0, image)
        self.assertEqual(self.path.read_bytes(), image)
        self.assertLessEqual(self.allocated(), 3 * BLOCK)

    def test_wherever_buffers_end(self) -> None:
        self.needs_holes()
        image = _DATA + 40 * _ZEROS + _DATA + 40 * _ZEROS
        step = 5 * BLOCK - 1460
        for at in range(0, len(image), step):
            self.write(at, image[at : at + step])
            self.assertEqual(self.path.stat().st_size, min(at + step, len(image)))
        self.assertEqual(self.path.read_bytes(), image)
        self.assertLessEqual(self.allocated(), 5 * BLOCK)

    def test_zeros_over_what_was_there(self) -> None:
        self.write(0, 4 * _DATA)
        self.write(BLOCK, 2 * _ZEROS)
        self.write(4 * BLOCK, _ZEROS)
        self.assertEqual(self.path.read_bytes(), _DATA + 2 * _ZEROS + _DATA + _ZEROS)

    def test_the_head_of_a_file_whose_tail_is_there(self) -> None:
        self.needs_holes()
        self.write(20 * BLOCK, _DATA)
        self.write(0, _DATA + 18 * _ZEROS + _ZEROS)
        self.assertEqual(self.path.read_bytes(), _DATA + 19 * _ZEROS + _DATA)
        self.assertLessEqual(self.allocated(), 3 * BLOCK)

    def test_a_file_system_that_does_not_tell_of_holes(self) -> None:
        lseek = os.lseek

        def deaf(fd: int, at: int, how: int) -> int:
            if how == os.SEEK_DATA:
                raise OSError(22, "Invalid argument")
            return lseek(fd, at, how)

        self.patch(os, "lseek", deaf)
        self.write(0, 4 * _DATA)
        self.write(BLOCK, 2 * _ZEROS)
        self.assertEqual(self.path.read_bytes(), _DATA + 2 * _ZEROS + _DATA)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 400),
                st.lists(st.tuples(st.booleans(), st.integers(1, 150)), min_size=1, max_size=5),
                st.integers(1, 3),
            ),
            max_size=6,
        )
    )
    def test_the_content_is_that_of_a_dense_write(
        self, writes: list[tuple[int, list[tuple[bool, int]], int]]
    ) -> None:
        os.ftruncate(self.fd, 0)
        model = bytearray()
        small = {"BLOCK": 16, "_LEAST": 4, "_are_zeros": bytes(16).startswith}
        with mock.patch.multiple(sparse, **small):  # type: ignore[call-overload]
            for offset, runs, pieces in writes:
                data = b"".join(bytes([65 * is_data]) * size for is_data, size in runs)
                step = -(-len(data) // pieces)
                self.write(offset, *(data[at : at + step] for at in range(0, len(data), step)))
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
        self.assertEqual(self.path.read_bytes(), bytes(model))


class SinkTests(SynchronousTestCase):
    def test_the_next_run_goes_on_behind_a_hole(self) -> None:
        path = self.mktemp()
        sink = FileSink(path)
        sink.resume("ab", BLOCK)
        sink.write([memoryview(_DATA + 3 * _ZEROS)], 0)
        self.assertEqual(sink.read_back(BLOCK, 3 * BLOCK), 3 * _ZEROS)
        sink.abandon(keep=True)
        sink = FileSink(path)
        self.assertEqual(sink.resume("ab", BLOCK), 4 * BLOCK)
        sink.write([memoryview(_DATA)], 4 * BLOCK)
        sink.commit()
        self.assertEqual(Path(path).read_bytes(), _DATA + 3 * _ZEROS + _DATA)

    def test_a_full_disk_is_told(self) -> None:
        sink = FileSink(self.mktemp())
        self.addCleanup(sink.abandon)
        self.patch(os, "ftruncate", mock.Mock(side_effect=OSError(27, "File too large")))
        self.assertRaises(OSError, sink.write, [memoryview(_ZEROS)], 0)
