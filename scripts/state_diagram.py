"""The server's buffer cycle as a Mermaid state diagram, made from the machine that runs.

    state_diagram.py

prints the diagram that ``docs/architecture.md`` embeds.
"""

from __future__ import annotations

import sys
from typing import Any

from automat import TypeMachine

from kollacast.server.cycle import Cycle, cycle


def mermaid(machine: TypeMachine[Any, Any], inputs: type) -> str:
    """``machine`` as a ``stateDiagram-v2``, without a line end after the last line.

    ``inputs`` is the protocol of its inputs, which gives their order. A label is ``input`` or
    ``input / work that it starts``; transitions between the same two states share an arrow.
    """
    automaton = machine.__automat_automaton__
    order = list(vars(inputs))
    transitions = sorted(
        automaton.allTransitions(),
        key=lambda transition: (order.index(transition[1]), transition[0].name),
    )
    arrows: dict[tuple[str, str], list[str]] = {}
    for before, word, after, outputs in transitions:
        # what only gives the caller a value is named returns(value)
        work = [output.name for output in outputs if not output.name.startswith("returns(")]
        arrows.setdefault((before.name, after.name), []).append(" / ".join([word, *work]))
    final = {after for _, after in arrows} - {before for before, after in arrows if before != after}
    lines = [f"[*] --> {automaton.initialState.name}"]
    lines += [f"{ends[0]} --> {ends[1]} : {', '.join(words)}" for ends, words in arrows.items()]
    lines += [f"{name} --> [*]" for name in sorted(final)]
    return "\n    ".join(["stateDiagram-v2", *lines])


def main() -> int:
    """Print the diagram."""
    print(mermaid(cycle, Cycle))
    return 0


if __name__ == "__main__":
    sys.exit(main())
