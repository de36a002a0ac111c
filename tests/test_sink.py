"""Where images go: files under their name only when whole, and streams with awkward readers."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from unittest import SkipTest, mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.files import atomic_file, fdio
from kollacast.files.atomic_file import prove_writable
from kollacast.files.file_sink import FileSink
from kollacast.files.stream_sink import StreamSink

_PATIENCE_S = 60.0


def _views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


class LendingTests(SynchronousTestCase):
    """What threads work with is given back once, and never while one works with it."""

    def setUp(self) -> None:
        self.given_back = 0
        self.lending = fdio.Lending(self._give_back)

    def _give_back(self) -> None:
        self.given_back += 1

    def test_while_nobody_works_with_it(self) -> None:
        with self.lending.lend():
            pass
        self.assertEqual((self.given_back, self.lending.is_off()), (0, False))
        self.lending.end()
        self.lending.end()
        self.assertEqual((self.given_back, self.lending.is_off()), (1, True))

    def test_after_the_last_who_works_with_it(self) -> None:
        with self.lending.lend():
            with self.assertRaises(KeyError), self.lending.lend():
                self.lending.end()
                raise KeyError
            self.assertEqual((self.given_back, self.lending.is_off()), (0, True))
        self.assertEqual(self.given_back, 1)

    def test_nobody_gets_it_any_more(self) -> None:
        self.lending.end()
        for attempt in (self.lending.prove, self.lending.lend().__enter__):
            self.assertEqual(self.assertRaises(OSError, attempt).errno, errno.ECANCELED)
        self.assertEqual(self.given_back, 1)


class FileSinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "image.tgz"

    def sink(self) -> FileSink:
        return FileSink(str(self.path))

    def test_commit(self) -> None:
        sink = self.sink()
        sink.write(_views(b"one", b"", b"two"), 0)
        sink.write(_views(b"three"), 6)
        self.assertFalse(self.path.exists())
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"onetwothree")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_empty(self) -> None:
        sink = self.sink()
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"")

    def test_more_views_than_one_call_takes(self) -> None:
        parts = [bytes([n % 251]) * (n % 7) for n in range(3000)]
        sink = self.sink()
        sink.write(_views(*parts), 0)
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"".join(parts))

    def test_abandon(self) -> None:
        sink = self.sink()
        sink.write(_views(b"half"), 0)
        sink.abandon()
        self.assertEqual(os.listdir(self.folder), [])
        sink.abandon()
        error = self.assertRaises(OSError, sink.write, _views(b"more"), 0)
        self.assertEqual(error.errno, errno.ECANCELED)
        self.assertRaises(OSError, sink.commit)
        self.assertEqual(os.listdir(self.folder), [])

    def test_older_file_until_commit(self) -> None:
        self.path.write_bytes(b"older")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        self.assertEqual(self.path.read_bytes(), b"older")
        sink.abandon()
        self.assertEqual(self.path.read_bytes(), b"older")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"new")

    def test_abandon_after_commit(self) -> None:
        sink = self.sink()
        sink.commit()
        sink.abandon()
        self.assertTrue(self.path.exists())

    def test_content_is_on_disk_before_the_name(self) -> None:
        sink = self.sink()
        there: list[bool] = []
        self.patch(os, "fsync", lambda _: there.append(self.path.exists()))
        sink.commit()
        self.assertEqual(there, [False, True])

    def test_commit_that_fails(self) -> None:
        self.path.write_bytes(b"older")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        self.patch(os, "fsync", mock.Mock(side_effect=OSError(errno.EIO, "broken")))
        self.assertRaises(OSError, sink.commit)
        sink.abandon()
        self.assertEqual(self.path.read_bytes(), b"older")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_mode(self) -> None:
        before = os.umask(0o027)
        try:
            self.sink().commit()
        finally:
            os.umask(before)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_symbolic_link_stays(self) -> None:
        target = self.folder / "real.tgz"
        target.write_bytes(b"older")
        self.path.symlink_to("real.tgz")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        sink.commit()
        self.assertTrue(self.path.is_symlink())
        self.assertEqual(target.read_bytes(), b"new")

    def test_a_name_that_cannot_be_taken(self) -> None:
        """The older file is there, and under no other name."""
        self.path.write_bytes(b"older")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        with mock.patch.object(os, "rename", side_effect=OSError(errno.EIO, "broken")):
            self.assertRaises(OSError, sink.commit)
        sink.abandon()
        self.assertEqual(self.path.read_bytes(), b"older")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_a_folder_that_does_not_keep_the_name(self) -> None:
        """The content is on disk, and its name may not be: it stands for what it did before."""
        fsync = os.fsync

        def fail(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self.assertEqual(self.path.read_bytes(), b"new")
                raise OSError(errno.EIO, "broken")
            fsync(fd)

        for before in (None, b"older"):
            if before is not None:
                self.path.write_bytes(before)
            sink = self.sink()
            sink.write(_views(b"new"), 0)
            with mock.patch.object(os, "fsync", fail):
                self.assertEqual(self.assertRaises(OSError, sink.commit).errno, errno.EIO)
            sink.abandon()
            self.assertEqual(self.path.read_bytes() if self.path.exists() else None, before)
            self.assertEqual(os.listdir(self.folder), ["image.tgz"] if before else [])

    def test_nothing_is_seen_before_the_commit(self) -> None:
        """So nothing stays when the process is killed."""
        if atomic_file._create_nameless(os.open(self.folder, os.O_PATH)) is None:
            raise SkipTest("the file system has no files without a name")
        self.path.write_bytes(b"older")
        sink = self.sink()
        sink.write(_views(b"new"), 0)
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])
        sink.abandon()

    def test_a_gap_does_not_count(self) -> None:
        """However the run ends that has left it: here without a word, as by SIGKILL."""
        child = os.fork()
        if child == 0:
            try:
                sink = self.sink()
                sink.resume("ab", 4)
                sink.write(_views(b"headhead"), 0)
                sink.mark(8)
                sink.write(_views(b"tail"), 16)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        sink = self.sink()
        self.assertEqual(sink.resume("ab", 4), 8)
        sink.write(_views(b"-more-"), 8)
        sink.mark(None)
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"headhead-more-")
        self.assertEqual(os.listxattr(self.path), [])
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_a_gap_and_an_interrupt(self) -> None:
        sink = self.sink()
        sink.resume("ab", 4)
        sink.write(_views(b"head"), 0)
        sink.mark(4)
        sink.write(_views(b"tail"), 16)
        sink.abandon(keep=True)
        sink = self.sink()
        self.assertEqual(sink.resume("ab", 4), 4)
        sink.write(_views(b"rest", b"ends"), 4)
        sink.commit()
        self.assertEqual(self.path.read_bytes(), b"headrestends")

    def test_writes_out_of_order(self) -> None:
        sink = self.sink()
        sink.resume("ab", 4)
        self.assertTrue(sink.can_skip)
        sink.mark(0)
        sink.write(_views(b"last"), 8)
        sink.write(_views(b"firs"), 0)
        sink.write(_views(b"next"), 4)
        sink.mark(None)
        self.assertEqual(sink.read_back(0, 12), b"firsnextlast")
        sink.abandon()
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_file_system_without_attributes(self) -> None:
        self.patch(os, "setxattr", mock.Mock(side_effect=OSError(errno.ENOTSUP, "none here")))
        sink = self.sink()
        self.assertEqual(sink.resume("ab", 4), 0)
        self.assertFalse(sink.can_skip)
        sink.abandon()

    def test_longest_name(self) -> None:
        self.path = self.folder / ("n" * 255)
        self.sink().commit()
        self.assertEqual(os.listdir(self.folder), ["n" * 255])

    def test_full_disk(self) -> None:
        sink = self.sink()
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.patch(os, "writev", mock.Mock(side_effect=full))
        error = self.assertRaises(OSError, sink.write, _views(b"x"), 0)
        self.assertEqual(error.errno, errno.ENOSPC)
        sink.abandon()
        self.assertEqual(os.listdir(self.folder), [])

    def test_not_inherited(self) -> None:
        with self.sink().descriptor() as fd:
            self.assertFalse(os.get_inheritable(fd))

    def test_prove_writable(self) -> None:
        prove_writable(str(self.path))
        self.assertEqual(os.listdir(self.folder), [])
        self.assertRaises(IsADirectoryError, prove_writable, str(self.folder))
        self.assertRaises(FileNotFoundError, prove_writable, str(self.folder / "no" / "image"))
        self.assertRaises(OSError, prove_writable, "/dev/null")
        for path in ("", ".", "..", f"{self.folder}/", f"{self.folder}/.", "no/.."):
            self.assertRaises(OSError, prove_writable, path)


class NamedFileSinkTests(FileSinkTests):
    """The same where the file system has no files without a name."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(atomic_file, "_create_nameless", lambda _folder: None)

    def test_nothing_is_seen_before_the_commit(self) -> None:
        sink = self.sink()
        [name] = os.listdir(self.folder)
        self.assertTrue(name.startswith(".image.tgz."), name)
        sink.abandon()


