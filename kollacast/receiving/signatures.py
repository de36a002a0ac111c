"""Which of the packets that say they are the server's are, at a bounded cost.

To verify a signature takes a hundred times what it takes to forge one that is wrong, and to read a
packet ten times.  So only so many packets a second are looked at that are not proved to be right;
beyond these no packet is, right ones among them, and what they would have said is asked for by TCP.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from kollacast.receiving.tally import Tally
from kollacast.wire.signature import Verifier
from kollacast.wire.structures import SIGNATURE_SIZE

#: Wrong signatures that are looked at in a second: 2 % of its time, at 0.1 ms each.
_WRONG_A_SECOND = 200.0
#: And at once.
_MOST_WRONG = 50.0
#: What it takes to read a packet without a look at its signature, in these.
_READING = 0.1


class Signatures:
    """Those over one connection; without a ``verifier`` packets have none.

    Wrong ones are added to ``tally``.
    """

    def __init__(self, clock: IReactorTime, verifier: Verifier | None, tally: Tally) -> None:
        #: Whether packets have signatures.
        self.are_due = verifier is not None
        self._clock = clock
        self._tally = tally
        self._verifier = verifier
        self._left = _MOST_WRONG
        self._filled_at = clock.seconds()

    def body(self, data: bytes) -> bytes:
        """``data`` without its signature, whoever it is from."""
        return data[:-SIGNATURE_SIZE] if self.are_due else data

    def may_read(self) -> bool:
        """Whether there is time for one packet more."""
        if self._verifier is None:
            return True
        now = self._clock.seconds()
        self._left = min(self._left + (now - self._filled_at) * _WRONG_A_SECOND, _MOST_WRONG)
        self._filled_at = now
        if self._left < 1:
            return False
        self._left -= _READING
        return True

    def are_right(self, seq: int, data: bytes) -> bool:
        """Whether a packet that may be read is the server's."""
        if self._verifier is None:
            return True
        if self._verifier.is_signed(seq, data):
            self._left += _READING
            return True
        self._left -= 1
        self._tally.control_wrong += 1
        return False
