"""Which state a machine is in."""

from __future__ import annotations


def state_of(machine: object) -> str:
    """The name of the state in which ``machine``, made by Automat, is.

    It has entered a state before it acts, so whatever it has done may ask.  An input that answers
    could not be called then: Automat puts off what comes in meanwhile.
    """
    name: str = machine.__automat_transitioner__._state.name  # type: ignore[attr-defined]
    return name
