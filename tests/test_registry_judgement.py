"""Whether a registry could serve an image: one answer, for a directory and for an archive of it."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from kollacast.images import pack
from kollacast.images.archive import read_storage
from kollacast.images.catalog import Catalog
from kollacast.images.layout import BadImage
from kollacast.images.pack import pack_storage
from tests.registry_storage import (
    STORAGE,
    archive_of,
    blob_path,
    digest_of,
    manifest_of,
    members_of,
    storage_of,
    with_index,
    write_storage,
)

_NAME = "kolla/one:1"
_HOME = "repositories/kolla/one"
_FILES = storage_of({_NAME: [b"shared", b"one"], "kolla/two:1": [b"shared", b"two"]})
_MANIFEST = manifest_of(_FILES, _NAME)
_LAYER = digest_of(b"one")
_NOBODYS = digest_of(b"nobody has pushed this")


def _folders(digest: str) -> str:
    return digest.replace(":", "/")


class _TestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(pack, "_PATIENCE_S", 0)
        self.root = Path(self.mktemp())
        self.root.mkdir()
        self.image = self.root.with_suffix(".tgz")

    def pack(self) -> Catalog:
        return pack_storage(str(self.root), str(self.image), "none")

    def listed(self) -> Catalog:
        with self.image.open("rb") as file:
            return read_storage(file)

    def refused(self, files: Mapping[str, bytes]) -> str:
        """Why this storage is refused, as it is in both ways."""
        write_storage(self.root, files)
        packing = self.assertRaises(BadImage, self.pack)
        self.assertFalse(self.image.exists())
        archive = archive_of(members_of(files))
        listing = self.assertRaises(BadImage, read_storage, io.BytesIO(archive))
        start = f"{self.root}: "
        self.assertTrue(packing.strerror.startswith(start), packing.strerror)
        self.assertNotIn("\n", packing.strerror)
        # But for what a file is called in its place.
        self.assertEqual(
            packing.strerror.removeprefix(start).partition(": ")[0],
            listing.strerror.partition(": ")[0],
        )
        return listing.strerror

    def accepted(self, files: Mapping[str, bytes]) -> Catalog:
        """What is known of this storage, as it is in both ways."""
        write_storage(self.root, files)
        packed = self.pack()
        listed = self.listed()
        self.assertEqual(packed.images(), listed.images())
        read = read_storage(io.BytesIO(archive_of(members_of(files))))
        self.assertEqual(read.images(), packed.images())
        self.assertEqual(list(read.remarks())[-1:], list(packed.remarks())[-1:])
        return packed


class NeedTests(_TestCase):
    """What a pull asks for has to be there, in the repository where it asks."""

    def test_the_link_to_a_manifest(self) -> None:
        files = dict(_FILES)
        del files[f"{_HOME}/_manifests/revisions/{_folders(_MANIFEST)}/link"]
        self.assertEqual(
            self.refused(files),
            f"its image {_NAME} lacks the link in its repository to the manifest {_MANIFEST}",
        )

    def test_the_link_to_a_manifest_where_the_first_registries_wrote_it(self) -> None:
        files = dict(_FILES)
        data = files.pop(f"{_HOME}/_manifests/revisions/{_folders(_MANIFEST)}/link")
        self.accepted({**files, f"{_HOME}/_layers/{_folders(_MANIFEST)}/link": data})

    def test_the_link_to_a_layer(self) -> None:
        files = dict(_FILES)
        shared = digest_of(b"shared")
        del files[f"{_HOME}/_layers/{_folders(shared)}/link"]  # which the other repository has
        self.assertEqual(
            self.refused(files),
            f"its image {_NAME} lacks the link in its repository to the blob {shared}",
        )

    def test_a_blob(self) -> None:
        for digest, name in ((_LAYER, "blob"), (_MANIFEST, "manifest")):
            self.setUp()
            files = {path: data for path, data in _FILES.items() if path != blob_path(digest)}
            self.assertEqual(self.refused(files), f"its image {_NAME} lacks the {name} {digest}")

    def test_every_image_that_is_not_whole_is_named(self) -> None:
        files = {k: v for k, v in _FILES.items() if k != blob_path(digest_of(b"shared"))}
        self.assertIn("; not whole, either: kolla/two:1", self.refused(files))

    def test_a_tag_of_something_else(self) -> None:
        tag = f"{_HOME}/_manifests/tags/1/current/link"
        link = f"{_HOME}/_manifests/revisions/{_folders(_LAYER)}/link"
        files = {**_FILES, tag: _LAYER.encode(), link: _LAYER.encode()}
        self.assertIn("has in the place of its manifest something else", self.refused(files))

    def test_a_tag_whose_link_is_empty(self) -> None:
        files = {**_FILES, f"{_HOME}/_manifests/tags/1/current/link": b""}
        reason = self.refused(files)
        self.assertIn(f"its image {_NAME} lacks the link of its tag: ", reason)

    def test_a_manifest_of_a_kind_that_no_registry_serves(self) -> None:
        data = _FILES[blob_path(_MANIFEST)].replace(b"{", b'{"mediaType": "text/plain",', 1)
        digest = digest_of(data)
        files = {
            **_FILES,
            blob_path(digest): data,
            f"{_HOME}/_manifests/tags/1/current/link": digest.encode(),
            f"{_HOME}/_manifests/revisions/{_folders(digest)}/link": digest.encode(),
        }
        self.assertIn("has in the place of its manifest something else", self.refused(files))


class IndexTests(_TestCase):
    """An index needs its children: as many as were pushed, and one at least."""

    def test_one_that_was_never_pushed_is_named(self) -> None:
        files = with_index(_FILES, "kolla/one:all", [_MANIFEST], [_NOBODYS])
        catalog = self.accepted(files)
        self.assertEqual([image.absent for image in catalog.images()], [(), (_NOBODYS,), ()])
        self.assertEqual(
            list(catalog.remarks()),
            [f"kolla/one:all is without what was never pushed of its index: {_NOBODYS}"],
        )

    def test_none_of_them(self) -> None:
        other = manifest_of(_FILES, "kolla/two:1")  # which is in another repository
        for children in ([], [_NOBODYS], [other]):
            self.setUp()
            reason = self.refused(with_index(_FILES, "kolla/one:all", [], children))
            self.assertIn("its image kolla/one:all lacks every image of its index ", reason)

    def test_one_that_is_not_whole(self) -> None:
        files = with_index(_FILES, "kolla/one:all", [_MANIFEST])
        del files[f"{_HOME}/_manifests/tags/1/current/link"]
        del files[f"{_HOME}/_layers/{_folders(_LAYER)}/link"]
        self.assertIn("its image kolla/one:all lacks the link in its repos", self.refused(files))

    def test_one_whose_manifest_is_gone(self) -> None:
        files = with_index(_FILES, "kolla/one:all", [_MANIFEST])
        del files[f"{_HOME}/_manifests/tags/1/current/link"]
        del files[blob_path(_MANIFEST)]
        reason = self.refused(files)
        self.assertIn(f"its image kolla/one:all lacks the manifest {_MANIFEST}", reason)

    def test_an_index_of_itself(self) -> None:
        """As nobody can make it but by hand: of an index that is asked for twice."""
        files = with_index(_FILES, "kolla/one:all", [_MANIFEST, _MANIFEST])
        self.assertEqual(len(self.accepted(files).images()), 3)


class DigestTests(_TestCase):
    """Blobs that were pushed by another digest than SHA-256."""

    def _with(self, digest: str, links: Mapping[str, bytes]) -> dict[str, bytes]:
        """A storage in which an image names the layer by this digest."""
        data = _FILES[blob_path(_MANIFEST)].replace(_LAYER.encode(), digest.encode())
        new = digest_of(data)
        return {
            **_FILES,
            blob_path(new): data,
            f"{_HOME}/_manifests/tags/1/current/link": new.encode(),
            f"{_HOME}/_manifests/revisions/{_folders(new)}/link": new.encode(),
            **links,
        }

    def test_the_link_holds_the_one_that_the_registry_knows_it_by(self) -> None:
        for algorithm in ("sha384", "sha512"):
            self.setUp()
            digest = f"{algorithm}:{hashlib.new(algorithm, b'one').hexdigest()}"
            link = f"{_HOME}/_layers/{_folders(digest)}/link"
            self.accepted(self._with(digest, {link: _LAYER.encode()}))
            self.setUp()
            reason = self.refused(self._with(digest, {}))
            self.assertTrue(
                reason.endswith(f"lacks the link in its repository to the blob {digest}")
            )

    def test_an_algorithm_that_is_not_known(self) -> None:
        digest = "blake3:" + "0" * 64
        self.assertIn(
            f"its image {_NAME} needs '{digest}', a digest of no algorithm that is known here",
            self.refused(self._with(digest, {})),
        )


class OrphanTests(_TestCase):
    """What no tag needs never stops a pack."""

    def test_damaged_or_empty(self) -> None:
        write_storage(self.root, _FILES)
        expected = self.pack().images()
        before = self.image.read_bytes()
        orphan, unlinked = digest_of(b"orphan"), digest_of(b"unlinked")
        link = f"{_HOME}/_layers/{_folders(orphan)}/link"
        empty = f"{_HOME}/_layers/{_folders(digest_of(b'empty'))}/link"
        more = {link: orphan.encode(), blob_path(unlinked): b"", empty: b""}
        for content in (b"", b"{", b"another"):
            write_storage(self.root, {**more, blob_path(orphan): content})
            catalog = self.pack()
            self.assertEqual(catalog.images(), expected)
            self.assertEqual(self.listed().images(), expected)
            self.assertEqual(self.listed().sizes, catalog.sizes)
            said = " ".join(catalog.remarks())
            for path in (blob_path(orphan), empty):
                self.assertIn(f"left out: {self.root / STORAGE / path}: is damaged", said)
        for path in (blob_path(orphan), *more):
            (self.root / STORAGE / path).unlink(missing_ok=True)
        self.pack()
        self.assertEqual(self.image.read_bytes(), before)

    def test_one_that_is_whole_is_kept(self) -> None:
        orphan = digest_of(b"orphan")
        link = f"{_HOME}/_layers/{_folders(orphan)}/link"
        self.accepted({**_FILES, blob_path(orphan): b"orphan", link: orphan.encode()})
        self.assertIn(orphan, self.listed().sizes)


class RunningTests(_TestCase):
    """A registry that is in the middle of writing."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(pack, "_PATIENCE_S", 60)
        write_storage(self.root, _FILES)
        self.waits = 0

    def _while_waiting(self, do: Callable[[], object]) -> None:
        """Do this once the pack waits for something to be right."""

        def sleep(_: float) -> None:
            self.waits += 1
            do()

        self.patch(time, "sleep", sleep)

    def _half(self, path: str) -> Callable[[], object]:
        """Have a file hold half of what it should; returns what finishes it."""
        file = self.root / STORAGE / path
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        return lambda: file.write_bytes(data)

    def test_links_and_manifests(self) -> None:
        for path in (
            f"{_HOME}/_manifests/tags/1/current/link",
            f"{_HOME}/_layers/{_folders(_LAYER)}/link",
            blob_path(_MANIFEST),
        ):
            self.waits = 0
            self._while_waiting(self._half(path))
            self.assertEqual(len(self.pack().images()), 2)
            self.assertEqual(self.waits, 1)
            self.assertEqual(len(self.listed().images()), 2)

    def test_a_layer_begins_the_work_anew(self) -> None:
        self._while_waiting(self._half(blob_path(_LAYER)))
        self.assertEqual(len(self.pack().images()), 2)
        self.assertEqual(self.waits, 1)
        self.assertEqual(len(self.listed().images()), 2)

    def test_a_layer_that_stays_so_is_damaged(self) -> None:
        self._half(blob_path(_LAYER))
        self.patch(pack, "_PATIENCE_S", 0)
        error = self.assertRaises(BadImage, self.pack)
        path = self.root / STORAGE / blob_path(_LAYER)
        self.assertEqual(error.strerror, f"{path}: is damaged: the bytes have another digest")

    def test_what_cannot_be_read_is_named(self) -> None:
        path = str(self.root / STORAGE / blob_path(_LAYER))
        with mock.patch.object(pack._Digesting, "read", side_effect=OSError(5, "I/O", path)):
            error = self.assertRaises(OSError, self.pack)
        self.assertEqual(error.filename, path)

    def test_a_read_error_has_the_name_of_the_file(self) -> None:
        file = mock.Mock(name="file")
        file.name = "/where/it/is"
        file.read.side_effect = OSError(5, os.strerror(5))
        error = self.assertRaises(OSError, pack._Digesting(file, _LAYER).read, 1)
        self.assertEqual((error.errno, error.filename), (5, "/where/it/is"))


