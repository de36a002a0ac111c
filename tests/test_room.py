"""A share of the file system stays free, whatever comes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

import zstandard
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command import values
from kollacast.files import room
from kollacast.files.file_sink import FileSink
from kollacast.files.room import Room
from kollacast.images.registry_sink import RegistrySink
from kollacast.images.unpack import unpack_file
from tests.registry_storage import archive_of, members_of, storage_of

_MIB = 1024 * 1024
_FILES = storage_of({"kolla/one:1": [bytes(_MIB), b"one"]})


class Disk:
    """A file system of 1000 MiB and 10,000 files, of which so many are free."""

    def __init__(self, free_mib: float, free_files: int = 10_000) -> None:
        self.free_mib = free_mib
        self.free_files = free_files
        self.looks = 0

    def __call__(self, _fd: int) -> os.statvfs_result:
        self.looks += 1
        blocks = int(self.free_mib * 256)
        return _found(256_000, blocks, blocks, 10_000, self.free_files)


def _found(blocks: int, free: int, avail: int, files: int, free_files: int) -> os.statvfs_result:
    """What `statvfs` says of a file system with blocks of 4 KiB."""
    return os.statvfs_result(
        (4096, 4096, blocks, free, avail, files, free_files, free_files, 0, 255)
    )


class _TestCase(SynchronousTestCase):
    def disk(self, free_mib: float, free_files: int = 10_000) -> Disk:
        disk = Disk(free_mib, free_files)
        self.patch(os, "fstatvfs", disk)
        return disk

    def no_room(self, call: object, *words: object) -> str:
        error = self.assertRaises(OSError, call, *words)
        self.assertEqual(error.errno, errno.ENOSPC)
        return str(error.strerror)


class RoomTests(_TestCase):
    def test_before_it_begins(self) -> None:
        self.disk(60)
        Room(0.05).prove(0, 10 * _MIB)
        self.assertEqual(
            self.no_room(Room(0.05).prove, 0, 10 * _MIB + 1),
            "No space left on device: 10485761 bytes are to come, and 10485760 are free beside the"
            " 5 % of the file system that stay so (--reserve)",
        )
        self.disk(49)
        self.assertIn("and 0 are free", self.no_room(Room(0.05).prove, 0, 0))
        Room(0.01).prove(0, 0)

    def test_files(self) -> None:
        self.disk(900, 499)
        self.assertEqual(
            self.no_room(Room(0.05).prove, 0, 0),
            "No space left on device: 499 more files can be made, which is less than the 5 % of"
            " the file system that stay so (--reserve)",
        )
        self.disk(900, 500)
        Room(0.05).prove(0, 0)

    def test_on_the_way(self) -> None:
        """It is looked now and then, and not for every piece."""
        disk = self.disk(900)
        here = Room(0.05)
        for _ in range(64):
            here.take(0, _MIB)
        self.assertEqual(disk.looks, 4)
        disk.free_mib = 55
        self.no_room(lambda: [here.take(0, _MIB) for _ in range(16)])
        disk.free_mib, disk.free_files = 900, 100
        self.no_room(lambda: [here.take(0, 0, 1) for _ in range(room._LOOK_FILES)])

    def test_none_is_kept(self) -> None:
        self.disk(0, 0)
        Room(0).prove(0, 10**12)

    def test_a_file_system_that_does_not_say(self) -> None:
        with mock.patch.object(os, "fstatvfs", return_value=_found(0, 0, 0, 0, 0)):
            Room(0.05).prove(0, 10**12)

    def test_what_is_for_root_alone_does_not_count(self) -> None:
        """As the twentieth that ext4 keeps: it counts once, and not twice."""
        found = _found(256_000, 25_600, 12_800, 0, 0)
        with mock.patch.object(os, "fstatvfs", return_value=found):
            Room(0.05).prove(0, 50 * _MIB)
            self.no_room(Room(0.05).prove, 0, 50 * _MIB + 1)
            self.no_room(Room(0.01).prove, 0, 50 * _MIB + 1)

    def test_words(self) -> None:
        for text, found in (("5", 5), ("2.5%", 2.5), ("0", 0), (" 90 % ", 90)):
            self.assertEqual(values.per_cent("--reserve", text), found)
        for text in ("", "-1", "91", "5G", "half", "1e1", "nan"):
            error = self.assertRaises(UsageError, values.per_cent, "--reserve", text)
            self.assertIn("must be per cent", str(error))


class SinkTests(_TestCase):
    def test_a_file(self) -> None:
        disk = self.disk(60)
        sink = FileSink(self.mktemp())
        self.addCleanup(sink.abandon)
        sink.expect(10 * _MIB)
        self.no_room(sink.expect, 11 * _MIB)
        disk.free_mib = 51
        views = [memoryview(bytes(_MIB))]
        self.no_room(lambda: [sink.write(views, n * _MIB) for n in range(17)])

    def test_a_file_of_which_a_part_is_here(self) -> None:
        """What it has takes no room any more."""
        path = self.mktemp()
        sink = FileSink(path)
        self.addCleanup(sink.abandon)
        sink.write([memoryview(os.urandom(4 * _MIB))], 0)
        with sink.descriptor() as fd:
            os.fsync(fd)  # as long as it is nowhere on disk, it takes nothing there
        self.disk(60)
        sink.expect(14 * _MIB)
        self.no_room(sink.expect, 15 * _MIB)

    def test_a_file_that_may_fill_the_disk(self) -> None:
        self.disk(0)
        sink = FileSink(self.mktemp(), 0)
        sink.expect(10**12)
        sink.write([memoryview(b"image")], 0)
        sink.commit()

    def test_a_registry(self) -> None:
        """Nothing is left of what was refused, and the one before is as it was."""
        root = Path(self.mktemp())
        path = Path(self.mktemp())
        path.write_bytes(archive_of(members_of(_FILES)))
        with path.open("rb") as file:
            unpack_file(file, str(root), self.fail, 0)
        self.disk(60)
        sink = RegistrySink(str(root))
        sink.expect(10 * _MIB)
        self.no_room(sink.expect, 11 * _MIB)
        sink.abandon()
        sink.clear()
        self.assertEqual(os.listdir(root / "versions"), ["1"])

    def test_a_registry_that_takes_more_than_was_announced(self) -> None:
        """A compression of zeros leaves the disk its reserve, and not four KiB."""
        root = Path(self.mktemp())
        self.patch(room, "_LOOK_BYTES", _MIB // 2)
        disk = self.disk(50.1)
        data = zstandard.compress(archive_of(members_of(_FILES)))
        sink = RegistrySink(str(root))
        sink.expect(len(data))
        self.assertEqual(disk.looks, 1)
        self.no_room(lambda: (sink.write([memoryview(data)], 0), sink.commit()))
        sink.abandon()
        sink.clear()
        self.assertFalse(root.exists())

    def test_files_without_end(self) -> None:
        self.patch(room, "_LOOK_FILES", 8)
        self.disk(900, 400)
        sink = RegistrySink(str(Path(self.mktemp())))
        archive = archive_of(members_of(storage_of({f"kolla/{n}:1": [] for n in range(9)})))
        self.no_room(lambda: (sink.write([memoryview(archive)], 0), sink.commit()))
        sink.abandon()
        sink.clear()
