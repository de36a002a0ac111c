"""A registry's storage as it comes in: bytes in, a tree out, whole or not at all."""

from __future__ import annotations

import bz2
import errno
import fcntl
import gzip
import io
import lzma
import os
import random
import resource
import struct
import tarfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.images import versions
from kollacast.images.archive import read_storage
from kollacast.images.layout import BadImage
from kollacast.images.registry_sink import RegistrySink
from kollacast.images.versions import read_record
from tests import registry_storage
from tests.registry_storage import (
    PREFIX,
    STORAGE,
    archive_of,
    blob_path,
    digest_of,
    file_member,
    members_of,
    storage_of,
)

_SHARED = random.Random(0).randbytes(70_000)
_FILES = storage_of({"kolla/one:1": [_SHARED, b"one"], "kolla/two:1": [_SHARED, b"two"]})
_OTHER = storage_of({"kolla/three:2": [b"three"]})
_DIGEST = "sha256:" + "ab" * 32


def _tree(folder: Path) -> dict[str, bytes]:
    """The files of a storage, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class _TestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())

    def feed(self, data: bytes, pieces: Sequence[int] = (), digest: str = _DIGEST) -> None:
        """What the client does: write in pieces, commit; abandon when that fails."""
        sink = RegistrySink(str(self.root))
        try:
            start = 0
            for size in pieces:
                sink.write([memoryview(data)[start : start + size]], 0)
                start += size
            sink.write([memoryview(data)[start:]], 0)
            sink.commit(digest)
        finally:
            sink.abandon()
            sink.clear()

    def storage(self, version: str = "current") -> dict[str, bytes]:
        return _tree(self.root / version / STORAGE)

    def refused(self, data: bytes) -> str:
        """Why `data` is refused. What was there before still is, and nothing else."""
        if not self.root.exists():
            self.feed(archive_of(members_of(_OTHER)))
        error = self.assertRaises(OSError, self.feed, data)
        self.assertEqual(self.storage(), _OTHER)
        self.assertEqual(os.listdir(self.root / "versions"), ["1"])
        self.assertNotIn("\n", error.strerror)
        return error.strerror


class UnpackingTests(_TestCase):
    """What comes in whole."""

    def test_every_compression(self) -> None:
        for method in ("gzip", "zstd", "none"):
            with self.subTest(method):
                self.feed(registry_storage.compressed(archive_of(members_of(_FILES)), method))
                self.assertEqual(self.storage(), _FILES)

    def test_gzip_in_several_members(self) -> None:
        archive = archive_of(members_of(_FILES))
        self.feed(gzip.compress(archive[:5000]) + gzip.compress(archive[5000:]))
        self.assertEqual(self.storage(), _FILES)

    def test_what_pzstd_makes(self) -> None:
        """A skippable frame before each of its frames, the very first included."""
        archive = archive_of(members_of(_FILES))
        frames = [zstandard.compress(piece) for piece in (archive[:5000], archive[5000:])]
        self.feed(b"".join(_skippable(struct.pack("<I", len(frame))) + frame for frame in frames))
        self.assertEqual(self.storage(), _FILES)
        self.feed(_skippable(bytes(100_000), 0x5F) + zstandard.compress(archive))
        self.assertEqual(self.storage(), _FILES)

    @settings(max_examples=25, deadline=None)
    @given(
        st.sampled_from(["gzip", "zstd", "none"]),
        st.lists(st.one_of(st.integers(0, 9), st.integers(0, 100_000)), max_size=12),
    )
    def test_any_pieces(self, method: str, pieces: list[int]) -> None:
        self.root = Path(self.mktemp())
        data = registry_storage.compressed(archive_of(members_of(_FILES)), method)
        self.feed(data, pieces)
        self.assertEqual(self.storage(), _FILES)

    def test_other_writers_of_archives(self) -> None:
        """With folders, ``./`` or no prefix, in pax headers, and with what registries leave."""
        folder = tarfile.TarInfo("./tmp/registry")
        folder.type = tarfile.DIRTYPE
        more = [
            folder,
            tarfile.TarInfo("tmp/registry/scheduler-state.json"),
            tarfile.TarInfo(f"{PREFIX}/repositories/kolla/one/_uploads/4711/startedat"),
        ]
        for prefix in (f"./{PREFIX}", STORAGE):
            for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
                members = [file_member(f"{prefix}/{path}", _FILES[path]) for path in _FILES]
                self.feed(archive_of([*((member, b"") for member in more), *members], form))
                self.assertEqual(self.storage(), _FILES)

    def test_a_member_twice(self) -> None:
        """An equal blob again is harmless, a damaged one is no blob, and the last link wins."""
        current = "repositories/kolla/one/_manifests/tags/1/current/link"
        wrong = {
            blob_path(digest_of(_SHARED)): b"half of it",
            current: registry_storage.manifest_of(_FILES, "kolla/two:1").encode(),
        }
        self.feed(archive_of([*members_of(wrong), *members_of(_FILES), *members_of(_FILES)]))
        self.assertEqual(self.storage(), _FILES)
        self.feed(
            archive_of([*members_of(_FILES), *members_of({blob_path(digest_of(b"one")): b""})])
        )
        self.assertEqual(self.storage(), _FILES)

    def test_archives_behind_each_other(self) -> None:
        """As `cat` leaves them, compressed or not."""
        one, two = (
            archive_of(members_of(storage_of({f"kolla/{name}:1": [_SHARED, name.encode()]})))
            for name in ("one", "two")
        )
        for method in ("gzip", "zstd", "none"):
            with self.subTest(method):
                self.feed(
                    b"".join(registry_storage.compressed(each, method) for each in (one, two))
                )
                self.assertEqual(self.storage(), _FILES)

    def test_what_no_image_needs_is_left_out(self) -> None:
        """Whatever it is, with a line for each."""
        orphan = f"{PREFIX}/{blob_path(digest_of(b'orphan'))}"
        link = tarfile.TarInfo(f"{PREFIX}/repositories/kolla/alias")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        said: list[str] = []
        sink = RegistrySink(str(self.root), said.append)
        data = archive_of([file_member(orphan, b""), (link, b""), *members_of(_FILES)])
        sink.write([memoryview(data)], 0)
        sink.commit(_DIGEST)
        self.assertEqual(self.storage(), _FILES)
        self.assertEqual(
            said,
            [
                f"left out: '{link.name}': is a symbolic link",
                f"left out: '{orphan}': is damaged: the bytes have another digest",
            ],
        )
        self.assertFalse((self.root / "current" / STORAGE / "repositories/kolla/alias").exists())

    def test_record(self) -> None:
        data = archive_of(members_of(_FILES))
        self.assertIsNone(read_record(str(self.root)))
        self.feed(data)
        record = read_record(str(self.root))
        assert record is not None
        self.assertEqual((record.digest, record.bytes), (_DIGEST, len(data)))
        self.assertEqual(
            [(image.name, image.digest) for image in record.images],
            [
                (name, registry_storage.manifest_of(_FILES, name))
                for name in ("kolla/one:1", "kolla/two:1")
            ],
        )
        self.assertEqual(record.as_json()["sha256"], "ab" * 32)

    def test_readable_by_the_registry_whatever_the_umask(self) -> None:
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.feed(archive_of(members_of(_FILES)))
        for path in (self.root / "current").resolve().rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o777, 0o755 if path.is_dir() else 0o644)


class VersionTests(_TestCase):
    """Which version is current, and which are kept."""

    def test_previous_is_kept_and_older_ones_are_not(self) -> None:
        for number in range(1, 5):
            self.feed(archive_of(members_of(storage_of({f"kolla/one:{number}": [b"layer"]}))))
        self.assertEqual(sorted(os.listdir(self.root / "versions")), ["3", "4"])
        self.assertEqual(os.readlink(self.root / "current"), "versions/4")
        self.assertEqual(os.readlink(self.root / "previous"), "versions/3")

    def test_an_operator_has_gone_back_by_hand(self) -> None:
        """However the link is written, the version that it leads to is the one before."""
        for target in ("versions/1", "versions/1/", "previous", "./versions/../versions/1", ""):
            with self.subTest(target):
                self.root = Path(self.mktemp())
                for tag in range(2):
                    files = storage_of({f"kolla/one:{tag}": [b"layer"]})
                    self.feed(archive_of(members_of(files)))
                (self.root / "current").unlink()
                absolute = os.path.abspath(self.root / "versions" / "1")
                os.symlink(target or absolute, self.root / "current")
                self.feed(archive_of(members_of(_FILES)))
                self.assertEqual(sorted(os.listdir(self.root / "versions")), ["1", "3"])
                self.assertEqual(os.readlink(self.root / "current"), "versions/3")
                self.assertEqual(os.readlink(self.root / "previous"), "versions/1")

    def test_hidden_until_commit(self) -> None:
        self.feed(archive_of(members_of(_OTHER)))
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_FILES)))], 0)
        self.assertEqual(self.storage(), _OTHER)
        sink.commit(_DIGEST)
        self.assertEqual(self.storage(), _FILES)
        self.assertEqual(self.storage("previous"), _OTHER)

    def test_on_disk_before_it_is_current(self) -> None:
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_FILES)))], 0)
        calls = mock.Mock()
        self.patch(versions, "_sync_all", calls.sync_all)
        self.patch(os, "fsync", calls.fsync)
        rename = os.rename
        self.patch(os, "rename", lambda *to, **in_: (calls.rename(), rename(*to, **in_)))
        sink.commit(_DIGEST)
        names = [name for name, _, _ in calls.mock_calls]
        self.assertEqual(names, ["sync_all", "rename", "fsync", "rename", "fsync"])

    def test_leftovers_of_a_killed_run(self) -> None:
        (self.root / "versions" / ".incoming.part" / "docker").mkdir(parents=True)
        (self.root / ".current.part").symlink_to("nowhere")
        self.feed(archive_of(members_of(_FILES)))
        self.assertEqual(os.listdir(self.root / "versions"), ["1"])
        self.assertEqual(sorted(os.listdir(self.root)), ["current", "versions"])

    def test_a_directory_in_the_place_of_a_link(self) -> None:
        """As an engine makes it that is to mount what is not there yet: named before anything."""
        for name in ("current", "previous"):
            for make in (Path.mkdir, Path.touch):
                with self.subTest(name):
                    self.root = Path(self.mktemp())
                    self.root.mkdir()
                    make(self.root / name)
                    for attempt in (RegistrySink, versions.prove_root):
                        error = self.assertRaises(OSError, attempt, str(self.root))
                        self.assertIn(f"{self.root / name} is a ", error.strerror)
                    self.assertEqual(os.listdir(self.root), [name])

    def test_a_strangers_link_in_the_place_of_the_versions(self) -> None:
        """And one's own, to a larger disk."""
        disk = Path(os.path.realpath(self.mktemp()))
        disk.mkdir()
        self.root.mkdir()
        (self.root / "versions").symlink_to(disk)
        self.feed(archive_of(members_of(_FILES)))
        self.assertEqual(os.listdir(disk), ["1"])
        self.assertEqual(self.storage(), _FILES)
        if os.geteuid() == 0:
            os.lchown(self.root / "versions", 4711, -1)
        else:
            self.patch(os, "geteuid", lambda: 4711)
        for attempt in (RegistrySink, versions.prove_root):
            error = self.assertRaises(OSError, attempt, str(self.root))
            self.assertIn("symbolic link: not followed", error.strerror)
        self.assertEqual(os.listdir(disk), ["1"])

    def test_a_folder_that_goes_when_it_is_opened(self) -> None:
        """Who had made it has failed in this moment, and left nothing behind."""
        flock = fcntl.flock

        def flock_late(fd: int, how: int) -> None:
            (self.root / "versions").rmdir()
            flock(fd, how)

        with mock.patch.object(fcntl, "flock", flock_late):
            error = self.assertRaises(OSError, RegistrySink, str(self.root))
        self.assertEqual(error.errno, errno.EBUSY)
        self.assertFalse(self.root.exists())
        self.feed(archive_of(members_of(_FILES)))

    def test_a_failure_in_the_last_moment(self) -> None:
        """Whatever fails once the version has its number: the ones before, and no other copy."""
        for before in (0, 1, 2):
            for call in ("symlink", "fsync", "rename", "sync_folder"):
                for number in range(4):
                    for error in (OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()):
                        with self.subTest(f"{call} {number}, behind {before}, {error}"):
                            self._fail_at(before, call, number, error)

    def _fail_at(self, before: int, call: str, number: int, error: BaseException) -> None:
        self.root = Path(self.mktemp())
        for tag in range(before):
            self.feed(archive_of(members_of(storage_of({f"kolla/one:{tag}": [b"layer"]}))))
        module = versions if call == "sync_folder" else os
        original, calls = getattr(module, call), 0

        def fail(*words: object, **more: object) -> object:
            nonlocal calls
            # What is removed behind it is another matter.
            if call != "rename" or str(words[0]).endswith(".part"):
                calls += 1
                if calls == number + 1:
                    raise error
            return original(*words, **more)

        def state() -> object:
            names = {name: os.readlink(self.root / name) for name in self._links()}
            return names, sorted(os.listdir(self.root / "versions"))

        (self.root / "versions").mkdir(parents=True, exist_ok=True)
        expected = state()
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_FILES)))], 0)
        with mock.patch.object(module, call, fail):
            try:
                sink.commit(_DIGEST)
            except (OSError, KeyboardInterrupt):
                pass
            else:
                self.assertLessEqual(calls, number)
                return
        sink.abandon()
        sink.clear()
        self.assertEqual(state(), expected)

    def _links(self) -> list[str]:
        return [name for name in ("current", "previous") if (self.root / name).is_symlink()]

    def test_one_at_a_time(self) -> None:
        sink = RegistrySink(str(self.root))
        error = self.assertRaises(OSError, RegistrySink, str(self.root))
        self.assertEqual(error.errno, errno.EBUSY)
        sink.abandon()
        sink.clear()
        self.feed(archive_of(members_of(_FILES)))

    def test_restart(self) -> None:
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_OTHER)))[:2000]], 0)
        sink.restart()
        data = archive_of(members_of(_FILES))
        sink.write([memoryview(data)], 0)
        sink.commit(_DIGEST)
        self.assertEqual(self.storage(), _FILES)
        record = read_record(str(self.root))
        assert record is not None
        self.assertEqual(record.bytes, len(data))


