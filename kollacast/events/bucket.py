"""A token bucket: so much at once, and so much a second after that."""

from __future__ import annotations


class Bucket:
    """Holds ``depth`` tokens at the most, and gets ``a_second`` of them; times are of one clock."""

    def __init__(self, depth: float, a_second: float) -> None:
        self._depth = depth
        self._a_second = a_second
        self._tokens = depth
        self._at: float | None = None

    def has(self, now: float) -> bool:
        """Whether there is one."""
        if self._at is not None:
            self._tokens = min(self._tokens + self._a_second * (now - self._at), self._depth)
        self._at = now
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if not self.has(now):
            return False
        self._tokens -= 1.0
        return True

    def spend(self, now: float) -> None:
        """One has been spent, whether there was one or not; more than a second's are not owed."""
        self.has(now)
        self._tokens = max(self._tokens - 1.0, -self._a_second)

    def give_back(self) -> None:
        """One that was taken was not needed."""
        self._tokens = min(self._tokens + 1.0, self._depth)

    def is_full(self, now: float) -> bool:
        """Whether as good as nothing was taken of late."""
        return self.has(now) and self._tokens >= self._depth
