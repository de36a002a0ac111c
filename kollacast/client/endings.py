"""How one attempt to get the image ends, as three frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from kollacast.packets.buffer import InconsistentBuffer
from kollacast.receiving.output import TooLong


@dataclass(frozen=True)
class Got:
    """The image is here, verified and under its name."""


@dataclass(frozen=True)
class Lost:
    """The connection is over, and on another one the image may still come."""

    #: for how long the server had nothing to say of the image, where it never had
    waited_s: float = 0.0
    has_begun: bool = False  #: whether it has said something of the image
    #: why this client is not let in, where that is only for now
    refused: str | None = None
    #: why the server ends before it begins, where another one may follow
    ended: str | None = None


@dataclass(frozen=True)
class Failed:
    """The run is over without the image."""

    reason: str
    keep: bool = False  #: whether a later run can go on from what is here
    is_own_fault: bool = False  #: whether this host, or who runs it, has ended it
    is_program_error: bool = False  #: whether the program is wrong


Ending = Got | Lost | Failed


class NoCopy(Exception):
    """What the server has cannot become a copy here, for the reason in the text."""


def failed_by(error: BaseException | None) -> Failed:
    """What an exception in the middle of a run means for it."""
    if isinstance(error, NoCopy | InconsistentBuffer | TooLong):
        return Failed(str(error))
    # Another source of the image would not help from here on.
    if isinstance(error, BrokenPipeError):
        reason = "cannot write the image: nothing reads standard output any more"
    elif isinstance(error, OSError):
        reason = f"cannot write the image: {error.strerror or error}"
    elif isinstance(error, MemoryError):
        reason = f"cannot hold the image: {error}"
    else:
        return Failed(
            f"an error of the program: {error!r}", is_own_fault=True, is_program_error=True
        )
    return Failed(reason, is_own_fault=True)
