"""How much of the others' time each client may take: a budget over the whole run.

A client takes of it while the stream waits for it and few others alone, and while what it has lost
goes to it by TCP over the link that everybody's multicast needs.  Whoever has taken more than its
allowance, and far more than the others have, goes on by itself.  Where all are slow nobody is: it
is the network then, or the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from twisted.internet.interfaces import IReactorTime

#: From so many clients on, a second of one of them costs enough to be strict.
MANY = 16
#: The allowance: these parts of the most at first, and so many seconds more in each of the run.
_FIRST = 0.06
_FIRST_OF_MANY = 0.03
_GROWTH = 0.03
#: So much more than most of the others has to be taken by who is not like them.
_FAR_MORE = 4.0
#: Where more are waited for, none of them is the one.
_MOST_WAITED_FOR = 16
#: Seconds for which an answer may be due before it counts as waited for: a host that is busy with
#: other things, and in a small window the time that an answer takes anyway.
_GRACE_S = 0.1
#: Seconds that count between two looks at the most: what is more, the server itself was busy.
_MOST_STEP_S = 0.1


class Patience:
    """What each client has taken, by name; none may take more than ``most_s`` seconds in all."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._taken_s: dict[str, float] = {}
        # The most that anybody has taken.
        self._peak_s = 0.0
        self._condemned: dict[str, str] = {}

    def charge(self, names: Collection[str], seconds: float) -> None:
        """These have taken ``seconds`` of the others' time, together."""
        for name in names:
            taken_s = self._taken_s.get(name, 0.0) + seconds / len(names)
            self._taken_s[name] = taken_s
            self._peak_s = max(self._peak_s, taken_s)

    def condemn(self, name: str, reason: str) -> None:
        """This one is to go on by itself, whatever it has taken."""
        self._condemned.setdefault(name, reason)

    def allowance_s(self, elapsed_s: float, clients: int) -> float:
        """What one of so many may have taken by now."""
        first = _FIRST if clients < MANY else _FIRST_OF_MANY
        return min(first * self._most_s + _GROWTH * elapsed_s, self._most_s)

    def is_anybody_beyond(self, elapsed_s: float, clients: int) -> bool:
        """Whether :meth:`verdicts` may find somebody of so many."""
        return bool(self._condemned) or self._peak_s > self.allowance_s(elapsed_s, clients)

    def verdicts(self, elapsed_s: float, names: Collection[str]) -> dict[str, str]:
        """Those of ``names``, who take part, that are to go on by themselves; and why, in words."""
        condemned, self._condemned = self._condemned, {}
        found = {name: reason for name, reason in condemned.items() if name in names}
        for name in self._beyond(elapsed_s, names):
            taken = f"it has taken {self._taken_s[name]:.2g} s of the others' time"
            found.setdefault(name, taken)
        return found

    def _beyond(self, elapsed_s: float, names: Collection[str]) -> Iterator[str]:
        allowed_s = self.allowance_s(elapsed_s, len(names))
        taken_s = sorted(self._taken_s.get(name, 0.0) for name in names)
        # Of the others: whoever has taken much stands behind the middle.
        usual_s = taken_s[(len(taken_s) - 1) // 2] if len(taken_s) > 1 else float("inf")
        for name in names:
            if self._taken_s.get(name, 0.0) > max(allowed_s, _FAR_MORE * usual_s):
                yield name


class HoldUp:
    """Whom the stream waits for, while it cannot go on, and for how long.

    ``absent(most)`` are the names of all whose answer is missing, each with the seconds for which
    it has owed its oldest one, or None where they are more than that; ``taking_part()`` is how
    many the others and they are.  While ``is_busy()``, it is the server that is waited for.
    """

    def __init__(
        self,
        clock: IReactorTime,
        patience: Patience,
        absent: Callable[[int], Collection[tuple[str, float]] | None],
        taking_part: Callable[[], int],
        is_busy: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._absent = absent
        self._taking_part = taking_part
        self._is_busy = is_busy
        # Since when what has passed is not charged yet, and to whom; None while it goes on.
        self._since: float | None = None
        self._waited_for: list[str] = []

    @property
    def is_on(self) -> bool:
        """Whether the stream waits."""
        return self._since is not None

    def begin(self) -> None:
        """The stream waits from now on."""
        self._since = self._clock.seconds()
        self._waited_for = self._find()

    def look(self) -> None:
        """Charge what has passed; to be called a few times in what a step may count."""
        if self._since is None:
            return
        now = self._clock.seconds()
        passed_s, self._since = min(now - self._since, _MOST_STEP_S), now
        if self._waited_for and not self._is_busy():
            self._patience.charge(self._waited_for, passed_s)
        self._waited_for = self._find()

    def end(self) -> None:
        """It goes on; where it has not waited, a no-op."""
        self.look()
        self._since = None

    def _find(self) -> list[str]:
        absent = self._absent(min(_MOST_WAITED_FOR, self._taking_part() // 2))
        return [name for name, owed_s in absent or () if owed_s > _GRACE_S]