class SymbolicLinkTests(_TestCase):
    """A storage that is spread over several places is packed as a registry serves it."""

    def setUp(self) -> None:
        super().setUp()
        write_storage(self.root, _FILES)
        self.storage = self.root / STORAGE
        self.elsewhere = self.root.with_suffix(".volume").absolute()
        self.elsewhere.mkdir()

    def _move(self, path: str) -> None:
        """Have this on another volume, and a link in its place."""
        there = self.elsewhere / path.replace("/", "-")
        (self.storage / path).rename(there)
        (self.storage / path).symlink_to(there)

    def _names(self) -> list[str]:
        names = [image.name for image in self.pack().images()]
        self.assertEqual(names, [image.name for image in self.listed().images()])
        return names

    def test_parts_of_it_on_other_volumes(self) -> None:
        self.pack()
        before = self.image.read_bytes()
        digest = _LAYER.partition(":")[2]
        for path in (
            f"{_HOME}/_manifests/tags/1",
            f"{_HOME}/_layers",
            "repositories/kolla/two",
            "repositories/kolla",
            blob_path(digest_of(b"two")),
            f"blobs/sha256/{digest[:2]}",
            "blobs",
            "repositories",
        ):
            self._move(path)
            self.pack()
            self.assertEqual(self.image.read_bytes(), before, path)

    def test_other_names(self) -> None:
        """Of a namespace, a repository, and a tag."""
        (self.storage / "repositories/openstack.kolla").symlink_to("kolla")
        (self.storage / "repositories/three").symlink_to("kolla/two")
        (self.storage / _HOME / "_manifests/tags/latest").symlink_to("1")
        one = ["one:1", "one:latest", "two:1"]
        names = [f"{space}/{name}" for space in ("kolla", "openstack.kolla") for name in one]
        self.assertEqual(self._names(), [*names, "three:1"])

    def test_loops(self) -> None:
        """What leads back is another name once, and no more."""
        (self.storage / "repositories/library").symlink_to(".")
        (self.storage / _HOME / "_manifests/tags/loop").symlink_to("..")
        catalog = self.pack()
        self.assertEqual(
            [image.name for image in catalog.images()],
            ["kolla/one:1", "kolla/two:1", "library/kolla/one:1", "library/kolla/two:1"],
        )
        [line, *_] = catalog.remarks()
        self.assertIn("leads back to where it comes from", line)

    def test_one_that_leads_nowhere(self) -> None:
        for path in ("repositories/gone", f"{_HOME}/_manifests/tags/gone", f"{_HOME}/_layers/md5"):
            link = self.storage / path
            link.symlink_to("/nowhere")
            error = self.assertRaises(BadImage, self.pack)
            self.assertEqual(
                error.strerror, f"{link}: is a symbolic link to /nowhere, which is not there"
            )
            link.unlink()
        self._move("blobs/sha256")
        there = os.readlink(self.storage / "blobs/sha256")
        os.rename(there, f"{there}.gone")
        error = self.assertRaises(BadImage, self.pack)
        self.assertIn(f"{self.storage}/blobs/sha256 is a symbolic link to {there}", error.strerror)
