"""Real processes for the tests: the commands a user types, watched by what they say and write.

A :class:`Crew` starts processes on the reactor that pytest-twisted runs, and whatever still runs
at the end of a test is killed and reaped. Nothing waits for luck: a test waits for a line on
standard error, for bytes, for the end of a process, each with a deadline that fails it.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from lab import Host

LOOPBACK = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parent.parent
#: No step of a test takes this long, on a machine however busy.
PATIENCE_S = 120.0
#: Between two looks at what gives no sign when it changes: a file.
_LOOK_S = 0.02

#: Below what the kernel gives away by itself, 32768 and up, and above what services are known by.
_PORTS = (15000, 32000)
_ATTEMPTS = 10_000
_ports = random.SystemRandom()
_claims: list[socket.socket] = []

_script = Path(sys.executable).with_name("twistd")
#: The command that a user types, of the interpreter that runs the tests.
TWISTD = (
    [sys.executable, str(_script)]
    if _script.exists()
    else [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
)

_Test = TypeVar("_Test", bound=Callable[..., Any])


def on_the_reactor(test: _Test) -> _Test:
    """Mark a coroutine function as a test that runs on the real reactor."""
    return cast(_Test, pytest_twisted.ensureDeferred(test))


def image_of(size: int) -> bytes:
    """`size` bytes in which no packet resembles another."""
    return random.Random(size).randbytes(size)


def free_port() -> int:
    """A port that is free for TCP and for UDP, and stays so until this process ends.

    It is none that the kernel gives to whoever asks for any port, as every connection does. Other
    runs of the tests on this machine, which choose in the same way, get others.
    """
    for _ in range(_ATTEMPTS):
        number = _ports.randrange(*_PORTS)
        claim = socket.socket(socket.AF_UNIX)
        try:
            # a name without a file is the kernel's, for a network namespace as ports are
            claim.bind(f"\0kollacast-test-port-{number}")
            with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
                tcp.bind(("", number))
                udp.bind(("", number))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return number
    raise OSError("no port is free")


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(os.listdir(folder))


class Program(ProcessProtocol):
    """One process, and what it has said so far."""

    def __init__(self, name: str, reactor: Any) -> None:
        self.name = name
        self.output = bytearray()  #: standard output, when it is a pipe
        self.status: int | None = None  #: exit status, or minus the signal that it died of
        self._errors = bytearray()
        self._reactor = reactor
        self._hopes: list[tuple[Callable[[], bool], Deferred[None]]] = []

    @property
    def errors(self) -> str:
        """Standard error as text."""
        return self._errors.decode()

    @property
    def lines(self) -> list[str]:
        """The lines on standard error."""
        return self.errors.splitlines()

    async def said(self, *texts: str) -> str:
        """Wait for a line on standard error with all of `texts` in it, and return it."""

        def found() -> list[str]:
            whole = self.errors.rpartition("\n")[0].splitlines()
            return [line for line in whole if all(text in line for text in texts)]

        await self.until(lambda: bool(found()), f"a line with {' and '.join(map(repr, texts))}")
        return found()[0]

    async def gave(self, count: int) -> None:
        """Wait for `count` bytes on the standard output, a pipe."""
        await self.until(lambda: len(self.output) >= count, f"{count} bytes of output")

    async def end(self) -> int:
        """Wait for the end; return the exit status, or minus the signal that ended it."""
        await self.until(lambda: self.status is not None, "its end")
        assert self.status is not None
        return self.status

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds, which is looked at whenever the process shows anything."""
        if condition():
            return
        assert self.status is None, self._report(f"ended without {what}")
        hope: Deferred[None] = Deferred()
        self._hopes.append((condition, hope))
        timeout = self._reactor.callLater(
            PATIENCE_S, lambda: hope.errback(AssertionError(self._report(f"no sign of {what}")))
        )
        try:
            await hope
        finally:
            if timeout.active():
                timeout.cancel()
        assert condition(), self._report(f"ended without {what}")

    def write(self, data: bytes) -> None:
        """Write to the standard input, a pipe."""
        self._process.write(data)

    def close_input(self) -> None:
        """End the standard input, a pipe."""
        self._process.closeStdin()

    def close_output(self) -> None:
        """Stop reading the standard output, a pipe: writing to it is an error from now on."""
        self._process.closeStdout()

    def stop_reading(self) -> None:
        """Let the standard output, a pipe, run full."""
        self._process.pipes[1].stopReading()

    def read_on(self) -> None:
        """Read the standard output, a pipe, again."""
        self._process.pipes[1].startReading()

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing once the process has ended."""
        try:
            self._process.signalProcess(int(number))
        except ProcessExitedAlready:
            pass

    @property
    def pid(self) -> int:
        return cast(int, self._process.pid)

    def writes_in(self, folder: Path) -> int:
        """The size of the largest file in `folder` that it has open, even one without a name."""
        sizes = [0]
        links = Path(f"/proc/{self.pid}/fd")
        try:
            for number in os.listdir(links):
                if os.readlink(links / number).startswith(f"{folder}/"):
                    sizes.append((links / number).stat().st_size)
        except OSError:
            pass  # a file is closed, or the process ends, in this moment
        return max(sizes)

    def peak_memory(self) -> int:
        """The most memory in bytes that the process has had so far, 0 once it has ended."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(sizes[0]) * 1024 if sizes else 0

    @property
    def _process(self) -> Any:
        return self.transport

    def _report(self, what: str) -> str:
        return f"{self.name}: {what}; status {self.status}, it said:\n{self.errors}"

    def _look(self) -> None:
        waiting, self._hopes = self._hopes, []
        for condition, hope in waiting:
            if hope.called:
                continue
            if self.status is not None or condition():
                hope.callback(None)
            else:
                self._hopes.append((condition, hope))

    def outReceived(self, data: bytes) -> None:
        self.output += data
        self._look()

    def errReceived(self, data: bytes) -> None:
        self._errors += data
        self._look()

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.status = -value.signal if value.signal else value.exitCode
        self._look()


