"""Image files that were made to do harm: what they cost, and that the next one is unpacked."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import tracemalloc
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from kollacast.images import catalog, layout, limits, manifest, tar
from kollacast.images.archive import read_storage
from kollacast.images.catalog import Catalog
from kollacast.images.layout import BadImage
from kollacast.images.limits import read_json
from kollacast.images.manifest import read_manifest
from kollacast.images.registry_sink import RegistrySink
from tests import hostile_images
from tests.registry_storage import (
    STORAGE,
    archive_of,
    file_member,
    manifest_of,
    members_of,
    storage_of,
    with_index,
)

_FILES = storage_of({"kolla/one:1": [b"shared", b"one"], "kolla/two:1": [b"shared", b"two"]})
_MIB = 1024 * 1024


class _TestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp())

    def unpack(self, data: bytes) -> int:
        """How many files and folders there are when all is unpacked, or refused by BadImage."""
        sink = RegistrySink(str(self.root))
        try:
            sink.write([memoryview(data)], 0)
            sink.commit("sha256:" + "0" * 64)
        except BadImage as error:
            self.reason = str(error.strerror)
            self.assertTrue(self.reason.isprintable() and len(self.reason) < 300, self.reason)
        finally:
            found = sum(len(folders) + len(files) for _, folders, files in os.walk(self.root))
            sink.abandon()
            sink.clear()
        return found

    def refused(self, archive: bytes, most_bytes: int, most_inodes: int = 10) -> str:
        """Why an image is refused, by `list` too; what that costs; and the next one is well."""
        data = hostile_images.compressed(archive)
        del archive
        self.image_bytes = len(data)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        try:
            error = self.assertRaises(BadImage, read_storage, io.BytesIO(data))
            self.assertLess(tracemalloc.get_traced_memory()[1], most_bytes)
        finally:
            tracemalloc.stop()
        self.reason = ""
        self.root = Path(self.mktemp())
        self.assertLess(self.unpack(data), most_inodes)
        self.assertEqual(self.reason, error.strerror)
        self.assertFalse(self.root.exists())
        self.unpack(archive_of(members_of(_FILES)))
        self.assertTrue((self.root / "current" / STORAGE).is_dir())
        return self.reason


class CostTests(_TestCase):
    """What a few kilobytes may cost. The figures before: docs/security.md."""

    def test_a_path_that_is_1900_folders_deep(self) -> None:
        """No image could be unpacked behind it: what it left was too deep to be removed."""
        reason = self.refused(hostile_images.deep(1900), 4 * _MIB)
        self.assertIn("has a name of more than 1024 bytes", reason)
        self.assertLess(self.image_bytes, 624)

    def test_a_folder_that_an_older_program_has_left(self) -> None:
        """Such a path is in the way of the next image no more."""
        place = self.root / "versions" / ".incoming.part"
        place.mkdir(parents=True)
        fd = os.open(place, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("a", dir_fd=fd)
            below = os.open("a", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        self.unpack(archive_of(members_of(_FILES)))
        self.assertEqual(os.listdir(self.root / "versions"), ["1"])

    def test_eighty_thousand_folders(self) -> None:
        self.patch(limits, "_FREE_INODES", 500)
        reason = self.refused(hostile_images.inodes(640, 124), 16 * _MIB, 3000)
        self.assertRegex(reason, r"it has more than \d+ files and folders, in its first \d+ bytes")
        self.assertLess(self.image_bytes, 4000)

    def test_more_folders_than_any_cluster_has(self) -> None:
        self.patch(limits, "MAX_INODES", 300)
        archive = hostile_images.inodes(100, 5)
        self.assertIn("more than 300 files and folders", self.refused(archive, 8 * _MIB, 310))

    def test_records_that_reach_into_each_other(self) -> None:
        """107 bytes took 862 MB."""
        reason = self.refused(hostile_images.overlapping_records(), 8 * _MIB)
        self.assertEqual(reason, "it has an extended header that makes no sense")
        self.assertLess(self.image_bytes, 200)

    def test_records_for_all_members_without_end(self) -> None:
        reason = self.refused(hostile_images.global_records(20), 8 * _MIB)
        self.assertEqual(reason, "it has more than 100 records for all its members")

    def test_content_that_is_not_in_it(self) -> None:
        """Zeros of a sparse member or of a compression, where a layer never has them."""
        self.patch(limits, "_FREE_BYTES", 3 * _MIB)
        self.patch(limits, "_GROWTH", 10)
        for archive in (
            hostile_images.zeros(9),
            archive_of([file_member("else", bytes(9 * _MIB))]),
            archive_of(members_of(_FILES)) + bytes(9 * _MIB),
        ):
            reason = self.refused(archive, 16 * _MIB, 100)
            self.assertRegex(reason, r"more than 31\d{5} bytes of content, in its first \d+ bytes")

    def test_manifests_that_fill_the_memory(self) -> None:
        self.patch(catalog, "_MAX_MANIFESTS", 3 * _MIB)
        archive = hostile_images.manifests(40, 100_000)
        self.assertIn("more than 3145728 bytes of manifests", self.refused(archive, 16 * _MIB, 200))

    def test_manifests_that_no_tag_needs(self) -> None:
        """They are not read at all."""
        archive = hostile_images.manifests(40, 100_000)
        self.patch(catalog, "read_manifest", lambda data: self.fail("it is read"))
        self.assertIn("it holds no image", self.refused_before(archive))

    def refused_before(self, archive: bytes) -> str:
        return str(self.assertRaises(BadImage, read_storage, io.BytesIO(archive)).strerror)

    def test_a_manifest_is_read_once(self) -> None:
        read: list[bytes] = []

        def count(data: bytes) -> object:
            read.append(data)
            return read_manifest(data)

        self.patch(catalog, "read_manifest", count)
        found = read_storage(io.BytesIO(archive_of(members_of(_FILES))))
        self.assertEqual(len(found.images()), 2)
        self.assertEqual((len(found.needed()), list(found.remarks())), (7, []))
        self.assertEqual(len(read), 2)

    def test_a_manifest_with_a_million_values(self) -> None:
        data = b'{"schemaVersion":2,"layers":[' + b"{}," * 1_300_000 + b"{}]}"
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertIsNone(read_manifest(data))
        self.assertLess(tracemalloc.get_traced_memory()[1], 12 * _MIB)

    def test_images_of_more_parts_than_can_be_looked_at(self) -> None:
        """An index under many tags counts for each of them."""
        self.patch(catalog, "_MAX_PARTS", 60)
        children = [manifest_of(_FILES, name) for name in ("kolla/one:1", "kolla/one:1")]
        files = _FILES
        for number in range(3):
            files = with_index(files, f"kolla/one:{number}", children)
        read_storage(io.BytesIO(archive_of(members_of(files))))
        for number in range(30):
            files = with_index(files, f"kolla/one:{number}", children)
        reason = self.refused_before(archive_of(members_of(files)))
        self.assertEqual(reason, "its images consist of more than 60 blobs and manifests")


class BoundTests(_TestCase):
    """Each bound in words; what is just below it is taken."""

    def found(self, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> str:
        """Why an image with these is refused; empty where it is not."""
        try:
            read_storage(io.BytesIO(archive_of([*members_of(_FILES), *members], form)))
        except BadImage as error:
            return str(error.strerror)
        return ""

    def test_names(self) -> None:
        for name, reason in (
            ("x" * 1024, ""),
            ("x" * 1025, "has a name of more than 1024 bytes"),
            ("\u00e9" * 513, "has a name of more than 1024 bytes"),
            ("a/" * 160 + "b", ""),
            ("a/" * 161 + "b", "is more than 160 folders deep"),
            ("new\nline", "'new\\nline' has a control character in its name"),
            ("\x1b[2J", "has a control character"),
            ("\x7f", "has a control character"),
            ("\x9b2J", "has a control character"),
            ("n\u00fcrnberg", ""),
            ("../up", "leads out of the directory"),
            ("/etc/passwd", "leads out of the directory"),
        ):
            member = file_member(name, b"")
            found = self.found(member, form=tarfile.PAX_FORMAT)
            (self.assertIn if reason else self.assertEqual)(reason, found)

    def test_a_zero_in_a_name(self) -> None:
        member, data = file_member("plain", b"")
        member.pax_headers = {"path": "a\0b"}
        found = self.found((member, data), form=tarfile.PAX_FORMAT)
        self.assertIn("'a\\x00b' has a control character", found)

    def test_the_name_of_a_repository(self) -> None:
        for length, reason in ((255, ""), (256, "has a name of more than 255 characters")):
            files = storage_of({f"{'x' * 200}/{'y' * (length - 201)}:1": [b"layer"]})
            found = self.found(*members_of(files))
            (self.assertIn if reason else self.assertEqual)(reason, found)

    def test_a_repository_with_as_many_folders_as_a_registry_takes(self) -> None:
        self.unpack(archive_of(members_of(storage_of({f"{'a/' * 127}b:1": [b"layer"]}))))
        self.assertTrue((self.root / "current").is_dir())

    def test_members(self) -> None:
        self.patch(limits, "MAX_MEMBERS", len(_FILES))
        self.assertEqual(self.found(), "")
        reason = f"it has more than {len(_FILES)} members"
        self.assertEqual(self.found(file_member("some", b"")), reason)

    def test_blobs_and_links(self) -> None:
        self.patch(catalog, "_MAX_ENTRIES", len(_FILES) - 1)
        self.assertIn("blobs and links", self.found())

    def test_headers_of_one_member(self) -> None:
        """Several, each of which is not too long."""
        member, data = file_member("some", b"")
        for count, reason in ((3, ""), (6, "it has headers of more than 262144 bytes for one")):
            extended = b"".join(
                hostile_images._header(b"50012 a=" + b"x" * 50003 + b"\n", tarfile.XHDTYPE)
                for _ in range(count)
            )
            archive = archive_of(members_of(_FILES)).rstrip(b"\0")
            archive += bytes(-len(archive) % 512) + extended
            archive += archive_of([(member, data)])
            found = self._reason_of(archive)
            (self.assertIn if reason else self.assertEqual)(reason, found)

    def _reason_of(self, archive: bytes) -> str:
        try:
            read_storage(io.BytesIO(archive))
        except BadImage as error:
            return str(error.strerror)
        return ""

    def test_extended_headers(self) -> None:
        for records, is_well in (
            (b"", True),
            (b"7 a=bc\n", True),
            (b"7 a=bc\n5 a=\n\0\0", True),
            (b"8 a=bc\n", False),
            (b"6 a=bc\n", False),
            (b"07 a=b\n", False),
            (b"3 =", False),
            (b"junk", False),
            (b"99999999 a=b\n", False),
            (b"7 a=bc\nx", False),
        ):
            if is_well:
                limits.prove_extended_header(records)
            else:
                self.assertRaises(BadImage, limits.prove_extended_header, records)

    def test_a_long_name_that_looks_like_a_header(self) -> None:
        """As one with an x where a header has its type; or a header, so that the next is missed."""
        self.assertEqual(self.found(file_member("x" * 300, b"")), "")
        name = tarfile.TarInfo("name")
        name.type, name.size = tarfile.GNUTYPE_LONGNAME, 512
        fake = hostile_images._header(b"", tarfile.XHDTYPE)
        header = tarfile.TarInfo("9 a=bcd\n")
        records = b"2 " * 30000 + b"a=\n"
        header.type, header.size = tarfile.XHDTYPE, len(records)
        parts = (name, fake, header, records, bytes(-len(records) % 512), hostile_images._some())
        archive = b"".join(
            part if isinstance(part, bytes) else part.tobuf(tarfile.USTAR_FORMAT) for part in parts
        )
        self.assertIn("makes no sense", self._reason_of(archive + bytes(10240)))


class JsonTests(SynchronousTestCase):
    """JSON out of an image."""

    def test_what_manifests_are_like(self) -> None:
        value = {"a": ["[[[[" * 40, '\\"{', {"b": [1, 2.5, None, True]}], "": "\u20ac"}
        self.assertEqual(read_json(json.dumps(value).encode()), value)
        self.assertEqual(read_json(json.dumps(value, ensure_ascii=False).encode()), value)

    def test_depth(self) -> None:
        self.assertEqual(len(read_json(b"[" * 32 + b"]" * 32)), 1)
        for data in (b"[" * 33 + b"]" * 33, b"[" * 4_000_000, b'{"a":' * 40):
            self.assertRaises(ValueError, read_json, data)

    def test_nothing_takes_long(self) -> None:
        """What would have a regular expression go back and forth over all of it."""
        for data in (b'"\\' * 200_000, b'\\"' * 200_000, b'""' * 200_000, b"\\" * 400_000):
            self.assertRaises(ValueError, read_json, data)
            self.assertRaises(ValueError, read_json, b"[" + data)

    def test_digests_that_are_too_long(self) -> None:
        fields = {"schemaVersion": 2, "layers": [{"digest": "sha256:" + "a" * 250}]}
        self.assertIsNone(read_manifest(json.dumps(fields).encode()))

    def test_more_layers_than_a_manifest_has(self) -> None:
        self.patch(manifest, "_MAX_NAMED", 3)
        for count in (3, 4):
            fields = {
                "schemaVersion": 2,
                "layers": [{"digest": f"sha256:{n}"} for n in range(count)],
            }
            found = read_manifest(json.dumps(fields).encode())
            self.assertEqual(found is None, count > 3)


class CatalogTests(SynchronousTestCase):
    def test_a_blob_that_comes_twice_counts_once(self) -> None:
        self.patch(catalog, "_MAX_MANIFESTS", 100)
        found = Catalog()
        for _ in range(5):
            found.add_blob("sha256:" + "0" * 64, 60, b'{"schemaVersion":2}'.ljust(60))


class PageTests(SynchronousTestCase):
    def test_limits(self) -> None:
        """The page has every limit."""
        page = (Path(__file__).parents[1] / "docs" / "kolla.md").read_text("utf-8")
        text = page.partition("### What an image file may hold")[2].partition("\n## ")[0]
        modules = (limits, catalog, manifest, tar, layout)
        found = {
            name: value
            for module in modules
            for name, value in vars(module).items()
            if name.lstrip("_").startswith(("MAX_", "FREE_", "BYTES_A", "GROWTH")) and value != 0
            if isinstance(value, int) and name not in ("MAX_LINK", "_MAX_DIGEST", "_MAX_HOLES")
        }
        self.assertGreater(len(found), 15)
        for name, value in found.items():
            words = [f"{value:,}", *(f"{value >> bits} {unit}" for bits, unit in _UNITS)]
            self.assertTrue(any(re.search(rf"\b{word}\b", text) for word in words), (name, value))


_UNITS = ((20, "MiB"), (30, "GiB"))
