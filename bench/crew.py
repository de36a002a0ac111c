"""The processes of one transfer: started on their hosts, watched without disturbing them, reaped.

Time ends for a process when its pidfd becomes readable, so the wall clock is exact without
polling. CPU seconds are the kernel's account at the reaping (wait4), children that the process
itself waited for included. The peak of memory needs care, see `_peak_bytes`.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from lab import Host

#: How often memory is looked at, seconds, and how often the wire until its first data.
_TICK_S = 0.05
_WIRE_TICK_S = 0.005
#: This much received by a host beyond what its waiting took is data, not a greeting.
_DATA_BYTES = 64 * 1024
#: A receiver waits when it slept at each of this many looks, and ran no longer than this between.
_IDLE_LOOKS = 6
_IDLE_RUN_S = 0.02
_STOP_TIMEOUT_S = 5.0
#: How many processes' memory is looked at in one tick, so that 33 cost no more to watch than 5.
_LOOKS_A_TICK = 4


class TransferError(Exception):
    """A transfer did not succeed; the message says why in one line."""

    def __init__(self, message: str, *, is_too_slow: bool = False) -> None:
        super().__init__(message)
        self.is_too_slow = is_too_slow


class Side(Enum):
    """Whose cost a process is."""

    SENDER = "sender"
    RECEIVER = "receiver"
    VIEWER = "viewer"  #: of those who watch, which no figure has


@dataclass
class Process:
    """One process; what is None is known once it has ended."""

    name: str
    side: Side
    pid: int
    log: Path
    popen: subprocess.Popen[bytes]
    pidfd: int
    statuses: Collection[int] = (0,)  #: with which it may end
    ended: float | None = None
    status: int | None = None
    cpu_s: float = 0.0
    peak_bytes: int = 0

    def last_words(self) -> str:
        """The last line that it wrote to its standard error, for a message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "no message"


