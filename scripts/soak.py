"""Transfers back to back under random faults, between real processes on hosts of their own.

    soak.py [--minutes M] [--seed S] [--only N] [--report FILE]

Each transfer has a network of namespaces (`lab`), an image, options, and one fault, all drawn from
the seed and the transfer's number: `--seed S --only N` repeats that one. Every copy is compared by
SHA-256, and every exit status with those that the fault permits. What must not be left is looked
for: processes, groups joined, hidden files beside a copy that is complete, the spool.

Prints a line a transfer and the figures in the end, which `--report` writes as JSON, too. The exit
status is 1 if anything was not as promised; what the processes of that transfer said is kept, in
the folder that its line names. Needs what `lab` needs. Runs beside other labs: its own has the
prefix ``soak-``.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import Host, Lab

_MB = 1_000_000
_PORT = "18383"
_GROUP = "239.238.0.31"
_PREFIX = "soak-"
_LOOK_S = 0.02
#: A transfer that takes longer is stuck: the longest waits of its ends are shorter together.
_STUCK_S = 180.0
#: Images are cut out of so many random bytes.
_POOL_BYTES = 48 * _MB
_LONGEST_IMAGE = 24 * _MB
#: Transfers at either end of the run whose memory is compared.
_ENDS = 20
_FAILSAFE = "registry.example:4000"

_Condition = Callable[[], bool]
#: Waits for conditions by yielding them, and does its harm in between.
_Fault = Callable[["Transfer"], Iterator[_Condition]]


def main(words: Sequence[str]) -> int:
    """Run until the time is over, or one transfer; return the exit status."""
    parser = argparse.ArgumentParser(description="Transfers back to back under random faults.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="N", help="this transfer alone")
    parser.add_argument("--report", type=Path, default=None, metavar="FILE")
    options = parser.parse_args(words)
    reason = Lab.available()
    if reason:
        print(f"soak: {reason}", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    pool = random.Random(seed).randbytes(_POOL_BYTES)
    figures = Figures(seed)
    deadline = figures.began_at + 60 * options.minutes
    number = 1 if options.only is None else options.only
    try:
        while True:
            run_one(Plan.draw(seed, number), pool, figures)
            number += 1
            if options.only is not None or time.monotonic() > deadline:
                break
    except KeyboardInterrupt:
        print("interrupted: these are the figures so far", flush=True)
    summary = figures.summary()
    print(json.dumps(summary, indent=2))
    if options.report is not None:
        options.report.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if summary["mismatches"] or summary["unexpected"] or summary["left"] else 0


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
    def draw(cls, seed: int, number: int) -> Plan:
        """The plan of the transfer with this number, always the same one."""
        dice = random.Random(f"{seed}/{number}")
        fault = dice.choice(sorted(_FAULTS))
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
            moment=dice.uniform(0.02, 0.6),
            seconds=dice.uniform(1.0, 5.0),
            offset=dice.randrange(_POOL_BYTES - size),
            size=size,
            source=source,
            unicast=fault != "multicast blocked" and dice.random() < 0.1,
            token=fault == "stranger" or dice.random() < 0.2,
            failsafe=dice.random() < 0.5,
            digest=dice.choice(("sha256", "blake3")),
            rate_bps=dice.choice((40, 80, 160)) * _MB,
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

    def arrived(self, index: int) -> _Condition:
        """The plan's share of the image has been written by this client."""
        folder = self.folder / f"host-{index + 1}"

        def reached() -> bool:
            sizes = []
            with contextlib.suppress(OSError):
                sizes = [path.stat().st_size for path in folder.iterdir()]
            return sum(sizes) >= self.plan.moment * self.plan.size and bool(sizes)

        return reached

    def ended(self, process: Process) -> _Condition:
        return lambda: process.status is not None

    @staticmethod
    def after(seconds: float) -> _Condition:
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

    def run(self) -> None:
        """From the first start to the end of all, or until it is stuck."""
        fault = _FAULTS[self.plan.fault](self)
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
                elif sha256_of(self.folder / name / "copy") == self.sha256:
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


# The faults. Each says what it permits; where it says nothing, all end with 0.


def _none(transfer: Transfer) -> Iterator[_Condition]:
    transfer.happened = True
    yield from ()


