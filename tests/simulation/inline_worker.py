"""A worker without a thread, for a reactor whose time a test turns on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class InlineWorker:
    """A :class:`Worker` that calls at once, in the caller's thread."""

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        try:
            result = function(*args)
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)
        return done

    def stop(self) -> None:
        pass