class AbandonTests(_TestCase):
    """A run that ends early."""

    def assertNothingLeft(self) -> None:
        self.assertFalse(self.root.exists())

    def test_half_way(self) -> None:
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_FILES)))[:50_000]], 0)
        sink.abandon()
        sink.abandon()
        sink.clear()
        error = self.assertRaises(OSError, sink.write, [memoryview(b"more")], 0)
        self.assertEqual(error.errno, errno.ECANCELED)
        self.assertRaises(OSError, sink.commit)
        self.assertNothingLeft()

    def test_whole_and_not_to_be_kept(self) -> None:
        """All has come, and the client finds that it is another image."""
        sink = RegistrySink(str(self.root))
        sink.write([memoryview(archive_of(members_of(_FILES)))], 0)
        sink.abandon()
        sink.clear()
        self.assertNothingLeft()

    def test_wakes_a_write_that_waits(self) -> None:
        """The unpacking stands still, as on a disk that does."""
        stands, goes_on = threading.Event(), threading.Event()
        self.addCleanup(goes_on.set)

        def stand(_: object) -> None:
            stands.set()
            goes_on.wait()

        self.patch(versions.Versions, "begin", stand)
        sink = RegistrySink(str(self.root))
        errors: list[OSError] = []

        def write() -> None:
            try:
                sink.write([memoryview(bytes(8_000_000))], 0)
            except OSError as error:
                errors.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        self.assertTrue(stands.wait(60))
        sink.abandon()
        writer.join(60)
        self.assertFalse(writer.is_alive())
        self.assertEqual([error.errno for error in errors], [errno.ECANCELED])
        goes_on.set()
        sink.clear()
        self.assertNothingLeft()

    def test_after_commit(self) -> None:
        self.feed(archive_of(members_of(_FILES)))  # which abandons and clears in the end
        self.assertEqual(self.storage(), _FILES)


