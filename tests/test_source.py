"""Where images come from: files, pipes, and what only looks like either."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from kollacast.files.file_source import FileSource, open_source, prove_readable
from kollacast.files.source import ChangedImage

_PATIENCE_S = 60.0


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


class ChangedTests(SynchronousTestCase):
    """What was read is what was there when the file was opened, or an error says so."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(bytes(4000))
        # Some time ago, so that no clock is too coarse to tell.
        os.utime(self.path, ns=(10**18, 10**18))
        self.source = open_source(str(self.path))
        self.addCleanup(self.source.close)
        self.space = memoryview(bytearray(1000))

    def _changed(self, how: str) -> None:
        error = self.assertRaises(ChangedImage, _read_all, self.source)
        assert error.strerror is not None
        self.assertEqual(
            error.strerror, f"its file has changed since this run began: {how}", self.path
        )

    def test_written_to_in_place_before_it_is_read(self) -> None:
        with self.path.open("r+b") as file:
            file.write(b"x")
        self._changed("it was written to")

    def test_written_to_in_place_where_it_has_been_read(self) -> None:
        self.source.readinto(self.space)
        with self.path.open("r+b") as file:
            file.write(b"x")
        self._changed("it was written to")

    def test_truncated(self) -> None:
        self.source.readinto(self.space)
        os.truncate(self.path, 2500)
        self._changed("it had 4000 bytes, and has 2500")

    def test_appended_to(self) -> None:
        self.source.readinto(self.space)
        with self.path.open("ab") as file:
            file.write(b"more")
        self._changed("it had 4000 bytes, and has 4004")

    def test_written_to_behind_the_last_byte_that_is_read(self) -> None:
        """The end is looked at as well: nobody has been told of it before that."""
        for _ in range(4):
            self.assertEqual(self.source.readinto(self.space), 1000)
        with self.path.open("r+b") as file:
            file.write(b"x")
        self.assertRaises(ChangedImage, self.source.readinto, self.space)

    def test_somebody_else_reads_the_same_open_file(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.source = FileSource(os.dup(fd), None)
        self.addCleanup(self.source.close)
        self.source.readinto(self.space)
        os.read(fd, 500)
        self._changed("3500 bytes came, of 4000")

    def test_read_again_after_a_change(self) -> None:
        _read_all(self.source)
        self.assertEqual(self.source.read_at(10, 20), bytes(20))
        with self.path.open("r+b") as file:
            file.write(b"x")
        self.assertRaises(ChangedImage, self.source.read_at, 10, 20)

    def test_replaced_by_a_rename_and_moved(self) -> None:
        self.source.readinto(self.space)
        other = Path(self.mktemp())
        other.write_bytes(b"another image")
        other.rename(self.path)
        self.assertEqual(_read_all(self.source), bytes(3000))
        self.assertEqual(self.source.read_at(0, 4000), bytes(4000))

    def test_mode_and_owner_are_no_content(self) -> None:
        self.path.chmod(0o600)
        self.assertEqual(_read_all(self.source), bytes(4000))


class NameTests(SynchronousTestCase):
    def test_a_name_that_is_no_text(self) -> None:
        path = os.fsencode(self.mktemp()) + b"-caf\xe9-\xc3\xa9"
        Path(os.fsdecode(path)).write_bytes(b"image")
        source = open_source(os.fsdecode(path))
        self.addCleanup(source.close)
        assert source.name is not None
        self.assertTrue(source.name.endswith("-caf\\xe9-\u00e9"), source.name)
        assert source.identity is not None
        source.identity.encode("utf-8")

    def test_the_null_device_is_known_to_be_empty(self) -> None:
        source = open_source(os.devnull)
        self.addCleanup(source.close)
        self.assertEqual((source.size, source.identity), (0, None))


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
