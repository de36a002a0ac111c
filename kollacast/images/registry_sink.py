"""A sink that unpacks an archive of a registry's storage as it comes, and has no other copy.

What is written goes through a pipe to a thread that decompresses, verifies and unpacks it, at the
pace of that thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import BinaryIO, cast

from twisted.logger import Logger

from kollacast.files import fdio
from kollacast.files.room import DEFAULT_RESERVE
from kollacast.files.sink import OneWay
from kollacast.images.archive import read_storage
from kollacast.images.catalog import Catalog
from kollacast.images.tar import PIECE
from kollacast.images.versions import Record, Versions
from kollacast.transport.threads import start_thread

#: Seconds between two looks whether a wait for the unpacking is called off.
_LOOK_S = 0.1

_log = Logger()


class RegistrySink(OneWay):
    """A `Sink` that makes a new current version in `root` once the image is verified."""

    def __init__(
        self,
        root: str,
        say: Callable[[str], object] | None = None,
        reserve: float = DEFAULT_RESERVE,
    ) -> None:
        """Raises OSError when `root` cannot be used, or another process uses it.

        `reserve` is the share of the file system that stays free.

        Once the image is committed, `say` is given each line about it that an operator should see.
        """
        self._say = say or _warn
        self._versions = Versions(root, reserve)
        self._lending = fdio.Lending(lambda: self._unpacking.stop())
        self._is_committed = False
        self._unpacking = _Unpacking(self._versions)

    def expect(self, size: int) -> None:
        with self._lending.lend():
            self._versions.expect(size)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self._lending.lend():
            self._unpacking.write(views, self._lending.is_off)

    def commit(self, digest: str = "") -> None:
        self._lending.prove()
        catalog = self._unpacking.end(self._lending.is_off)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._versions.finish(Record(digest, self._unpacking.bytes_in, now, catalog.images()))
        with self._lending.lock:
            self._lending.prove()
            self._versions.switch()
            self._is_committed = True
            self._lending.end()
        self._versions.close()
        for line in catalog.remarks():
            self._say(line)

    def restart(self) -> None:
        with self._lending.lock:
            self._lending.prove()
            before = self._unpacking
            before.stop()
        before.join()
        with self._lending.lock:
            self._lending.prove()
            self._unpacking = _Unpacking(self._versions)

    def abandon(self, keep: bool = False) -> None:
        self._lending.end()

    def clear(self) -> None:
        """After `abandon`: remove what has been unpacked, which may take a while. Blocks.

        Nothing after `commit`. Raises OSError.
        """
        if self._is_committed:
            return
        self._unpacking.join()
        self._versions.discard()
        self._versions.close()


def _warn(line: str) -> None:
    _log.warn("the image: {line}", event="image-remark", line=line)


class _Unpacking:
    """One archive on its way through a pipe into a new version, in a thread of its own."""

    def __init__(self, versions: Versions) -> None:
        self.bytes_in = 0
        self._versions = versions
        self._catalog: Catalog | None = None
        self._error: OSError | None = None
        self._is_stopped = False
        self._out, self._in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._in, False)
        fdio.enlarge_pipe(self._in)
        self._input = fdio.Lending(lambda: os.close(self._in))
        try:
            self._thread = start_thread(self._run, "unpack")
        except OSError:
            os.close(self._out)
            os.close(self._in)
            raise

    def write(self, views: Sequence[memoryview], is_off: Callable[[], bool]) -> None:
        """Go on with the bytes of `views`. Raises OSError, also of what came before them."""
        try:
            fdio.write_all(self._in, views, True, is_off)
        except BrokenPipeError:
            raise self._failure() from None
        self.bytes_in += sum(map(len, views))

    def end(self, is_off: Callable[[], bool]) -> Catalog:
        """No more comes: wait until all is unpacked. Raises OSError if it is not."""
        self._input.end()
        while self._thread.is_alive():
            if is_off():
                raise fdio.called_off()
            self._thread.join(_LOOK_S)
        if self._catalog is None:
            raise self._failure()
        return self._catalog

    def stop(self) -> None:
        """What came will not be whole. The thread ends at its next look."""
        self._is_stopped = True
        self._input.end()

    def join(self) -> None:
        """Wait for the end of the thread, once there is nothing more to come."""
        self._thread.join()

    def read(self, size: int = -1) -> bytes:
        """For the thread: what comes next, up to `size` bytes."""
        data = b"" if self._is_stopped else os.read(self._out, size if size >= 0 else PIECE)
        if self._is_stopped:  # and so the end of the pipe is not that of the archive
            raise fdio.called_off()
        return data

    def _run(self) -> None:
        try:
            self._versions.begin()
            self._catalog = read_storage(cast(BinaryIO, self), self._versions.create)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._out)

    def _failure(self) -> OSError:
        """Why the thread has ended. Without a reason, it has said so as every crash does."""
        return self._error or OSError(errno.EIO, "an error of the program in the unpacking")