class KeptTests(SynchronousTestCase):
    """What a run leaves for the next one, and goes on from."""

    _ONE, _OTHER = "1" * 32, "2" * 32

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "image.tgz"

    def run_on(self, identity: str, data: bytes, unit: int = 4) -> tuple[FileSink, int]:
        """A run that takes up what is kept of this image, and adds data."""
        sink = FileSink(str(self.path))
        kept = sink.resume(identity, unit)
        sink.write(_views(data), kept)
        return sink, kept

    def test_the_next_run_goes_on(self) -> None:
        first, kept = self.run_on(self._ONE, b"0123456789")
        self.assertEqual(kept, 0)
        first.abandon(keep=True)
        self.assertEqual(len(os.listdir(self.folder)), 1)
        second, kept = self.run_on(self._ONE, b"89ab")
        self.assertEqual(kept, 8)
        self.assertEqual(second.read_back(0, 99), b"0123456789ab")
        second.commit()
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])
        self.assertEqual(self.path.read_bytes(), b"0123456789ab")

    def test_a_part_of_another_image_goes(self) -> None:
        first, _ = self.run_on(self._ONE, b"0123456789")
        first.abandon(keep=True)
        second, kept = self.run_on(self._OTHER, b"x")
        self.assertEqual(kept, 0)
        second.abandon()
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_run_that_looks_twice(self) -> None:
        """Its connection has broken while it looked the first time."""
        first, _ = self.run_on(self._ONE, b"01234567")
        first.abandon(keep=True)
        second = FileSink(str(self.path))
        self.assertEqual([second.resume(self._ONE, 4) for _ in range(2)], [8, 8])
        second.write(_views(b"89"), 8)
        second.commit()
        self.assertEqual(self.path.read_bytes(), b"0123456789")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_a_run_that_looks_for_another_image(self) -> None:
        """The server is another one when it has come back."""
        first, _ = self.run_on(self._ONE, b"01234567")
        self.assertEqual(first.resume(self._OTHER, 4), 0)
        first.write(_views(b"abcd"), 0)
        first.abandon(keep=True)
        second, kept = self.run_on(self._OTHER, b"efgh")
        self.assertEqual(kept, 4)
        second.commit()
        self.assertEqual(self.path.read_bytes(), b"abcdefgh")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_a_run_that_starts_over(self) -> None:
        """What it writes then is of no image that has a name here."""
        first, _ = self.run_on(self._ONE, b"01234567")
        first.restart()
        first.write(_views(b"abcd"), 0)
        # As when it is killed: nothing is tidied up.
        second, kept = self.run_on(self._ONE, b"0123")
        self.assertEqual(kept, 0)
        second.commit()
        self.assertEqual(self.path.read_bytes(), b"0123")
        first.abandon(keep=True)
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_two_runs_at_once_do_not_share_it(self) -> None:
        first, _ = self.run_on(self._ONE, b"0123")
        second, kept = self.run_on(self._ONE, b"abcd")
        self.assertEqual(kept, 0)
        second.commit()
        self.assertEqual(self.path.read_bytes(), b"abcd")
        first.commit()
        self.assertEqual(self.path.read_bytes(), b"0123")
        self.assertEqual(os.listdir(self.folder), ["image.tgz"])

    def test_nothing_is_no_part(self) -> None:
        sink, _ = self.run_on(self._ONE, b"")
        sink.abandon(keep=True)
        self.assertEqual(os.listdir(self.folder), [])

    def test_not_when_told_otherwise(self) -> None:
        sink, _ = self.run_on(self._ONE, b"0123")
        sink.abandon()
        self.assertEqual(os.listdir(self.folder), [])


