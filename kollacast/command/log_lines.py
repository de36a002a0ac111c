"""A log event as one line: as text for people, or as JSON for what searches logs.

A line of JSON is an object with the keys of `KEYS`, in that order; what else an event holds is
under ``fields``. Whatever a peer has said, a line stays one line without control characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure

#: How log lines may be written.
LOG_FORMATS = ("text", "json")
#: Of each line of JSON.
KEYS = ("time", "level", "program", "session", "host", "buffer", "event", "text", "fields")
#: Of an event of this package: what a line has a key of its own for.
_OWN_KEYS = {"event", "host", "buffer"}
#: An event without a name: of a library, or of Python.
_NAMELESS = "message"


@dataclass
class Context:
    """What a line tells beside its event."""

    program: str = "kollacast"
    host: str | None = None  #: of all events; None at the server, where each names its own
    session: Callable[[], str | None] = lambda: None  #: the one that is under way, if one is


def text_of(event: LogEvent) -> str:
    """What an event says; for an error that is the exception and what was being done."""
    failure = failure_of(event)
    if failure is None:
        return formatEvent(event)
    if "failure" in event:  # of the old log module, whose text is the traceback
        text = event.get("why") or "unexpected error"
    else:
        text = (formatEvent(event).strip() or "unexpected error").splitlines()[0]
    return f"{text.rstrip(':')}: {type(failure.value).__name__}: {failure.getErrorMessage()}"


def json_of(event: LogEvent, context: Context, *, traceback: bool = False) -> str:
    """An event as one line of JSON, in ASCII; with the ``traceback`` of an error where asked."""
    fields = _fields(event)
    failure = failure_of(event)
    if traceback and failure is not None:
        fields["traceback"] = failure.getTraceback()
    values = (
        _time(event.get("log_time", 0.0)),
        _level(event),
        context.program,
        context.session(),
        event.get("host", context.host),
        event.get("buffer"),
        event.get("event", _NAMELESS),
        text_of(event).strip(),
        fields,
    )
    return json.dumps(dict(zip(KEYS, values, strict=True)), allow_nan=False, default=str)


def failure_of(event: LogEvent) -> Failure | None:
    """The error that an event tells of, if it does."""
    failure: Failure | None = event.get("log_failure") or event.get("failure")
    return failure


def _fields(event: LogEvent) -> dict[str, Any]:
    """What an event of this package was given to say."""
    if "event" not in event:
        return {}
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in event.items()
        if not (key.startswith(("log_", "kollacast_")) or key in _OWN_KEYS)
    }


def _level(event: LogEvent) -> str:
    level = event.get("log_level", LogLevel.info)
    return str(level.name)


def _time(seconds: float) -> str:
    """The time of day in UTC, by RFC 3339, to the millisecond."""
    when = datetime.fromtimestamp(seconds, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
