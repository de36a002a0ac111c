"""Whose links are followed, and whose files replaced, by what root writes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from kollacast.files import trusted_path
from kollacast.files.file_sink import FileSink
from kollacast.files.spool import Spool, prove_spool

_STRANGER = 4711
_IDENTITY = "1" * 32


class _TestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(os.path.realpath(self.mktemp()))
        self.folder.mkdir()
        self.secret = self.folder / "secret"
        self.secret.write_bytes(b"of root")
        self.shared = self.folder / "tmp"
        self.shared.mkdir()
        self.shared.chmod(0o1777)

    def of_a_stranger(self, path: Path) -> Path:
        """Have `path` belong to somebody else than who runs this."""
        if os.geteuid() == 0:
            os.lchown(path, _STRANGER, -1)
        else:
            self.patch(os, "geteuid", lambda: _STRANGER)
        return path

    def write(self, path: Path) -> None:
        sink = FileSink(str(path))
        try:
            sink.write([memoryview(b"image")], 0)
            sink.commit()
        finally:
            sink.abandon()

    def refused(self, path: Path) -> str:
        """Why nothing is written at `path`; and what was there is as it was."""
        before = {p: os.readlink(p) if p.is_symlink() else "" for p in self.folder.rglob("*")}
        error = self.assertRaises(OSError, self.write, path)
        after = {p: os.readlink(p) if p.is_symlink() else "" for p in self.folder.rglob("*")}
        self.assertEqual(before, after)
        self.assertEqual(self.secret.read_bytes(), b"of root")
        self.assertEqual(error.filename, str(path))
        return str(error.strerror)


class LinkTests(_TestCase):
    """Symbolic links on the way to a file."""

    def test_a_strangers_in_the_place_of_the_file(self) -> None:
        for folder in (self.shared, self.folder):
            link = folder / "image"
            link.symlink_to(self.secret)
            self.assertIn("symbolic link: not followed", self.refused(self.of_a_stranger(link)))

    def test_a_strangers_where_all_may_write(self) -> None:
        (self.folder / "data").mkdir()
        link = self.shared / "data"
        link.symlink_to(self.folder / "data")
        self.assertIn("symbolic link", self.refused(self.of_a_stranger(link) / "image"))

    def test_a_strangers_behind_one_of_ones_own(self) -> None:
        link = self.shared / "image"
        link.symlink_to(self.secret)
        (self.folder / "own").symlink_to("tmp/image")
        self.of_a_stranger(link)
        if os.geteuid() == 0:
            self.assertIn("symbolic link", self.refused(self.folder / "own"))

    def test_ones_own(self) -> None:
        """To a file, to one that is not there yet, and to a folder on a larger disk."""
        for target in (self.secret, self.folder / "new"):
            link = self.shared / target.name
            link.symlink_to(target)
            self.write(link)
            self.assertEqual(target.read_bytes(), b"image")
            self.assertTrue(link.is_symlink())
        (self.folder / "disk").mkdir()
        (self.folder / "home").symlink_to("disk")
        self.write(self.folder / "home" / ".." / "home" / "image")
        self.assertEqual((self.folder / "disk" / "image").read_bytes(), b"image")

    def test_a_loop(self) -> None:
        (self.folder / "one").symlink_to("two")
        (self.folder / "two").symlink_to("one")
        self.assertEqual(self.refused(self.folder / "one"), os.strerror(errno.ELOOP))

    def test_a_spool(self) -> None:
        link = self.shared / "spool"
        link.symlink_to(self.folder)
        Spool(str(link), 10).close()
        self.of_a_stranger(link)
        error = self.assertRaises(OSError, prove_spool, str(link))
        self.assertIn("symbolic link", error.strerror)

    def test_what_is_exchanged_behind_the_look(self) -> None:
        """A folder on the way becomes a link once the file is begun: it stays where it was."""
        way, elsewhere = self.folder / "way", self.folder / "elsewhere"
        for folder in (way, elsewhere):
            folder.mkdir()
        sink = FileSink(str(way / "image"))
        way.rename(self.folder / "moved")
        way.symlink_to(elsewhere)
        sink.write([memoryview(b"image")], 0)
        sink.commit()
        self.assertEqual(list(elsewhere.iterdir()), [])
        self.assertEqual((self.folder / "moved" / "image").read_bytes(), b"image")


class FileTests(_TestCase):
    """Files that are there already."""

    def test_a_strangers_where_all_may_write(self) -> None:
        path = self.shared / "image"
        path.write_bytes(b"older")
        self.of_a_stranger(path)
        self.assertIn("is another user's", self.refused(path))
        self.assertEqual(path.read_bytes(), b"older")

    def test_a_strangers_where_only_some_may_write(self) -> None:
        """As of the user whose image it was before."""
        path = self.folder / "image"
        path.write_bytes(b"older")
        self.write(self.of_a_stranger(path))
        self.assertEqual(path.read_bytes(), b"image")

    def test_another_name_of_a_file_of_ones_own(self) -> None:
        """Only the name that is given is taken."""
        path = self.shared / "image"
        os.link(self.secret, path)
        self.write(path)
        self.assertEqual(path.read_bytes(), b"image")
        self.assertEqual(self.secret.read_bytes(), b"of root")

    def test_another_name_in_the_place_of_a_part_that_is_kept(self) -> None:
        """It would be cut to what counts of it."""
        os.link(self.secret, self.shared / f".image.{_IDENTITY}-kept.part")
        sink = FileSink(str(self.shared / "image"))
        self.assertEqual(sink.resume(_IDENTITY, 4), 0)
        sink.abandon()
        self.assertEqual(self.secret.read_bytes(), b"of root")


class FolderTests(_TestCase):
    """Folders that are to be used."""

    def test_a_strangers_where_all_may_write(self) -> None:
        path = self.shared / "registry"
        path.mkdir()
        os.close(trusted_path.open_folder(str(path)))
        self.of_a_stranger(path)
        error = self.assertRaises(OSError, trusted_path.open_folder, str(path))
        self.assertIn("is another user's", error.strerror)

    def test_every_way_to_write_one(self) -> None:
        here = os.stat(self.folder)
        (self.folder / "link").symlink_to(self.folder)
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.shared)
        paths = ("", "/", "/.", "/tmp/..", "//", "/link", "/link/", "/link/tmp/../.")
        for path in (*(f"{self.folder}{end}" for end in paths), "..", "../tmp/.."):
            fd = trusted_path.open_folder(path)
            self.assertTrue(os.path.samestat(os.fstat(fd), here), path)
            os.close(fd)
        for path, number in (("", 2), ("no/x", 2), ("../secret/x/x", 20)):
            error = self.assertRaises(
                OSError, trusted_path.open_parent, f"{path}/x" if path else ""
            )
            self.assertEqual(error.errno, number, path)

    def test_no_descriptor_is_left(self) -> None:
        (self.folder / "link").symlink_to(self.folder)
        before = os.listdir("/proc/self/fd")
        for path in ("link/link/no", "link/.", "link/no/no", "secret/no", "link", "tmp"):
            try:
                os.close(trusted_path.open_folder(str(self.folder / path)))
            except OSError:
                pass
        self.assertEqual(os.listdir("/proc/self/fd"), before)