class NamedKeptTests(KeptTests):
    """The same where the file system has no files without a name."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(atomic_file, "_create_nameless", lambda _folder: None)


class ShortWritesTests(SynchronousTestCase):
    """A kernel that takes less than it is offered, at any byte."""

    @settings(max_examples=100, deadline=None)
    @given(
        parts=st.lists(st.binary(max_size=40), max_size=30),
        takes=st.lists(st.integers(0, 25), min_size=1),
    )
    def test_every_byte_once(self, parts: list[bytes], takes: list[int]) -> None:
        taken = bytearray()
        appetite = iter(takes)

        def writev(fd: int, views: list[memoryview]) -> int:
            offered = b"".join(views)
            size = min(next(appetite, 1000), len(offered))
            if not size and offered:
                raise BlockingIOError(errno.EAGAIN, "try again")
            taken.extend(offered[:size])
            return size

        read_end, write_end = os.pipe()
        try:
            with mock.patch.object(os, "writev", writev):
                fdio.write_all(write_end, _views(*parts), False, lambda: False)
        finally:
            os.close(read_end)
            os.close(write_end)
        self.assertEqual(bytes(taken), b"".join(parts))


class _Reader(threading.Thread):
    """Reads a descriptor to its end."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.data = b""
        self.start()

    def run(self) -> None:
        with open(self.fd, "rb", buffering=0, closefd=False) as file:
            self.data = file.readall()


class StreamSinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.addCleanup(os.close, self.read_end)

    def test_pipe(self) -> None:
        keeper = os.dup(self.write_end)
        image = os.urandom(3 << 20)
        sink = StreamSink(self.write_end)
        reader = _Reader(self.read_end)
        sink.write(_views(image[:5], b"", image[5 : 2 << 20], image[2 << 20 :]), 0)
        sink.commit()
        os.close(keeper)
        reader.join(_PATIENCE_S)
        self.assertEqual(reader.data, image)

    def test_mode_of_the_inherited_descriptor_stays(self) -> None:
        keeper = os.dup(self.write_end)
        self.addCleanup(os.close, keeper)
        sink = StreamSink(self.write_end)
        self.assertTrue(os.get_blocking(keeper))
        sink.abandon()

    def test_descriptor_without_a_mode_of_its_own(self) -> None:
        from kollacast.files import stream_sink as module

        self.patch(module, "_with_a_mode_of_its_own", lambda fd: fd)
        self.test_pipe()

    def test_broken_pipe(self) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        sink = StreamSink(write_end)
        self.assertRaises(BrokenPipeError, sink.write, _views(b"x"), 0)
        sink.abandon()

    def test_reader_that_leaves_while_a_write_waits(self) -> None:
        read_end, write_end = os.pipe()
        sink = StreamSink(write_end)
        errors = self._write_until_it_waits(sink, read_end)
        os.close(read_end)
        self.assertIsInstance(errors.join_and_get(), BrokenPipeError)
        sink.abandon()

    def test_abandon_while_a_write_waits(self) -> None:
        sink = StreamSink(self.write_end)
        errors = self._write_until_it_waits(sink, self.read_end)
        sink.abandon()
        error = errors.join_and_get()
        self.assertEqual(getattr(error, "errno", None), errno.ECANCELED)

    def test_abandon_while_a_write_waits_on_a_blocking_pipe(self) -> None:
        from kollacast.files import stream_sink as module

        self.patch(module, "_with_a_mode_of_its_own", lambda fd: fd)
        self.test_abandon_while_a_write_waits()

    def test_regular_file_is_on_disk(self) -> None:
        path = self.mktemp()
        synced: list[int] = []
        self.patch(os, "fsync", synced.append)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        sink = StreamSink(fd)
        sink.write(_views(b"image"), 0)
        sink.commit()
        self.assertEqual(synced, [fd])
        self.assertEqual(Path(path).read_bytes(), b"image")

    def test_a_disk_is_synced_and_its_error_told(self) -> None:
        """Whatever the error is: only what is no disk has nothing to sync."""
        for code in (errno.EIO, errno.ENOSPC, errno.EINVAL):
            fd = os.open(self.mktemp(), os.O_WRONLY | os.O_CREAT)
            with mock.patch.object(fdio, "is_lasting", return_value=True):
                sink = StreamSink(fd)
            sink.write(_views(b"image"), 0)
            with mock.patch.object(os, "fsync", side_effect=OSError(code, os.strerror(code))):
                error = self.assertRaises(OSError, sink.commit)
            self.assertEqual(error.errno, code)

    def _write_until_it_waits(self, sink: StreamSink, read_end: int) -> _Attempt:
        """Start a write of more than the pipe holds, and return once it is under way."""
        attempt = _Attempt(sink)
        attempt.start()
        # The first bytes are there: the write is under way, and it can only end by an error.
        self.assertTrue(os.read(read_end, 1))
        return attempt


class _Attempt(threading.Thread):
    """Writes more than any pipe holds and keeps the error it ends with."""

    def __init__(self, sink: StreamSink) -> None:
        super().__init__()
        self._sink = sink
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._sink.write(_views(bytes(8 << 20)), 0)
        except Exception as error:
            self._error = error

    def join_and_get(self) -> Exception | None:
        self.join(_PATIENCE_S)
        return self._error
