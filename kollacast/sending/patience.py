"""How much of the others' time each client may take: a budget over the whole run.

A client takes of it while the stream waits for it and few others alone, and while what it has lost
goes to it by TCP over the link that everybody's multicast needs.  Whoever has taken more than its
allowance, and far more than the others have, goes on by itself.  Where all are slow nobody is: it
is the network then, or the server.  As each of those who go on by themselves needs the link for a
copy of its own in the end, the more have gone, the more the next one may take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from twisted.internet.interfaces import IReactorTime

#: From so many clients on, a second of one of them costs enough to be strict.
MANY = 16
#: The allowance: these parts of the most at first, and so many seconds more in each of the run.
_FIRST = 0.1
_FIRST_OF_MANY = 0.03
_GROWTH = 0.03
#: Fewer seconds than these are no sign of anything, however little patience there is.
_LEAST_S = 0.1
#: So much more than most of the others has to be taken by who is not like them.
_FAR_MORE = 4.0
#: Where more are waited for, none of them is the one.
_MOST_WAITED_FOR = 16
#: Seconds for which an answer may be due before it is waited for: what it takes in a small window,
#: and on a host that is busy with other things.
_GRACE_S = 0.05
#: Seconds that count between two looks at the most: what is more, the server itself was busy.
_MOST_STEP_S = 0.1


class Patience:
    """What each client has taken, by name; none may take more than ``most_s`` seconds in all."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._taken_s: dict[str, float] = {}
        # Where each has come from; and what they had taken who have gone on by themselves, by that.
        self._addresses: dict[str, str] = {}
        self._gone_s: dict[str, float] = {}
        # The most that anybody has taken.
        self._peak_s = 0.0
        self._condemned: dict[str, str] = {}

    def enter(self, name: str, address: str) -> None:
        """One takes part; under whatever name it comes back, it has taken what it had."""
        self._addresses[name] = address
        gone_s = self._gone_s.get(address, 0.0)
        if name not in self._taken_s and gone_s:
            self._taken_s[name] = gone_s

    def leave(self, name: str) -> None:
        """It takes part no more, but may come back."""
        address = self._addresses.pop(name, name)
        if address in self._gone_s:
            taken_s = self._taken_s.pop(name, 0.0)
            self._gone_s[address] = max(self._gone_s[address], taken_s)

    def charge(self, names: Collection[str], seconds: float) -> None:
        """These have taken ``seconds`` of the others' time, together."""
        for name in names:
            taken_s = self._taken_s.get(name, 0.0) + seconds / len(names)
            self._taken_s[name] = taken_s
            self._peak_s = max(self._peak_s, taken_s)

    def condemn(self, name: str, reason: str) -> None:
        """This one is to go on by itself, whatever it has taken."""
        self._condemned.setdefault(name, reason)

    def allowance_s(self, elapsed_s: float, clients: int, gone: int = 0) -> float:
        """What one of so many may have taken by now, after so many have gone."""
        first_s = (_FIRST if clients < MANY else _FIRST_OF_MANY) * self._most_s
        allowed_s = max(first_s, _LEAST_S) + _GROWTH * elapsed_s
        return min(allowed_s * (1 + gone), self._most_s)

    def is_anybody_beyond(self, elapsed_s: float, clients: int) -> bool:
        """Whether :meth:`verdicts` may find somebody of so many."""
        least_s = self.allowance_s(elapsed_s, clients, max(len(self._gone_s) - 1, 0))
        return bool(self._condemned) or self._peak_s > least_s

    def verdicts(self, elapsed_s: float, names: Collection[str]) -> dict[str, str]:
        """Those of ``names``, who take part, that are to go on by themselves; and why, in words."""
        condemned, self._condemned = self._condemned, {}
        found = {name: reason for name, reason in condemned.items() if name in names}
        for name in list(self._beyond(elapsed_s, names)):
            taken_s = self._taken_s[name]
            found.setdefault(name, f"it has taken {taken_s:.2g} s of the others' time")
            self._gone_s[self._addresses.get(name, name)] = taken_s
        return found

    def _beyond(self, elapsed_s: float, names: Collection[str]) -> Iterator[str]:
        all_s = sorted(self._taken_s.get(name, 0.0) for name in names)
        # Of the others: whoever has taken much stands behind the middle.
        usual_s = all_s[(len(all_s) - 1) // 2] if len(all_s) > 1 else float("inf")
        for name in names:
            taken_s = self._taken_s.get(name, 0.0)
            if taken_s > _FAR_MORE * usual_s:
                # By those of its own address nobody gains.
                gone = len(self._gone_s) - (self._addresses.get(name, name) in self._gone_s)
                if taken_s > self.allowance_s(elapsed_s, len(names), gone):
                    yield name


class HoldUp:
    """Whom the stream waits for, while it cannot go on, and for how long.

    ``absent(most)`` are the names of all whose answer is missing, or None where they are more than
    that; ``taking_part()`` is how many the others and they are.  While ``is_busy()``, it is the
    server that is waited for.
    """

    def __init__(
        self,
        clock: IReactorTime,
        patience: Patience,
        absent: Callable[[int], list[str] | None],
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
        self._counts_from = 0.0
        self._waited_for: list[str] = []

    @property
    def is_on(self) -> bool:
        """Whether the stream waits."""
        return self._since is not None

    def begin(self, due_at: float) -> None:
        """The stream waits from now on, for an answer that was due already at ``due_at``."""
        self._since = self._clock.seconds()
        self._counts_from = due_at + _GRACE_S
        self._waited_for = self._find()

    def look(self) -> None:
        """Charge what has passed; to be called a few times in what a step may count."""
        if self._since is None:
            return
        now = self._clock.seconds()
        passed_s = min(now - max(self._since, self._counts_from), _MOST_STEP_S)
        self._since = now
        if self._waited_for and passed_s > 0 and not self._is_busy():
            self._patience.charge(self._waited_for, passed_s)
        self._waited_for = self._find()

    def end(self) -> None:
        """It goes on; where it has not waited, a no-op."""
        self.look()
        self._since = None

    def _find(self) -> list[str]:
        return self._absent(min(_MOST_WAITED_FOR, self._taking_part() // 2)) or []
