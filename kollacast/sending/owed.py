"""Which packets a client waits for, as one byte each: a thousand clients may lack much of a buffer.

A set of whole numbers would take thirty times as much.
"""

from __future__ import annotations

from collections.abc import Iterable

_PAGE_BITS = 10
_PAGE = 1 << _PAGE_BITS


class Owed:
    """A set of seqs, in pages of those that lie together."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._pages)

    def update(self, seqs: Iterable[int]) -> None:
        """These are owed."""
        pages = self._pages
        for seq in seqs:
            number = seq >> _PAGE_BITS
            if number not in pages:
                pages[number] = bytearray(_PAGE)
            pages[number][seq & _PAGE - 1] = 1

    def discard(self, seqs: Iterable[int]) -> None:
        """These are not."""
        for seq in seqs:
            page = self._pages.get(seq >> _PAGE_BITS)
            if page is not None:
                page[seq & _PAGE - 1] = 0

    def without(self, seqs: Iterable[int]) -> list[int]:
        """Those of ``seqs`` that are not owed, in their order."""
        pages = self._pages
        return [
            seq
            for seq in seqs
            if (page := pages.get(seq >> _PAGE_BITS)) is None or not page[seq & _PAGE - 1]
        ]

    def forget(self, end: int) -> None:
        """No packet is owed of the pages before that of ``end``."""
        for number in [number for number in self._pages if number < end >> _PAGE_BITS]:
            del self._pages[number]

    def clear(self) -> None:
        """Nothing is owed."""
        self._pages.clear()