class Crew:
    """Starts the processes of one test in `folder`; `port` is free when it begins."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.port = free_port()
        self._programs: list[Program] = []

    def start(
        self,
        argv: Sequence[str],
        name: str,
        *,
        stdin: str | Path | int = os.devnull,
        stdout: str | Path | int = "pipe",
        stderr: int | None = None,
        host: Host | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a process.

        `stdin` and `stdout` are "pipe", a file to redirect to, or a descriptor. `stderr` is a
        descriptor, or None for the pipe that :attr:`Program.lines` come from.
        """
        program = Program(name, self.reactor)
        clean = {key: value for key, value in os.environ.items() if key != "KOLLACAST_DEBUG"}
        opened = []
        streams: dict[int, str | int] = {0: "w", 1: "r", 2: "r" if stderr is None else stderr}
        for number, where, flags in (
            (0, stdin, os.O_RDONLY),
            (1, stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            if isinstance(where, int):
                streams[number] = where
            elif where != "pipe":
                streams[number] = os.open(where, flags, 0o666)
                opened.append(streams[number])
        argv = argv if host is None else host.command(argv)
        try:
            self.reactor.spawnProcess(
                program,
                argv[0],
                argv,
                env={**clean, "PYTHONPATH": str(CHECKOUT), **(env or {})},
                path=str(self.folder),
                childFDs=streams,
            )
        finally:
            for fd in opened:
                os.close(cast(int, fd))
        self._programs.append(program)
        return program

    def server(
        self,
        *words: str,
        clients: int = 1,
        local_ip: str = LOOPBACK,
        twistd: Sequence[str] = ("-n",),
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> Program:
        """Start ``twistd -n kollacast-server``; `more` is for :meth:`start`."""
        command = ["kollacast-server", local_ip, str(clients), str(self.port), *words]
        return self.start([*prefix, *TWISTD, *twistd, *command], "server", **more)

    def client(
        self,
        *words: str,
        local_ip: str = LOOPBACK,
        server_ip: str = LOOPBACK,
        port: int | None = None,
        twistd: Sequence[str] = ("-n",),
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> Program:
        """Start ``twistd -n kollacast-client``; `more` is for :meth:`start`."""
        command = ["kollacast-client", local_ip, server_ip, str(port or self.port), *words]
        return self.start([*prefix, *TWISTD, *twistd, *command], "client", **more)

    def twistd(self, command: str, *words: str, **more: Any) -> Program:
        """Start ``twistd -n`` with a command line as it stands; `more` is for :meth:`start`."""
        argv = [*TWISTD, "-n", command, *words]
        return self.start(argv, command.removeprefix("kollacast-"), **more)

    def peer(self, script: str, *words: str, **more: Any) -> Program:
        """Start one of the independent programs in ``tests/peers``."""
        path = CHECKOUT / "tests" / "peers" / f"{script}.py"
        return self.start([sys.executable, str(path), *words], script, **more)

    def file(self, name: str, data: bytes) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.write_bytes(data)
        return path

    async def until(
        self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S
    ) -> None:
        """Wait for what gives no sign, as the growth of a file; `what` is for a failure."""
        deadline = self.reactor.seconds() + patience_s
        while not condition():
            assert self.reactor.seconds() < deadline, f"waited {patience_s:g} s for {what}"
            await deferLater(self.reactor, _LOOK_S)

    async def dismiss(self) -> None:
        """Kill what still runs, and wait until it is gone."""
        ends = []
        for program in self._programs:
            if program.status is None:
                program.send_signal(signal.SIGKILL)
                ends.append(Deferred.fromCoroutine(program.end()))
        for success, failure in await DeferredList(ends, consumeErrors=True):
            if not success:
                cast(Failure, failure).raiseException()


async def make_crew(tmp_path: Path) -> AsyncIterator[Crew]:
    """A fixture: a crew for one test."""
    from twisted.internet import reactor

    crew = Crew(reactor, tmp_path)
    yield crew
    await crew.dismiss()


async def ends(*programs: Program) -> list[int]:
    """Wait for the end of all, and return their exit statuses."""
    return [await program.end() for program in programs]
