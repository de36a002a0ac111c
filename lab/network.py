"""A network of hosts on one machine: one switch, one server and N clients, each its own namespace.

    with Lab(4, rate_bps=500_000_000, loss=0.01, own_frames=True) as lab:
        subprocess.run(lab.clients[0].command(["ping", "-c1", lab.server.address]))

The switch is a bridge that floods multicast (no snooping), every host hangs on it by a veth pair
whose inner end is called ``eth0``. What a lab can do to traffic:

- ``rate_bps``: the server's link, a token bucket at its egress. The queue in front of it pushes
  back on a sender whose socket buffer is smaller than ``_QUEUE_BYTES``, as a network card's does.
- ``slow_ports``: a token bucket on the switch port toward one client. Nothing pushes back there:
  what does not fit into the port's queue is dropped, as in a real switch.
- ``loss``: each UDP datagram toward a client is dropped at random, independently at each client.
  TCP is spared: it would measure the kernel's loss recovery and not the program under test.
- ``duplicates``: each UDP datagram from the server reaches every client a second time at random.
- ``own_frames``: hosts cut UDP super-packets (GSO) into frames before they reach the link, as a
  real network card does; without it a veth pair carries them whole.
- `Lab.set_link` pulls a cable, and plugs it in again: the host sees its carrier go.
- `Lab.partition` lets nothing pass between two hosts while all their other traffic goes on. Neither
  gets a sign of it.
- `Lab.relay` shuffles, duplicates and damages the server's multicast (see `lab.relay`); the server
  cuts its super-packets into frames from then on.

And what can be seen of its hosts: `Lab.groups` and `Lab.processes` tell what a program has left.

Needs root and iproute2, nftables and ethtool; `Lab.available` says what is missing. The lab removes
itself on leaving the ``with`` block, after an exception and on SIGTERM, and kills what still runs
in its namespaces. What an earlier run left behind (killed outright) goes when the prefix is reused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import FrameType
from typing import Any

from lab import relay
from lab.relay import Fate

_TOOLS = ("ip", "tc", "nft", "ethtool")
_NAMESPACES = Path("/run/netns")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_NETWORK = "10.77"
#: The group that every host is in.
_ALL_HOSTS = "224.0.0.1"
_CLIENTS_A_SUBNET = 250
_MAX_CLIENTS = 200 * _CLIENTS_A_SUBNET

#: Bytes that wait in front of the server's link: 16 ms at 1 Gbit/s, several socket buffers.
_QUEUE_BYTES = 2 * 1024 * 1024
#: Bytes that wait in front of a slow port: 42 ms at 200 Mbit/s, what a switch gives one port.
_PORT_QUEUE_BYTES = 1024 * 1024
#: The least burst: two GSO super-packets, so that tbf need not cut them.
_LEAST_BURST_BYTES = 128 * 1024
_UP_TIMEOUT_S = 10.0
#: nft draws a number below this and drops when it is below the share: steps of 0.0001 %.
_DRAWS = 1_000_000


class LabError(Exception):
    """The lab cannot be built; the message says why in one line."""


@dataclass(frozen=True)
class Host:
    """One host: its namespace, its address on ``eth0``, and the switch port it hangs on."""

    namespace: str
    address: str
    port: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as a command to run on this host. It becomes the process itself: same pid."""
        return [_tool("ip"), "netns", "exec", self.namespace, *argv]


