"""How far a run is, as the lines of a terminal: one for a client, some for a server.

The first is the run as a whole; then how its hosts stand, and those that are farthest behind. Each
fits the terminal's width, whatever that is; what is worth least goes first.
"""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, Literal

from kollacast.command.amounts import amount, duration
from kollacast.command.streams import one_line
from kollacast.operator.outcome import HostLine, Hosts, Progress

if TYPE_CHECKING:
    from rich.text import Text

#: Seconds over which the rate is taken.
_RATE_S = 10.0
#: Columns of a bar that says something, at the least and at the most.
_LEAST_BAR, _MOST_BAR = 8, 60
#: Columns for what a host is called.
_NAME = 26
#: Hosts that are named.
MOST_HOSTS = 5
#: The share of packets lost that is worth a colour.
_MUCH_LOST = 0.05

_STYLES = {
    "waiting": "dim",
    "receiving": "cyan",
    "repairing": "yellow",
    "detached": "magenta",
    "unicast": "blue",
    "verifying": "green",
    "verified": "bold green",
    "failed": "bold red",
}


class _Buffer(io.StringIO):
    """Tells rich by its encoding whether there are lines and dots to draw with."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


class View:
    """Makes lines of one moment after another; `encoding` is what the terminal reads."""

    def __init__(self, encoding: str) -> None:
        # Loaded when first needed: that takes some 60 ms, and most runs draw nothing.
        from rich.console import Console

        self._console = Console(
            file=_Buffer(encoding),
            force_terminal=True,
            legacy_windows=False,
            markup=False,
            highlight=False,
            emoji=False,
        )
        is_ascii = not encoding.lower().startswith("utf")
        self._overflow: Literal["crop", "ellipsis"] = "crop" if is_ascii else "ellipsis"
        self._phase = ""
        self._looks: deque[tuple[float, int]] = deque()

    def lines(self, progress: Progress, now_s: float, columns: int) -> list[str]:
        """What to draw at `now_s`, each line with fewer than `columns` cells."""
        width = max(columns - 1, 1)
        rate = self._rate(progress, now_s)
        lines = [self._overall(progress, rate, width)]
        if progress.hosts is not None:
            lines += self._hosts(progress.hosts, progress, width)
        return lines

    def _rate(self, progress: Progress, now_s: float) -> float:
        """Bytes a second, of the last while and of this phase alone."""
        if progress.phase != self._phase:
            self._phase = progress.phase
            self._looks.clear()
        looks = self._looks
        looks.append((now_s, progress.bytes_done))
        while now_s - looks[0][0] > _RATE_S:
            looks.popleft()
        then_s, then = looks[0]
        return (progress.bytes_done - then) / (now_s - then_s) if now_s > then_s else 0.0

    def _overall(self, progress: Progress, rate: float, width: int) -> str:
        from rich.text import Text

        done, total = progress.bytes_done, progress.bytes_total
        share = None if total is None else done / total if total else 1.0
        words = [] if share is None else [f"{int(100 * share)} %"]
        words.append(amount(done) if total is None else f"{amount(done)} of {amount(total)}")
        if rate > 0:
            words.append(f"{amount(rate)}/s")
            if total is not None and total > done:
                words.append(f"{duration((total - done) / rate)} left")
        if progress.hosts is None and progress.clients_expected == 0:
            words.append(f"{progress.packets_repaired} repaired")
        # The phase, a bar, and of the words as many as leave room for one.
        phase = Text(progress.phase, style="bold")
        room = width - phase.cell_len - 2
        while len(words) > 1 and room - len("  ".join(words)) - 2 < _LEAST_BAR:
            del words[1 if len(words) > 3 else -1]
        told = "  ".join(words)
        bar = min(room - len(told) - 2, _MOST_BAR)
        if share is None or bar < _LEAST_BAR:
            return self._line(Text.assemble(phase, "  ", told), width)
        return (
            self._line(Text.assemble(phase, "  "), width)
            + self._bar(share, bar)
            + self._line(Text(f"  {told}"), width)
        )

    def _bar(self, share: float, width: int) -> str:
        from rich.progress_bar import ProgressBar

        return self._made(ProgressBar(total=1.0, completed=share, width=width))

    def _hosts(self, hosts: Hosts, progress: Progress, width: int) -> list[str]:
        from rich.text import Text

        here = sum(hosts.states.values())
        line = Text(f"{here} of {progress.clients_expected} hosts")
        for number, (state, count) in enumerate(hosts.states.items()):
            line.append(": " if number == 0 else ", ")
            line.append(f"{count} {state}", style=_STYLES.get(state, ""))
        if hosts.loss is not None:
            line.append(f"; {100 * hosts.loss:.1f} % lost, {progress.packets_repaired} repaired")
        return [self._line(line, width)] + [self._host(host, width) for host in hosts.slowest]

    def _host(self, host: HostLine, width: int) -> str:
        from rich.text import Text

        name = Text(one_line(host.name))
        name.truncate(min(_NAME, max(width // 3, 8)), overflow=self._overflow, pad=True)
        line = Text.assemble("  ", name, "  ", (f"{host.state:<9}", _STYLES.get(host.state, "")))
        if host.share is not None:
            line.append(f"  {int(100 * host.share):3} %")
        if host.loss is not None:
            style = "red" if host.loss > _MUCH_LOST else ""
            line.append(f"  {100 * host.loss:4.1f} % lost", style=style)
        if host.owed_s >= 0.1:
            line.append(f"  waited for {host.owed_s:.1f} s", style="bold")
        return self._line(line, width)

    def _line(self, text: Text, width: int) -> str:
        """`text` in a line of `width` cells at the most, with its colours."""
        text.truncate(width, overflow=self._overflow)
        return self._made(text)

    def _made(self, what: object) -> str:
        with self._console.capture() as captured:
            self._console.print(what, end="", no_wrap=True, soft_wrap=True)
        return captured.get().rstrip("\n")