class BadArchiveTests(_TestCase):
    """What is refused, each with the reason in one line."""

    def test_no_archive(self) -> None:
        for data in (b"", b"x", bytes(100), random.Random(1).randbytes(100_000)):
            self.assertIn("it is no tar archive of a registry's storage", self.refused(data))

    def test_no_registry(self) -> None:
        archive = archive_of([file_member("manifest.json", b"{}")])
        self.assertIn("holds no image of a registry", self.refused(archive))
        self.assertIn("holds no image of a registry", self.refused(bytes(10240)))

    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(["gzip", "zstd", "none"]), st.floats(0, 0.999))
    def test_cut_short(self, method: str, share: float) -> None:
        self.root = Path(self.mktemp())
        data = registry_storage.compressed(_padless(archive_of(members_of(_FILES))), method)
        reason = self.refused(data[: int(len(data) * share)])
        self.assertRegex(reason, "cut short|no tar archive|unexpected end")

    def test_cut_short_in_its_last_bytes(self) -> None:
        """All files are whole then, and the checksum of the compression is not there."""
        plain = archive_of(members_of(_FILES))
        with_sum = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
        without = zstandard.ZstdCompressor(write_checksum=False).compress(plain)
        for data in (with_sum, without, registry_storage.compressed(plain, "gzip")):
            for missing in (1, 3, 4, 7):
                self.assertIn("cut short", self.refused(data[:-missing]))

    def test_a_window_that_takes_too_much_memory(self) -> None:
        """As of `zstd --long=31`; at 128 MiB, as of `zstd --ultra -22`, it is still taken."""
        archive = archive_of(members_of(_FILES))
        for log, reason in (
            (28, "it needs more memory to be decompressed than the 128 MiB"),
            (27, ""),
        ):
            # as of a pipe: were the size known, the window would be no larger than it
            parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
            with zstandard.open(
                path := self.mktemp(), "wb", zstandard.ZstdCompressor(compression_params=parameters)
            ) as file:
                file.write(archive)
            data = Path(path).read_bytes()
            if reason:
                self.assertIn(reason, self.refused(data))
            else:
                self.feed(data)
        self.assertEqual(self.storage(), _FILES)

    def test_compressed_by_other_programs(self) -> None:
        """Named, for whoever has to undo it; also where nothing is in it."""
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as file:
            file.writestr("storage.tar", bytes(1000))
        for program, data in (
            ("xz", lzma.compress(bytes(100_000))),
            ("xz", lzma.compress(b"")),
            ("lzma", lzma.compress(bytes(100_000), lzma.FORMAT_ALONE)),
            ("bzip2", bz2.compress(bytes(100_000), 1)),
            ("bzip2", bz2.compress(b"")),
            ("lz4", bytes.fromhex("04224d186440a7000000000005 5d cc 02")),
            ("zip", zipped.getvalue()),
        ):
            line = f"it is compressed by {program}, and only gzip and zstd are read"
            self.assertEqual(self.refused(data), line)

    def test_garbled(self) -> None:
        data = bytearray(gzip.compress(archive_of(members_of(_FILES))))
        data[len(data) // 2] ^= 0xFF
        self.assertRegex(self.refused(bytes(data)), "damaged")

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_any_damage(self, draw: st.DataObject) -> None:
        """Of headers too, with checksums that fit: it is refused in one way, or does no harm."""
        data = bytearray(archive_of(members_of(_OTHER)))
        for _ in range(draw.draw(st.integers(1, 3))):
            start = draw.draw(st.integers(0, len(data) // 512 - 1)) * 512
            data[start + draw.draw(st.integers(0, 511))] = draw.draw(st.integers(0, 255))
            header = data[start : start + 512]
            total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
            data[start + 148 : start + 156] = b"%06o\0 " % total
        method = draw.draw(st.sampled_from(["gzip", "zstd", "none"]))
        try:
            read_storage(io.BytesIO(registry_storage.compressed(bytes(data), method)))
        except BadImage as error:
            self.assertTrue(str(error.strerror).isprintable(), error.strerror)

    def test_blob_with_another_digest(self) -> None:
        files = {path: b"0" + data[1:] for path, data in _FILES.items() if data == _SHARED}
        reason = self.refused(archive_of(members_of({**_FILES, **files})))
        digest = digest_of(_SHARED)
        self.assertTrue(reason.startswith(f"its image kolla/one:1 lacks the blob {digest}: it is "))
        self.assertIn("is damaged: the bytes have another digest", reason)

    def test_blob_that_is_missing(self) -> None:
        files = {path: data for path, data in _FILES.items() if data != _SHARED}
        reason = self.refused(archive_of(members_of(files)))
        self.assertEqual(
            reason,
            f"its image kolla/one:1 lacks the blob {digest_of(_SHARED)};"
            " not whole, either: kolla/two:1",
        )

    def test_manifest_that_is_missing(self) -> None:
        digest = registry_storage.manifest_of(_FILES, "kolla/one:1")
        files = {path: data for path, data in _FILES.items() if path != blob_path(digest)}
        reason = self.refused(archive_of(members_of(files)))
        self.assertEqual(reason, f"its image kolla/one:1 lacks the manifest {digest}")

    def test_link_to_elsewhere(self) -> None:
        for content in (b"sha256:" + b"0" * 64, b"", b"x" * 71, b"y" * 5000):
            links = {path: content for path in _FILES if "/_layers/" in path}
            reason = self.refused(archive_of(members_of({**_FILES, **links})))
            self.assertIn("lacks the link in its repository to the blob", reason)
            self.assertIn("is damaged: it holds another digest", reason)

    def test_members_that_lead_out(self) -> None:
        for name in ("../x", "/etc/x", f"{PREFIX}/../../../../../x", "tmp/registry/../../../x"):
            archive = archive_of([*members_of(_FILES), file_member(name, b"x")])
            self.assertIn("leads out of the directory", self.refused(archive))
        self.assertFalse((self.root.parent / "x").exists())

    def test_members_of_other_kinds(self) -> None:
        path = f"{PREFIX}/repositories/kolla/one/_manifests/tags/1/current/link"
        for kind, name in (
            (tarfile.SYMTYPE, "a symbolic link"),
            (tarfile.LNKTYPE, "a link to '/etc/passwd', which"),
            (tarfile.CHRTYPE, "a device"),
            (tarfile.BLKTYPE, "a device"),
            (tarfile.FIFOTYPE, "a named pipe"),
            (b"V", "of a kind that is not known here"),
        ):
            member = tarfile.TarInfo(path)
            member.type = kind
            member.linkname = "/etc/passwd"
            with self.subTest(name):
                reason = self.refused(archive_of([*members_of(_FILES), (member, b"")]))
                self.assertIn("its image kolla/one:1 lacks the link of its tag: ", reason)
                self.assertIn(name, reason)

    def test_what_follows_the_end_and_is_no_archive(self) -> None:
        archive = archive_of(members_of(_FILES))
        reason = self.refused(archive + random.Random(2).randbytes(2000))
        self.assertIn("what follows its end is no archive", reason)
        reason = self.refused(archive + archive[:1024])
        self.assertIn("what follows its end is no archive", reason)

    def test_holes_that_make_no_sense(self) -> None:
        """A sparse member of exabytes, as an archive may claim in 100 bytes."""
        digest = digest_of(b"zeros")
        for field, value in (("size", "9" * 18), ("map", "5,1,0,1")):
            member, data = file_member(f"{PREFIX}/{blob_path(digest)}", b"")
            member.pax_headers = {
                "GNU.sparse.map": value if field == "map" else "0,0",
                "GNU.sparse.size": value if field == "size" else "9",
            }
            archive = archive_of([(member, data), *members_of(_FILES)], tarfile.PAX_FORMAT)
            self.assertIn("has holes that make no sense", self.refused(archive))

    def test_headers_that_would_fill_the_memory(self) -> None:
        for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            member = tarfile.TarInfo("long")
            member.type = kind
            member.size = 1 << 33
            data = member.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
            self.assertIn("has a header of 8589934592 bytes", self.refused(data))

    def test_a_disk_that_is_full(self) -> None:
        """As far as files go: the kernel takes no more than some bytes of each."""
        data = archive_of(members_of(_FILES))
        self.feed(archive_of(members_of(_OTHER)))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            error = self.assertRaises(OSError, self.feed, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertEqual(error.errno, errno.EFBIG)
        self.assertEqual(os.listdir(self.root / "versions"), ["1"])
        self.assertEqual(self.storage(), _OTHER)


def _skippable(content: bytes, kind: int = 0x50) -> bytes:
    """A frame of zstd's that holds nothing of the file (RFC 8878, 3.1.2)."""
    return bytes([kind]) + b"\x2a\x4d\x18" + struct.pack("<I", len(content)) + content


def _padless(archive: bytes) -> bytes:
    """An archive without the zeros behind its end, of which some may be missing."""
    return archive.rstrip(b"\0") + bytes(1024)