def _client_killed(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    if transfer.kill(transfer.clients[transfer.victim]):
        transfer.server.permitted = {4}


def _half_killed(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    number = transfer.plan.clients
    for step in range(number // 2):
        if transfer.kill(transfer.clients[(transfer.victim + step) % number]):
            transfer.server.permitted = {4}


def _client_terminated(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    if transfer.kill(transfer.clients[transfer.victim], signal.SIGTERM):
        # It may have become complete in the last moment.
        transfer.server.permitted = {0, 4}


def _client_restarted(transfer: Transfer) -> Iterator[_Condition]:
    client = transfer.clients[transfer.victim]
    yield transfer.arrived(transfer.victim)
    if transfer.kill(client):
        yield transfer.ended(client)
        transfer.clients[transfer.victim] = transfer.start_client(transfer.victim)


def _client_stopped(transfer: Transfer) -> Iterator[_Condition]:
    client = transfer.clients[transfer.victim]
    yield transfer.arrived(transfer.victim)
    yield from _stopped(transfer, client)


def _server_stopped(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _stopped(transfer, transfer.server)


def _stopped(transfer: Transfer, process: Process) -> Iterator[_Condition]:
    if process.status is None:
        process.popen.send_signal(signal.SIGSTOP)
        transfer.happened = True
        yield transfer.after(transfer.plan.seconds)
        process.popen.send_signal(signal.SIGCONT)


def _server_killed(transfer: Transfer) -> Iterator[_Condition]:
    """For good: every client says so, or names the failsafe registry."""
    yield transfer.arrived(transfer.victim)
    waiting = [client for client in transfer.clients if client.status is None]
    if transfer.kill(transfer.server):
        for client in waiting:
            # Zero: it had everything, the digest included, and was about to end.
            client.permitted = {75 if transfer.plan.failsafe else 1, 0}


def _server_restarted(transfer: Transfer) -> Iterator[_Condition]:
    first = transfer.server
    yield transfer.arrived(transfer.victim)
    if transfer.kill(first):
        yield transfer.ended(first)
        transfer.start_server()
        if any(client.status is not None for client in transfer.clients):
            # Those have the image, and the second server does not hear of it.
            transfer.server.permitted = {0, 4}


def _cable_pulled(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _unplugged(transfer, transfer.lab.clients[transfer.victim])


def _server_cable_pulled(transfer: Transfer) -> Iterator[_Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _unplugged(transfer, transfer.lab.server)


def _unplugged(transfer: Transfer, host: Host) -> Iterator[_Condition]:
    transfer.lab.set_link(host, up=False)
    transfer.happened = True
    yield transfer.after(transfer.plan.seconds)
    transfer.lab.set_link(host, up=True)


def _late_joiner(transfer: Transfer) -> Iterator[_Condition]:
    others = [i for i in range(transfer.plan.clients) if i != transfer.victim]
    yield lambda: any(transfer.arrived(i)() for i in others)
    transfer.clients.append(transfer.start_client(transfer.victim))
    transfer.happened = True


def _multicast_blocked(transfer: Transfer) -> Iterator[_Condition]:
    """A firewall on one host, from before the start."""
    host = transfer.lab.clients[transfer.victim]
    rule = "ip daddr 224.0.0.0/4 drop"
    hook = "type filter hook input priority 0;"
    subprocess.run(
        host.command(["nft", f"table ip wall {{ chain wall {{ {hook} {rule}; }}; }}"]), check=True
    )
    transfer.happened = True
    yield from ()


def _stranger(transfer: Transfer) -> Iterator[_Condition]:
    """Someone without the secret comes with the others, from a host of his own."""
    stranger = transfer.start_client(transfer.plan.clients, token="wrong")
    stranger.permitted = {75 if transfer.plan.failsafe else 1}
    transfer.happened = True
    yield from ()


_FAULTS: dict[str, _Fault] = {
    "none": _none,
    "client killed": _client_killed,
    "half of the clients killed": _half_killed,
    "client terminated": _client_terminated,
    "client restarted": _client_restarted,
    "client stopped": _client_stopped,
    "server stopped": _server_stopped,
    "server killed": _server_killed,
    "server restarted": _server_restarted,
    "cable pulled": _cable_pulled,
    "server's cable pulled": _server_cable_pulled,
    "late joiner": _late_joiner,
    "multicast blocked": _multicast_blocked,
    "stranger": _stranger,
}


@dataclass
class Figures:
    """What is counted over all transfers."""

    seed: int
    began_at: float = field(default_factory=time.monotonic)
    available_before: int = field(default_factory=lambda: memory_bytes("/proc/meminfo"))
    own_before: int = field(default_factory=lambda: memory_bytes("/proc/self/status"))
    transfers: int = 0
    missed: int = 0
    copies: int = 0
    bytes_verified: int = 0
    mismatches: int = 0
    unexpected: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    peaks: dict[str, list[int]] = field(default_factory=lambda: {"server": [], "client": []})

    def summary(self) -> dict[str, Any]:
        """All figures, memory in MB."""
        memory: dict[str, float] = {}
        for who, peaks in self.peaks.items():
            memory[f"{who}_peak"] = max(peaks, default=0)
            memory[f"{who}_peak_median_first_{_ENDS}"] = statistics.median(peaks[:_ENDS] or [0])
            memory[f"{who}_peak_median_last_{_ENDS}"] = statistics.median(peaks[-_ENDS:] or [0])
        memory["soak_before"] = self.own_before
        memory["soak_after"] = memory_bytes("/proc/self/status")
        memory["machine_available_before"] = self.available_before
        memory["machine_available_after"] = memory_bytes("/proc/meminfo")
        return {
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.began_at) / 60, 1),
            "transfers": self.transfers,
            "copies_verified": self.copies,
            "bytes_verified": self.bytes_verified,
            "mismatches": self.mismatches,
            "unexpected": self.unexpected,
            "left": self.left,
            "namespaces_left": own_namespaces(),
            "faults": dict(sorted(self.faults.items())),
            "faults_that_came_too_late": self.missed,
            "memory_mb": {name: round(value / _MB, 1) for name, value in memory.items()},
        }


def run_one(plan: Plan, pool: bytes, figures: Figures) -> None:
    """Carry out one plan, and add it to the figures."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    began_at = time.monotonic()
    hosts = plan.clients + (plan.fault == "stranger")
    slow = {(plan.victim + 1) % plan.clients: plan.rate_bps // 2} if plan.slow else None
    with Lab(
        hosts,
        prefix=_PREFIX,
        rate_bps=plan.rate_bps,
        slow_ports=slow,
        loss=plan.loss,
        duplicates=plan.duplicates,
    ) as lab:
        transfer = Transfer(plan, lab, folder, pool[plan.offset : plan.offset + plan.size])
        try:
            transfer.run()
            wrong, right, mismatches = transfer.verify()
            left = transfer.left()
        finally:
            transfer.dismiss()
    left += own_namespaces()
    figures.transfers += 1
    figures.missed += not transfer.happened
    figures.copies += right
    figures.bytes_verified += right * plan.size
    figures.mismatches += mismatches
    figures.faults.update(plan.traffic_faults)
    if transfer.happened:
        figures.faults[plan.fault] += 1
    for who, peaks in figures.peaks.items():
        is_server = who == "server"
        peaks.append(max(p.peak_bytes for p in transfer.processes if (p.name == who) == is_server))
    where = f"transfer {plan.number}"
    figures.unexpected += [f"{where}: {text}" for text in wrong]
    figures.left += [f"{where}: {text}" for text in left]
    line = (
        f"{plan.number}: {plan.fault}{'' if transfer.happened else ' (too late)'},"
        f" {plan.size / _MB:.1f} MB to {plan.clients} in {time.monotonic() - began_at:.1f} s"
    )
    extras = [*plan.traffic_faults, plan.source, *(["unicast"] if plan.unicast else [])]
    print(f"{line} ({', '.join(extras)}): {right} right", flush=True)
    if wrong or left:
        print(f"  NOT AS PROMISED: {'; '.join([*wrong, *left])}; see {folder}", flush=True)
    else:
        shutil.rmtree(folder)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(_MB):
            digest.update(block)
    return digest.hexdigest()


def own_namespaces() -> list[str]:
    """Namespaces of this script's labs that exist now."""
    folder = Path("/run/netns")
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(f"namespace {name}" for name in names if name.startswith(_PREFIX))


def memory_bytes(path: str) -> int:
    """What the machine has available (/proc/meminfo), or what a process occupies (its status)."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(("MemAvailable:", "VmRSS:")):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} has no such line")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
