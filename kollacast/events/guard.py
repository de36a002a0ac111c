"""No error is lost: whatever a coroutine, a timer or a callback raises is told to somebody.

What nobody listens to, the reactor logs and forgets, and those who wait for it wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Guard:
    """Tells ``failed`` of every exception in what it starts or wraps."""

    def __init__(self, failed: Callable[[Failure], None]) -> None:
        #: Tell of a failure that somebody else has caught; serves as an errback, too.
        self.failed = failed

    def run(self, coroutine: Coroutine[Deferred[Any], Any, _T]) -> Deferred[_T | None]:
        """Start ``coroutine``; fires when it is over, with None where it has failed."""
        return Deferred.fromCoroutine(coroutine).addErrback(self.failed)

    def wrap(self, function: Callable[_P, object]) -> Callable[_P, None]:
        """``function`` as a callback that never raises."""

        def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except Exception:
                self.failed(Failure())

        return guarded

    def call_later(
        self, clock: IReactorTime, delay_s: float, function: Callable[..., object], *args: object
    ) -> IDelayedCall:
        """Call ``function`` after ``delay_s`` seconds, as ``clock.callLater`` does."""
        return clock.callLater(delay_s, self.wrap(function), *args)
