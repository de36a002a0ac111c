"""One transfer of the soak: drawn by chance, carried out by real processes, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Host, Lab

MB = 1_000_000
#: Images are cut out of so many random bytes.
POOL_BYTES = 48 * MB

_LONGEST_IMAGE = 24 * MB
_PORT = "18383"
_GROUP = "239.238.0.31"
_LOOK_S = 0.02
#: A transfer that takes longer is stuck: the longest waits of its ends are shorter together.
_STUCK_S = 180.0
_FAILSAFE = "registry.example:4000"

Condition = Callable[[], bool]


@dataclass(frozen=True)
class Plan:
    """What one transfer is: everything that chance decides, but for the moments it leads to."""

    number: int
    fault: str
    clients: int
    victim: int  #: index of the client that it happens to
    moment: float  #: share of the image that is at the victim when it happens
    seconds: float  #: how long it lasts, where it lasts
    offset: int
    size: int
    source: str  #: how the image reaches the server: "input", "stdin" or "spool" (a pipe)
    unicast: bool
    token: bool
    failsafe: bool
    digest: str
    rate_bps: int  #: of the server's link
    slow: bool  #: whether one more client hangs on a slow port
    loss: float
    duplicates: float

    @classmethod
    def draw(cls, seed: int, number: int, faults: Iterable[str]) -> Plan:
        """The plan of the transfer with this number, always the same one, with one of `faults`."""
        dice = random.Random(f"{seed}/{number}")
        fault = dice.choice(sorted(faults))
        clients = dice.randint(2, 4)
        # Whatever strikes in the middle needs one.
        size = (
            dice.randrange(1, _LONGEST_IMAGE)
            if fault == "none"
            else dice.randrange(_LONGEST_IMAGE // 3, _LONGEST_IMAGE)
        )
        # The server that is started again has to know its image again.
        sources = ("input", "stdin") if fault == "server restarted" else ("input", "stdin", "spool")
        source = dice.choice(sources)
        return cls(
            number=number,
            fault=fault,
            clients=clients,
            victim=dice.randrange(clients),
            # Who is late has to come while the session lasts, on a busy machine, too.
            moment=0.01 if fault == "late joiner" else dice.uniform(0.02, 0.6),
            seconds=dice.uniform(1.0, 5.0),
            offset=dice.randrange(POOL_BYTES - size),
            size=size,
            source=source,
            unicast=fault != "multicast blocked" and dice.random() < 0.1,
            token=fault == "stranger" or dice.random() < 0.2,
            failsafe=dice.random() < 0.5,
            digest=dice.choice(("sha256", "blake3")),
            rate_bps=dice.choice((40, 80, 160)) * MB,
            slow=dice.random() < 0.15,
            loss=dice.choice((0.0, 0.0, 0.001, 0.01, 0.05, 0.15, 0.3)),
            duplicates=dice.choice((0.0, 0.0, 0.01, 0.1)),
        )

    @property
    def traffic_faults(self) -> list[str]:
        """What is wrong with the network all the time."""
        present = {
            "loss": self.loss > 0,
            "duplicates": self.duplicates > 0,
            "slow port": self.slow,
        }
        return [name for name, here in present.items() if here]


@dataclass
class Process:
    """One of the two commands, on its host."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    permitted: set[int]
    peak_bytes: int = 0

    @property
    def status(self) -> int | None:
        return self.popen.poll()

    def look(self) -> None:
        """Note the most memory it has had; the last value is its own, not the one of its fork."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_bytes = int(line.split()[1]) * 1024


class Transfer:
    """The processes of one transfer, what happens to them, and what must come out."""

    def __init__(self, plan: Plan, lab: Lab, folder: Path, image: bytes) -> None:
        self.plan = plan
        self.lab = lab
        self.folder = folder
        self.sha256 = hashlib.sha256(image).hexdigest()
        #: All that were started, also those that are dead and have a successor.
        self.processes: list[Process] = []
        self.server: Process
        self.clients: list[Process] = []
        self.happened = False  #: whether the fault has struck
        self._cats: list[subprocess.Popen[bytes]] = []
        self._image = folder / "image"
        self._image.write_bytes(image)
        for name, secret in (("token", "a secret of this room"), ("wrong", "a secret of another")):
            (folder / name).write_text(secret)
            (folder / name).chmod(0o600)
        (folder / "spool").mkdir()
        for index in range(len(lab.clients)):
            (folder / f"host-{index + 1}").mkdir()

    # For faults.

    @property
    def victim(self) -> int:
        return self.plan.victim

    def start_server(self) -> None:
        """Start the server, for the first time or again."""
        plan, host = self.plan, self.lab.server
        is_late = plan.fault == "late joiner"
        comes_back = plan.fault in ("client restarted", "server restarted")
        words = ["--patience", "15" if comes_back else "2", "--digest", plan.digest]
        # A client of the first server may have the image, and not come to the second one.
        if is_late or comes_back:
            words += ["--accept-timeout", "8", "--min-clients", "1"]
        if is_late:
            # Slow enough for the session to last until a busy machine has started this client.
            words += ["--rate", "10M"]
        if plan.unicast:
            words.append("--unicast")
        if plan.token:
            words += ["--token-file", "token"]
        if plan.failsafe:
            words += ["--failsafe", _FAILSAFE]
        if plan.source == "spool":
            words += ["--spool", "spool"]
        stdin: Any = subprocess.DEVNULL
        with contextlib.ExitStack() as stack:
            if plan.source == "input":
                words += ["--input", "image"]
            elif plan.source == "stdin":
                stdin = stack.enter_context(self._image.open("rb"))
            else:
                cat = subprocess.Popen(["cat", self._image], stdout=subprocess.PIPE)
                assert cat.stdout is not None
                self._cats.append(cat)
                stdin = stack.enter_context(cat.stdout)
            argv = ["kollacast-server", host.address, str(plan.clients), _PORT, *words]
            self.server = self._start("server", host, argv, stdin)

    def start_client(self, index: int, token: str = "token") -> Process:
        """Start a client, for the first time or again."""
        host = self.lab.clients[index]
        name = f"host-{index + 1}"
        words = ["--name", name, "--output", f"{name}/copy", "--connect-timeout", "20"]
        if self.plan.fault == "server killed":
            words[-1] = "4"
        if self.plan.token:
            words += ["--token-file", token]
        argv = ["kollacast-client", host.address, self.lab.server.address, _PORT, *words]
        return self._start(name, host, argv, subprocess.DEVNULL)

    def arrived(self, index: int) -> Condition:
        """The plan's share of the image has been written by this client."""
        folder = self.folder / f"host-{index + 1}"

        def reached() -> bool:
            sizes = []
            with contextlib.suppress(OSError):
                sizes = [path.stat().st_size for path in folder.iterdir()]
            return sum(sizes) >= self.plan.moment * self.plan.size and bool(sizes)

        return reached

    def ended(self, process: Process) -> Condition:
        return lambda: process.status is not None

    @staticmethod
    def after(seconds: float) -> Condition:
        at = time.monotonic() + seconds
        return lambda: time.monotonic() >= at

    def kill(self, process: Process, number: int = signal.SIGKILL) -> bool:
        """Send a signal that ends it; False when it has ended already, and nothing happens."""
        if process.status is not None:
            return False
        process.popen.send_signal(number)
        process.permitted = {-number}
        self.happened = True
        return True

    # The run.

    def run(self, fault: Iterator[Condition]) -> None:
        """From the first start to the end of all, or until it is stuck.

        `fault` waits for conditions by yielding them, and does its harm in between.
        """
        self.start_server()
        late = self.victim if self.plan.fault == "late joiner" else None
        self.clients = [
            self.start_client(index) for index in range(self.plan.clients) if index != late
        ]
        waits_for = next(fault, None)
        deadline = time.monotonic() + _STUCK_S
        while time.monotonic() < deadline:
            for process in self.processes:
                process.look()
            is_over = all(process.status is not None for process in self.processes)
            if waits_for is not None and waits_for():
                waits_for = next(fault, None)
            elif is_over:
                return
            time.sleep(_LOOK_S)

    def verify(self) -> tuple[list[str], int, int]:
        """What is not as promised, copies that are right, and copies that are not."""
        wrong = []
        right = mismatches = 0
        for process in self.processes:
            if process.status is None:
                wrong.append(f"{process.name} has not ended")
            elif process.status not in process.permitted:
                wrong.append(f"{process.name} ended with {process.status}")
            if "Traceback" in (said := process.log.read_text(errors="replace")):
                wrong.append(f"{process.name} printed a traceback")
            if "an error of the program" in said:
                wrong.append(f"{process.name} speaks of an error of the program")
        last = {p.name: p for p in self.processes if p is not self.server}
        for name, process in last.items():
            if name == "server":
                continue
            names = sorted(os.listdir(self.folder / name))
            if process.status == 0:
                if names != ["copy"]:
                    wrong.append(f"{name} has {names} and not its copy alone")
                elif _sha256_of(self.folder / name / "copy") == self.sha256:
                    right += 1
                else:
                    mismatches += 1
                    wrong.append(f"{name} has another image")
            elif "copy" in names:
                wrong.append(f"{name} failed, and has a copy")
        if self.server.status is not None and os.listdir(self.folder / "spool"):
            wrong.append("the spool is not empty")
        return wrong, right, mismatches

    def left(self) -> list[str]:
        """Processes on the hosts, and groups that are still joined."""
        found = [p.name for p in self.processes if p.status is None]
        for host in (self.lab.server, *self.lab.clients):
            listed = subprocess.run(
                ["ip", "netns", "pids", host.namespace], capture_output=True, text=True
            ).stdout.split()
            found += [f"process {pid} on {host.namespace}" for pid in listed]
            groups = subprocess.run(
                ["ip", "-n", host.namespace, "maddr", "show", "dev", "eth0"],
                capture_output=True,
                text=True,
            ).stdout
            if _GROUP in groups:
                found.append(f"membership on {host.namespace}")
        return found

    def dismiss(self) -> None:
        """Kill and reap whatever still runs."""
        for popen in [*(p.popen for p in self.processes), *self._cats]:
            if popen.poll() is None:
                popen.kill()
            popen.wait()

    def _start(self, name: str, host: Host, argv: list[str], stdin: Any) -> Process:
        twistd = str(Path(sys.executable).with_name("twistd"))
        log = self.folder / f"{len(self.processes)}-{name}.log"
        with log.open("wb") as errors:
            popen = subprocess.Popen(
                host.command([sys.executable, twistd, "-n", *argv, "--progress", "none"]),
                cwd=self.folder,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        process = Process(name, popen, log, {0})
        self.processes.append(process)
        return process


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(MB):
            digest.update(block)
    return digest.hexdigest()
