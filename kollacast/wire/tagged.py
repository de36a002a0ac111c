"""What all messages have in common: fields behind a tag, made and read.

``encode(dialect)`` is the whole message.  ``decode(dialect, limit)`` reads what follows the byte
that says which message it is: a generator that yields how many bytes it needs, is sent them, and
returns the message.  ``limit`` bounds what has no size of its own.  Both raise
:class:`~kollacast.wire.structures.WireError` on nonsense.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Generator
from typing import ClassVar, TypeVar

from kollacast.wire.dialect import Dialect
from kollacast.wire.structures import Tag

_T = TypeVar("_T")
_M = TypeVar("_M", bound="TaggedMessage")
#: Yields the bytes it needs, is sent them, and returns a message.
Decoding = Generator[int, bytes, _T]


@functools.cache
def body(byte_order: str, layout: str) -> struct.Struct:
    """The fields of a message, in a byte order that is a prefix of struct's."""
    return struct.Struct(byte_order + layout)


class TaggedMessage:
    """A message whose fields follow its tag, in a struct's ``layout``; without one, it is all."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()
    tag: ClassVar[Tag]
    layout: ClassVar[str] = ""

    def encode(self, dialect: Dialect) -> bytes:
        """The whole message."""
        fields = [getattr(self, name) for name in self.__match_args__]
        return dialect.head(self.tag) + body(dialect.byte_order, self.layout).pack(*fields)

    @classmethod
    def decode(cls: type[_M], dialect: Dialect, limit: int) -> Decoding[_M]:
        """Read what follows the tag."""
        if not cls.layout:
            return cls()
        fields = body(dialect.byte_order, cls.layout)
        return cls(*fields.unpack((yield fields.size)))._checked()

    @classmethod
    def of_whole(cls: type[_M], dialect: Dialect, limit: int, data: bytes) -> _M | None:
        """The message that ``data``, which begins with its tag, is; None where that is not seen."""
        fields = body(dialect.byte_order, cls.layout)
        if not cls.layout or len(data) != 1 + fields.size:
            return None
        return cls(*fields.unpack_from(data, 1))._checked()

    def _checked(self: _M) -> _M:
        """Itself, when these fields can be."""
        return self
