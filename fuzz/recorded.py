"""The sessions shown byte by byte in docs/protocol.md, read from there."""

from __future__ import annotations

import re
import struct
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "protocol.md"
#: The image of all examples.
_IMAGE = bytes((7 * i + 3) % 256 for i in range(2926))
_CAPACITY = 1460

#: Who sends (`S>C`, `C>S` or `udp`), what, and whether it goes on behind what is shown.
Line = tuple[str, bytes, bool]


def example(name: str) -> list[Line]:
    """The lines of an example: a side, hexadecimal in groups, maybe JSON below, a remark."""
    [block] = re.findall(
        rf"<!-- example: {name} -->\n```\n(.*?)```", _PAGE.read_text("utf-8"), re.S
    )
    lines: list[Line] = []
    for line in block.splitlines():
        match = re.match(r"(S>C|C>S|udp)  ((?:[0-9a-f]{2})+(?: (?:[0-9a-f]{2})+)*)(…?)", line)
        if match:
            lines.append((match[1], bytes.fromhex(match[2]), bool(match[3])))
        else:
            who, data, goes_on = lines.pop()
            lines.append((who, data + line.strip().encode(), goes_on))
    return lines


def messages(name: str, who: str) -> list[bytes]:
    """What ``who`` says by TCP in an example, in full."""
    return [_whole(data) if goes_on else data for w, data, goes_on in example(name) if w == who]


def _whole(data: bytes) -> bytes:
    """A retransmission of the kollacast dialect with all of its payload."""
    tag, seq, _, size = struct.unpack_from("!B3I", data)
    assert tag == 0x20
    return data[:13] + _IMAGE[seq * _CAPACITY :][:size]
