"""What a target says of what is wrong."""

from __future__ import annotations


def same(one: object, other: object, when: str) -> None:
    """Two ways have come to the same."""
    if one != other:
        raise AssertionError(f"{when}: {other!r:.1000}, and else {one!r:.1000}")


def line(text: str | None, most: int = 300) -> None:
    """An error is one short printable line."""
    if text is not None and not (text.isprintable() and 0 < len(text) < most):
        raise AssertionError(f"no line for a log: {text!r}")
