"""One look at the run for all who watch: taken at a fixed pace, made into each form once."""

from __future__ import annotations

from collections.abc import Callable

from kollacast.operator.outcome import Outcome
from kollacast.server.snapshot import Snapshot
from kollacast.status.document import Moment, encoded
from kollacast.status.feed import Picture, picture
from kollacast.status.history import History, point_of


class Board:
    """The last look, and what was made of it so far.

    ``look`` gives the run as it is now.
    """

    def __init__(self, look: Callable[[], Snapshot]) -> None:
        self._look = look
        self._history = History()
        self._outcome: Outcome | None = None
        self._moment: Moment | None = None
        self._picture: Picture | None = None
        self._whole: bytes | None = None
        self._change: bytes | None = None
        self._document: bytes | None = None

    @property
    def is_over(self) -> bool:
        """Whether the run is."""
        return self._outcome is not None

    @property
    def moment(self) -> Moment:
        """The last look; the first one is taken when somebody asks."""
        if self._moment is None:
            self.look()
        assert self._moment is not None
        return self._moment

    def look(self, outcome: Outcome | None = None) -> None:
        """Look again; in the end for the last time, at how it went."""
        self._outcome = outcome
        now = self._look()
        self._history.add(point_of(now))
        before, self._picture = self._picture, None
        self._moment = Moment(now, self._history, outcome)
        self._whole = self._document = self._change = None
        if before is not None:
            # Somebody watches, or has just done so.
            self._picture = picture(self._moment)
            self._change = self._picture.since(before)

    def rest(self) -> None:
        """Nobody watches: the next look need not be told."""
        self._picture = None

    def whole(self) -> bytes:
        """The event that tells all of the last look."""
        if self._picture is None:
            self._picture = picture(self.moment)
        if self._whole is None:
            self._whole = self._picture.whole()
        return self._whole

    def change(self) -> bytes:
        """The event that tells what has changed since the look before, to who knows that one."""
        return self.whole() if self._change is None else self._change

    def document(self) -> bytes:
        """The last look as JSON."""
        if self._document is None:
            self._document = encoded(self.moment)
        return self._document
