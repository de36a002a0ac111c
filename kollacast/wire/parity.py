"""Which packets of a buffer a parity packet is made of: its seq alone says it.

Sparse random linear coding over GF(2), as RFC 8681 has it for GF(2) and a density, and RFC 5170
and RFC 6330 with more structure.  Both sides draw alike, so a packet needs no list of its terms.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from dataclasses import dataclass

from kollacast.wire.recipes import parity_number, parity_seq

#: Parity packets of one run at the most.
MAX_PARITY = 2048
#: The most terms of one: each word that is drawn has 16 bits.
MAX_DEGREE = 65536


@dataclass(frozen=True, slots=True)
class ParityRun:
    """``count`` parity packets of one buffer from the seq ``first`` on, each of ``degree`` terms.

    With a count of 0 it stands for none.
    """

    first: int
    count: int
    degree: int

    @property
    def seqs(self) -> list[int]:
        """Its seqs, which count up and go round."""
        number = parity_number(self.first)
        return [parity_seq(number + index) for index in range(self.count)]


NO_PARITY = ParityRun(0, 0, 0)


def terms(seq: int, packets: int, degree: int) -> list[int]:
    """The slots, of a buffer of so many ``packets``, of which the parity packet ``seq`` is the XOR.

    One that is named twice cancels out, as it does in the XOR.  They are drawn as 16-bit words of
    SHAKE-128, so ``packets`` may be up to 65536.
    """
    words = array("H", hashlib.shake_128(seq.to_bytes(4, "big")).digest(2 * degree))
    if sys.byteorder == "little":
        words.byteswap()
    return [word * packets >> 16 for word in words]