@dataclass
class Crew:
    """A context manager: whatever still runs at its end is stopped, and everything is reaped.

    `limit_s` is the longest that a transfer may take; waiting longer raises TransferError.
    `before` is called when the receivers wait, just before the clock starts.
    """

    folder: Path
    limit_s: float
    before: Callable[[], None] | None = None
    processes: list[Process] = field(default_factory=list)
    #: Monotonic seconds: the sender's start, the first data at a receiver, the last change to the
    #: last copy, the last receiver's end.
    began: float | None = None
    data_began: float | None = None
    completed: float | None = None
    finished: float | None = None
    machine_cpu_s: float = 0.0
    _wire: _Wire | None = None
    _every: tuple[float, Callable[[float], None]] | None = None
    _next_call: float = 0.0
    _cpu_before: float = 0.0
    _looked_at: int = 0
    _next_look: float = 0.0

    def __enter__(self) -> Crew:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.stop(self.running())
        finally:
            if self._wire is not None:
                self._wire.close()

    def start(
        self,
        host: Host,
        side: Side,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        statuses: Collection[int] = (0,),
    ) -> Process:
        """Run `argv` on `host`, its output and errors in a log file of its own.

        Where it ends with none of these `statuses`, waiting raises TransferError.
        """
        name = f"{side.value}-{len(self.processes)}"
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                host.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        pidfd = os.pidfd_open(popen.pid)
        process = Process(name, side, popen.pid, log, popen, pidfd, statuses)
        self.processes.append(process)
        return process

    def begin(self, watched: Process) -> None:
        """The clock starts now. `watched` runs on a host where the data passes by."""
        if self.before is not None:
            self.before()
        self._wire = _Wire(watched.pid)
        self._cpu_before = machine_cpu_s()
        self.began = time.monotonic()

    def finish(self, copies: Sequence[Path], when: float | None = None) -> None:
        """The clock stops: the last receiver is done (now, or at `when`).

        `copies` are the files as the tool left them, not renamed since. A copy is complete when
        the file's last change has been made: its last write, or the rename to its final name.
        """
        self.finished = time.monotonic() if when is None else when
        self.machine_cpu_s = machine_cpu_s() - self._cpu_before
        changes = [copy.stat().st_ctime for copy in copies if copy.exists()]
        if changes:
            self.completed = min(max(changes) - time.time() + time.monotonic(), self.finished)

    def every(self, seconds: float, call: Callable[[float], None]) -> None:
        """Call `call` with the seconds since the clock's start, again and again while waiting."""
        self._every = (seconds, call)

    def wait_until_idle(self, processes: Sequence[Process]) -> None:
        """Until each of them sleeps and stays asleep: it has started up, and waits for a sender."""
        deadline = time.monotonic() + self.limit_s
        looks, ran = 0, _run_seconds(processes)
        while looks < _IDLE_LOOKS:
            if time.monotonic() > deadline:
                raise TransferError(f"receivers not ready within {self.limit_s:.0f} s")
            self._step(_TICK_S)
            self._require_alive(processes)
            now = _run_seconds(processes)
            is_idle = all(_sleeps(process.pid) for process in processes)
            is_idle = is_idle and all(b - a < _IDLE_RUN_S for a, b in zip(ran, now, strict=True))
            looks, ran = (looks + 1, ran) if is_idle else (0, now)

    def wait(self, processes: Sequence[Process]) -> float:
        """Until all of them have ended well; the monotonic time at which the last one did."""
        self.wait_until(lambda: all(process.ended is not None for process in processes))
        return max((process.ended or 0.0 for process in processes), default=time.monotonic())

    def wait_until(self, condition: Callable[[], bool], tick_s: float = _TICK_S) -> None:
        """Until `condition` holds, looked at after each end of a process and each tick."""
        deadline = (self.began or time.monotonic()) + self.limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise TransferError(f"not done after {self.limit_s:.0f} s", is_too_slow=True)
            self._step(tick_s)
            for process in self.processes:
                if process.status is not None and process.status not in process.statuses:
                    raise TransferError(
                        f"{process.name} ended with status {process.status}: {process.last_words()}"
                    )

    def watch(self, seconds: float) -> None:
        """Look after all of them for so long, or until one ends."""
        self._step(seconds)

    def running(self) -> list[Process]:
        """Those that have not ended, in the order of their start."""
        return [process for process in self.processes if process.ended is None]

    def stop(self, processes: Sequence[Process]) -> None:
        """SIGTERM, and after some seconds SIGKILL. How they end then does not matter."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                if process.ended is None:
                    signal.pidfd_send_signal(process.pidfd, number)
            deadline = time.monotonic() + _STOP_TIMEOUT_S
            while any(p.ended is None for p in processes) and time.monotonic() < deadline:
                self._step(_TICK_S)

    def _require_alive(self, processes: Sequence[Process]) -> None:
        for process in processes:
            if process.ended is not None:
                raise TransferError(f"{process.name} ended at once: {process.last_words()}")

    def _step(self, tick_s: float) -> None:
        """Wait for one tick or the end of a process; then look at everything once."""
        awaits_data = self.began is not None and self.data_began is None
        running = self.running()
        poll = select.poll()
        for process in running:
            poll.register(process.pidfd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(1000 * min(tick_s, _WIRE_TICK_S if awaits_data else 1))}
        now = time.monotonic()
        for process in running:
            if process.pidfd in ended:
                _reap(process, now)
        if not awaits_data and now >= self._next_look:
            # Not at each end of a process: in the end they are many, and need the processor.
            self._next_look = now + _TICK_S
            self._look_at_memory()
        if awaits_data and self._wire is not None and self._wire.received() > _DATA_BYTES:
            self.data_began = now
        if self._every is not None and self.began is not None and now >= self._next_call:
            seconds, call = self._every
            self._next_call = now + seconds
            call(now - self.began)

    def _look_at_memory(self) -> None:
        running = self.running()
        for _ in range(min(_LOOKS_A_TICK, len(running))):
            self._looked_at = (self._looked_at + 1) % len(running)
            process = running[self._looked_at]
            process.peak_bytes = max(process.peak_bytes, _high_water_bytes(process.pid))


class _Wire:
    """Bytes that came in or went out at eth0 of the host on which a process runs."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/net/dev", os.O_RDONLY)
        self._at_first = self._count()

    def received(self) -> int:
        return self._count() - self._at_first

    def close(self) -> None:
        os.close(self._fd)

    def _count(self) -> int:
        for line in os.pread(self._fd, 4096, 0).decode().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == "eth0":
                fields = numbers.split()
                return int(fields[0]) + int(fields[8])
        return 0


def _reap(process: Process, now: float) -> None:
    _, status, usage = os.wait4(process.pid, 0)
    os.close(process.pidfd)
    process.ended = now
    process.status = process.popen.returncode = os.waitstatus_to_exitcode(status)
    process.cpu_s = usage.ru_utime + usage.ru_stime
    process.peak_bytes = _peak_bytes(process.peak_bytes, 1024 * usage.ru_maxrss)


def _peak_bytes(seen: int, reported: int) -> int:
    """The peak resident set from what was `seen` while it ran and `reported` at its end.

    The kernel's figure at the end includes the moment between fork and exec, when the new process
    was still a copy of this one. It is the process's own only where it exceeds our own peak; below
    that counts the process's high-water mark, which it never falls under again once it was seen.
    """
    own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return reported if reported > own else seen


def _high_water_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def _run_seconds(processes: Sequence[Process]) -> list[float]:
    """CPU seconds that each has used so far, all its threads together, by the scheduler's clock."""
    return [_cpu_seconds(process.pid) for process in processes]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sleeps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False


def machine_cpu_s() -> float:
    """CPU seconds that the whole machine has worked since it started: all but idle and waiting."""
    user, nice, system, _idle, _wait, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    ticks = int(user) + int(nice) + int(system) + int(irq) + int(softirq)
    return ticks / os.sysconf("SC_CLK_TCK")
