"""What an operator expects of an image before anybody may keep it: its size, its digest, its being.

A pipe that breaks off looks like one that ends, a job without standard input reads an empty image,
and a stranger may answer in a server's place; what was meant to be sent, only the operator knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from kollacast.files.digest import ExpectedDigest, names_of


class UnexpectedImage(Exception):
    """The image is not what the operator has said it must be; the text says in what."""


@dataclass(frozen=True)
class Expectation:
    """What must hold of an image; every check raises :class:`UnexpectedImage` where it does not."""

    size: int | None = None  #: in bytes; None where any will do
    digests: tuple[ExpectedDigest, ...] = ()  #: it has all of these; none where any will do
    allow_empty: bool = False  #: whether 0 bytes may be meant

    @property
    def digest_names(self) -> tuple[str, ...]:
        """The ways in which the image has to be digested."""
        return names_of(self.digests)

    @property
    def identity(self) -> str | None:
        """The same 32 hexadecimal digits for the same expected digests; None where any will do."""
        if not self.digests:
            return None
        text = "|".join(sorted(map(str, self.digests)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def check_size(self, size: int) -> None:
        """The whole image has so many bytes, by what is known before it is read or after."""
        if self.size is not None and size != self.size:
            raise UnexpectedImage(f"the image has {size} bytes, and --expect-size says {self.size}")
        if size == 0 and not self.allow_empty:
            raise UnexpectedImage(
                "the image is empty: its input has ended before a single byte (an empty image that"
                " is meant takes --allow-empty)"
            )

    def check_size_so_far(self, size: int) -> None:
        """So many bytes are read, and there may be more."""
        if self.size is not None and size > self.size:
            raise UnexpectedImage(
                f"the image has more than the {self.size} bytes that --expect-size says"
            )

    def check_digests(self, values: Mapping[str, bytes]) -> None:
        """All is read, and these are its digests, those of :attr:`digest_names` among them."""
        for expected in self.digests:
            value = values[expected.name]
            if value != expected.value:
                raise UnexpectedImage(
                    f"the image is not the one that --expect names: its {expected.name} is"
                    f" {value.hex()}, not {expected.value.hex()}"
                )
