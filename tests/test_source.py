"""Where images come from: files, pipes, and what only looks like either."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from kollacast.source import FileSource, open_source, prove_readable

_PATIENCE_S = 10.0


def _read_all(source: FileSource, step: int = 1000) -> bytes:
    image = bytearray()
    space = bytearray(step)
    while size := source.readinto(memoryview(space)):
        image += space[:size]
    return bytes(image)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.image = os.urandom(4321)
        self.path.write_bytes(self.image)

    def test_file(self) -> None:
        source = open_source(str(self.path))
        self.addCleanup(source.close)
        self.assertEqual((source.name, source.size), (self.path.name, 4321))
        self.assertEqual(_read_all(source), self.image)

    def test_empty_file(self) -> None:
        self.path.write_bytes(b"")
        source = open_source(str(self.path))
        self.addCleanup(source.close)
        self.assertEqual(source.size, 0)
        self.assertEqual(_read_all(source), b"")

    def test_file_read_in_part_by_someone_before(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        os.read(fd, 321)
        source = FileSource(fd, None)
        self.addCleanup(source.close)
        self.assertEqual(source.size, 4000)
        self.assertEqual(_read_all(source), self.image[321:])

    def test_closed(self) -> None:
        source = open_source(str(self.path))
        source.close()
        source.close()
        error = self.assertRaises(OSError, source.readinto, memoryview(bytearray(1)))
        self.assertEqual(error.errno, errno.ECANCELED)

    def test_missing(self) -> None:
        self.assertRaises(FileNotFoundError, open_source, "/no/such/file")
        self.assertRaises(FileNotFoundError, prove_readable, "/no/such/file")

    def test_folder(self) -> None:
        self.assertRaises(IsADirectoryError, open_source, "/")
        self.assertRaises(IsADirectoryError, prove_readable, "/")

    def test_readable(self) -> None:
        before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        prove_readable(str(self.path))
        if before:
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class PipeTests(SynchronousTestCase):
    def setUp(self) -> None:
        read_end, self.write_end = os.pipe()
        self.source = FileSource(read_end, None)
        self.addCleanup(self.source.close)

    def test_pipe(self) -> None:
        image = os.urandom(300_000)

        def write() -> None:
            with open(self.write_end, "wb") as file:
                file.write(image)

        writer = threading.Thread(target=write)
        writer.start()
        self.assertIsNone(self.source.size)
        self.assertEqual(_read_all(self.source, 100_000), image)
        writer.join(_PATIENCE_S)

    def test_non_blocking_pipe(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        source = FileSource(read_end, None)
        self.addCleanup(source.close)

        def write() -> None:
            os.write(write_end, b"late")
            os.close(write_end)

        writer = threading.Timer(0.05, write)
        writer.start()
        self.assertEqual(_read_all(source), b"late")
        writer.join(_PATIENCE_S)

    def test_close_while_a_read_waits(self) -> None:
        self.addCleanup(os.close, self.write_end)
        errors: list[OSError] = []
        has_read = threading.Event()

        def read() -> None:
            space = memoryview(bytearray(1))
            self.source.readinto(space)
            has_read.set()
            try:
                self.source.readinto(space)
            except OSError as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        os.write(self.write_end, b"x")
        self.assertTrue(has_read.wait(_PATIENCE_S))
        self.source.close()
        reader.join(_PATIENCE_S)
        self.assertFalse(reader.is_alive())
        self.assertEqual([error.errno for error in errors], [errno.ECANCELED])


class NamedPipeTests(SynchronousTestCase):
    def test_writer_that_comes_later(self) -> None:
        path = self.mktemp()
        os.mkfifo(path)
        prove_readable(path)
        source = open_source(path)
        self.addCleanup(source.close)
        self.assertIsNone(source.size)
        writer = threading.Timer(0.05, lambda: Path(path).write_bytes(b"image"))
        writer.start()
        self.assertEqual(_read_all(source), b"image")
        writer.join(_PATIENCE_S)
