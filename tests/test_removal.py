"""Folders are removed whatever is in them, and nothing else is."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.files.removal import remove_tree

_LEVELS = 2200


def _make_deep(folder: Path, levels: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        os.close(os.open(f"file{level}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir("a", dir_fd=fd)
        below = os.open("a", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


class RemovalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.tree = self.folder / "tree"
        self.tree.mkdir(parents=True)
        self.fd = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, self.fd)

    def test_deeper_than_any_path_and_than_there_are_descriptors(self) -> None:
        _make_deep(self.tree, _LEVELS)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        try:
            remove_tree(self.fd, "tree")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_interrupted_and_begun_anew(self) -> None:
        """Wherever it is killed, the next one comes to the end."""
        for number in range(1, 200):
            _make_deep(self.tree, 12)
            calls = 0
            rmdir, rename = os.rmdir, os.rename

            def counted(call, *words, **more):
                nonlocal calls
                calls += 1
                if calls == number:  # noqa: B023
                    raise KeyboardInterrupt
                return call(*words, **more)

            with (
                mock.patch.object(os, "rmdir", lambda *w, **m: counted(rmdir, *w, **m)),  # noqa: B023
                mock.patch.object(os, "rename", lambda *w, **m: counted(rename, *w, **m)),  # noqa: B023
            ):
                try:
                    remove_tree(self.fd, "tree")
                    break
                except KeyboardInterrupt:
                    pass
            remove_tree(self.fd, "tree")
            self.assertFalse(self.tree.exists())
            self.tree.mkdir()
        self.assertGreater(number, 20)
        self.assertFalse(self.tree.exists())

    def test_links_are_not_followed(self) -> None:
        kept = self.folder / "kept"
        kept.mkdir()
        (kept / "file").touch()
        (self.tree / "below").mkdir()
        for folder in (self.tree, self.tree / "below"):
            (folder / "link").symlink_to(kept.resolve())
            os.link(kept / "file", folder / "another")
        remove_tree(self.fd, "tree")
        self.assertEqual(os.listdir(self.folder), ["kept"])
        self.assertEqual(os.listdir(kept), ["file"])

    def test_a_link_a_file_and_nothing(self) -> None:
        (self.folder / "link").symlink_to("tree")
        (self.folder / "file").touch()
        for name in ("link", "file", "nothing"):
            remove_tree(self.fd, name)
        self.assertEqual(os.listdir(self.folder), ["tree"])

    def test_a_folder_that_does_not_go(self) -> None:
        (self.tree / "below").mkdir()
        (self.tree / "below" / "file").touch()
        refuse = mock.Mock(side_effect=OSError(errno.EACCES, "not here"))
        with mock.patch.object(os, "unlink", refuse):
            self.assertRaises(OSError, remove_tree, self.fd, "tree")
        remove_tree(self.fd, "tree")
        self.assertEqual(os.listdir(self.folder), [])

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(st.sampled_from([".1", ".2", "a", "file"]), max_size=6), max_size=20))
    def test_any_tree(self, paths: list[list[str]]) -> None:
        """Also one with the names that folders get on the way."""
        self.tree.mkdir(exist_ok=True)
        for path in paths:
            place = self.tree.joinpath(*path)
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / ".1").touch()
            except OSError:
                pass
        remove_tree(self.fd, "tree")
        self.assertEqual(os.listdir(self.folder), [])