class Lab:
    """A context manager; see the module's text for what each argument does.

    `clients` is their number, `prefix` begins every namespace's name (two labs that live at the
    same time need two), `rate_bps` and the values of `slow_ports` (by index into `Lab.clients`)
    are bits/s on the wire, `loss` and `duplicates` are shares from 0 to 1, `mtu` is in bytes.
    """

    def __init__(
        self,
        clients: int,
        *,
        prefix: str = "lab-",
        rate_bps: int | None = None,
        slow_ports: Mapping[int, int] | None = None,
        loss: float = 0.0,
        duplicates: float = 0.0,
        own_frames: bool = False,
        mtu: int = 1500,
    ) -> None:
        if not 0 <= clients <= _MAX_CLIENTS:
            raise LabError(f"a lab has 0 to {_MAX_CLIENTS} clients, not {clients}")
        self._prefix = prefix
        self._rate_bps = rate_bps
        self._slow_ports = dict(slow_ports or {})
        self._loss = loss
        self._duplicates = duplicates
        self._own_frames = own_frames
        self._mtu = mtu
        self._switch = f"{prefix}switch"
        self._cleanup = contextlib.ExitStack()
        self.server = Host(f"{prefix}server", f"{_NETWORK}.0.1", "ps")
        self.clients = [
            Host(f"{prefix}{number + 1}", _client_address(number), f"p{number + 1}")
            for number in range(clients)
        ]

    @staticmethod
    def available() -> str | None:
        """None when labs can be built here, else the reason why not."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        missing = [tool for tool in _TOOLS if shutil.which(tool, path=_path()) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        probe = f"lab-probe-{os.getpid()}"
        try:
            _run("ip", "netns", "add", probe)
            _run("ip", "netns", "del", probe)
        except LabError as error:
            return f"network namespaces cannot be made: {error}"
        return None

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as cleanup:
            cleanup.enter_context(_exit_on_sigterm())
            cleanup.enter_context(_claimed(self._prefix))
            self._remove()
            cleanup.callback(self._remove)
            self._build()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def set_link(self, host: Host, *, up: bool) -> None:
        """Pull `host`'s cable out of the switch, or plug it in again."""
        _run("ip", "-n", self._switch, "link", "set", host.port, "up" if up else "down")

    def block_multicast(self, host: Host, of: str = "") -> None:
        """From now on no multicast gets into `host`, as behind a firewall or in a wrong VLAN.

        `of` keeps it to some of it, in nft's words.
        """
        _nft(host.namespace, "eth0", f"ip daddr 224.0.0.0/4 {of} drop", table="wall")

    def translate_multicast(self, host: Host, address: str) -> None:
        """From now on multicast gets into `host` as if `address` had sent it."""
        _nft(
            host.namespace,
            "eth0",
            f"ip daddr 224.0.0.0/4 ip saddr set {address}",
            table="translator",
        )

    @contextlib.contextmanager
    def partition(self, one: Host, other: Host) -> Iterator[None]:
        """Drop everything between two hosts, in both directions, until the block ends."""
        with contextlib.ExitStack() as healing:
            for source, host in ((one, other), (other, one)):
                table = f"cut-{source.port}"
                _nft(host.namespace, "eth0", f"ip saddr {source.address} drop", table=table)
                healing.callback(_remove_rules, host.namespace, table)
            yield

    @contextlib.contextmanager
    def cut_off(self, host: Host, after_bytes: int) -> Iterator[None]:
        """Drop what comes to `host` once it has received so many bytes, until the block ends."""
        _nft(host.namespace, "eth0", f"quota over {after_bytes} bytes drop", table="enough")
        try:
            yield
        finally:
            _remove_rules(host.namespace, "enough")

    @contextlib.contextmanager
    def relay(self, fate: Fate) -> Iterator[int]:
        """Let `fate` befall the server's multicast until the block ends; yields the relay's pid."""
        server, switch = self.server, self._switch
        ports = ",".join(client.port for client in self.clients)
        _run(*server.command(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"]))
        argv = [sys.executable, relay.__file__, server.port, ports, fate.arguments()]
        command = [_tool("ip"), "netns", "exec", switch, *argv]
        with contextlib.ExitStack() as end:
            process = end.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            end.callback(process.kill)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise LabError("the relay does not start")
            diverted = "ip protocol udp ip daddr 224.0.0.0/4 drop"
            _nft(switch, server.port, diverted, table="relay")
            end.callback(_remove_rules, switch, "relay")
            yield process.pid

    def groups(self, host: Host) -> set[str]:
        """The multicast groups that processes on `host` have joined by its interfaces."""
        text = _run(*host.command(["cat", "/proc/net/igmp"]))
        members = [line.split()[0] for line in text.splitlines() if line.startswith("\t")]
        # The kernel writes an address as one number in the byte order of the host.
        found = {str(IPv4Address(int(m, 16).to_bytes(4, sys.byteorder))) for m in members}
        return found - {_ALL_HOSTS}

    def processes(self) -> list[int]:
        """The ids of the processes that run on the hosts; the lab's own are none of them."""
        inodes = {os.stat(_NAMESPACES / h.namespace).st_ino for h in (self.server, *self.clients)}
        return [pid for pid in _pids() if _network_inode(pid) in inodes]

    def port_counters(self, host: Host) -> dict[str, int]:
        """What went through the queue of the switch port toward `host` since the lab began.

        Keys: packets, bytes, drops. Without a slow port there is no queue and all are 0.
        """
        text = _run("tc", "-n", self._switch, "-s", "-j", "qdisc", "show", "dev", host.port)
        root: dict[str, Any] = next((q for q in json.loads(text) if q.get("root")), {})
        return {key: int(root.get(key, 0)) for key in ("packets", "bytes", "drops")}

    def _build(self) -> None:
        hosts = [self.server, *self.clients]
        _batch(f"netns add {name}" for name in [self._switch, *(h.namespace for h in hosts)])
        _batch(
            f"link add {host.port} mtu {self._mtu} netns {self._switch} type veth "
            f"peer name eth0 mtu {self._mtu} netns {host.namespace}"
            for host in hosts
        )
        _batch(
            [
                f"link add br0 mtu {self._mtu} type bridge mcast_snooping 0",
                "link set br0 up",
                *(f"link set {host.port} master br0 up" for host in hosts),
            ],
            namespace=self._switch,
        )
        for host in hosts:
            _batch(
                [
                    f"addr add {host.address}/16 brd + dev eth0",
                    "link set lo up",
                    "link set eth0 up",
                    "route add 224.0.0.0/4 dev eth0",
                ],
                namespace=host.namespace,
            )
            if self._own_frames:
                _run(*host.command(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"]))
        if self._rate_bps:
            _limit(self.server.namespace, "eth0", self._rate_bps, _QUEUE_BYTES)
        for index, rate_bps in self._slow_ports.items():
            _limit(self._switch, self.clients[index].port, rate_bps, _PORT_QUEUE_BYTES)
        if self._loss:
            for host in self.clients:
                _nft(host.namespace, "eth0", f"{_chance(self._loss)} drop")
        if self._duplicates:
            copies = [f"{_chance(self._duplicates)} dup to {c.port}" for c in self.clients]
            _nft(self._switch, self.server.port, *copies)
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while True:
            ports = json.loads(_run("bridge", "-n", self._switch, "-j", "link", "show") or "[]")
            if sum(port.get("state") == "forwarding" for port in ports) == 1 + len(self.clients):
                return
            if time.monotonic() > deadline:
                raise LabError("the switch's ports did not come up")
            time.sleep(0.02)

    def _remove(self) -> None:
        names = [n for n in _namespaces() if self._is_own(n)]
        _kill_inside(names)
        if names:
            _batch(f"netns del {name}" for name in names)

    def _is_own(self, namespace: str) -> bool:
        rest = namespace.removeprefix(self._prefix)
        return rest != namespace and (rest in ("switch", "server") or rest.isdecimal())


def _client_address(number: int) -> str:
    subnet, host = divmod(number, _CLIENTS_A_SUBNET)
    return f"{_NETWORK}.{1 + subnet}.{1 + host}"


def _chance(share: float) -> str:
    return f"ip protocol udp numgen random mod {_DRAWS} < {round(share * _DRAWS)}"


def _limit(namespace: str, device: str, rate_bps: int, queue_bytes: int) -> None:
    """A token bucket at `device`'s egress, whose burst is 2 ms of the rate or two super-packets."""
    burst = max(_LEAST_BURST_BYTES, rate_bps // 8 // 500)
    _run(
        *("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf"),
        *("rate", f"{rate_bps}bit", "burst", str(burst), "limit", str(queue_bytes)),
    )


def _nft(namespace: str, device: str, *rules: str, table: str = "lab") -> None:
    """Rules for what `device` receives, each with a draw of its own."""
    hook = f"type filter hook ingress device {device} priority 0;"
    text = f"table netdev {table} {{ chain fate {{ {hook} {'; '.join(rules)}; }}; }}"
    _run(_tool("ip"), "netns", "exec", namespace, "nft", "-f", "-", stdin=text)


def _remove_rules(namespace: str, table: str) -> None:
    _run(_tool("ip"), "netns", "exec", namespace, "nft", "delete", "table", "netdev", table)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def _tool(name: str) -> str:
    return shutil.which(name, path=_path()) or name


def _run(*argv: str, stdin: str = "") -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [_tool(argv[0]), *argv[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": _path()},
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"{' '.join(argv)}: {last_line}")
    return done.stdout


def _batch(commands: Iterable[str], namespace: str | None = None) -> None:
    """Many `ip` commands by one process: a lab of 33 hosts stands in a second or two."""
    where = ["-n", namespace] if namespace else []
    _run("ip", *where, "-batch", "-", stdin="\n".join(commands) + "\n")


def _namespaces() -> list[str]:
    return sorted(path.name for path in _NAMESPACES.iterdir()) if _NAMESPACES.is_dir() else []


def _kill_inside(namespaces: Sequence[str]) -> None:
    """SIGKILL to every process whose network namespace is one of these, and wait for their end."""
    inodes = {os.stat(_NAMESPACES / name).st_ino for name in namespaces}
    deadline = time.monotonic() + _UP_TIMEOUT_S
    while inodes and time.monotonic() < deadline:
        inside = [pid for pid in _pids() if _network_inode(pid) in inodes]
        if not inside:
            return
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _network_inode(pid: int) -> int | None:
    """None for a process that is gone, or a zombie: it holds no namespace any more."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


@contextlib.contextmanager
def _claimed(prefix: str) -> Iterator[None]:
    """Hold `prefix` against other processes; the kernel lets go of it however this one ends.

    A socket's name without a file is the same to all on this machine, whatever their folders for
    temporary files are.
    """
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0lab-{prefix}")
        except OSError:
            raise LabError(f"another lab with the prefix {prefix!r} is up") from None
        yield


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Make SIGTERM leave the ``with`` block, where nobody else has a handler for it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A second one must not stop the clean-up.
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
