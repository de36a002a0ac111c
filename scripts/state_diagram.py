"""The program's machines as Mermaid state diagrams, made from the machines that run.

    state_diagram.py

prints each diagram as ``docs/architecture.md`` embeds it, in the same order.
"""

from __future__ import annotations

import sys
from typing import Any

from automat import TypeMachine

from kollacast.client.conversation import AttemptConversation
from kollacast.client.conversation import conversation as client_conversation
from kollacast.server.conversation import Conversation, Proving, conversation, proving
from kollacast.server.cycle import Cycle, cycle

#: Each machine: its name on the page, itself, and the protocol of its inputs.
MACHINES: list[tuple[str, TypeMachine[Any, Any], type]] = [
    ("the server's cycle", cycle, Cycle),
    ("the conversation with one client", conversation, Conversation),
    ("the proof of one client", proving, Proving),
    ("a client's attempt", client_conversation, AttemptConversation),
]


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
    """Print the diagrams."""
    for name, machine, inputs in MACHINES:
        print(f"<!-- state diagram: {name} -->\n```mermaid\n{mermaid(machine, inputs)}\n```")
    return 0


if __name__ == "__main__":
    sys.exit(main())
