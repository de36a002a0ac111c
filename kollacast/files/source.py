"""What an image comes from, as an interface: read once, and maybe again in places."""

from __future__ import annotations

from typing import Protocol


class ChangedImage(OSError):
    """The file is not any more what it was when it was opened; `strerror` says in what."""


class Source(Protocol):
    """An image to be read once, from its start to its end."""

    @property
    def name(self) -> str | None:
        r"""File name of the image without its folder, or None where there is none.

        It is text that can be sent and written: bytes that are none are spelt out, as in ``\xe9``.
        """

    @property
    def size(self) -> int | None:
        """Bytes that are to come, or None when unknown (a pipe).

        It is what the file said when it was opened: only the end of the stream is the truth.
        """

    @property
    def identity(self) -> str | None:
        """The same text whenever the same image is opened, by whichever process.

        None where the input is a pipe, which nobody opens twice.
        """

    def readinto(self, view: memoryview) -> int:
        """Fill `view` from its start, maybe in part; return the bytes read, 0 at the end.

        Blocks, so a worker thread calls it. Raises OSError, `ChangedImage` among them: when the
        end is reached without it, what was read is what was there at the start.
        """

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the image from `offset` on, which have been read before.

        Only where there is an :attr:`identity`. Blocks; any thread may call it. Raises OSError,
        `ChangedImage` among them.
        """

    def close(self) -> None:
        """Give the input back. Any thread may call it at any time, and more than once.

        A `readinto` that waits in another thread raises OSError (ECANCELED) within a moment.
        """
