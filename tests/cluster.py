"""A cluster as an operator sees it: an installer, and hosts that are reached by SSH.

Every host of a lab boots systemd, and gets a file system of its own for what it changes: `/etc`,
`/opt`, `/root` and `/var` are those of this machine with a layer in memory above them, `/run` and
`/tmp` are empty. So paths and services on a host are those of a real one. What the test itself
needs is where it is outside, wherever that is: its files, this checkout, its Python. Each host but
the installer runs an sshd; what runs on the installer runs in its namespaces.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import Host, Lab
from tests.processes import CHECKOUT

_LOOK_S = 0.05
#: Where programs are, those of an administrator too.
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_PRIVATE = ("etc", "opt", "root", "var")
_INIT = "/lib/systemd/systemd"

_UNSHARE = "unshare --uts --ipc --cgroup --pid --fork --kill-child --mount-proc"

#: What a service may wait for; on this machine these clean `/tmp`, set sysctls, and more.
_EMPTY_TARGETS = ["host.target", "sysinit.target", "basic.target", "shutdown.target"]
_EMPTY_TARGETS += ["network.target", "network-online.target", "multi-user.target"]

#: Puts a command into a new group of processes: a systemd takes all in its group for its own.
_IN_GROUP = """
set -e
group=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/all
mount -t cgroup2 cgroup2 /sys/fs/cgroup/all
mkdir "/sys/fs/cgroup/all/$group"
echo $$ >"/sys/fs/cgroup/all/$group/cgroup.procs"
exec "$@"
"""
#: Removes such a group, whose processes have ended.
_WITHOUT_GROUP = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""

#: Makes a host's file system, says so by a file, and becomes its systemd, which knows the units of
#: `/etc/systemd/system`, the journal, and a service that runs the third word. The words behind it
#: are folders that are to be as they are outside; one that lies in another comes behind it.
_BOOT = f"""
set -e
folder=$1 name=$2 service=$3; shift 3
aside=/sys/fs/cgroup
umount -l "$aside"
mount -t tmpfs tmpfs "$aside"
number=0
for kept do
    number=$((number + 1))
    mkdir "$aside/$number"
    mount --bind "$kept" "$aside/$number"
done
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir /run/layers
mount -t tmpfs -o mode=0755 tmpfs /run/layers
for tree in {" ".join(_PRIVATE)}; do
    mkdir -p "/run/layers/$tree/upper" "/run/layers/$tree/work"
    layers="upperdir=/run/layers/$tree/upper,workdir=/run/layers/$tree/work"
    mount -t overlay -o "lowerdir=/$tree,$layers" overlay "/$tree"
done
number=0
for kept do
    number=$((number + 1))
    mkdir -p "$kept"
    mount --move "$aside/$number" "$kept"
done
umount "$aside"
mount -t cgroup2 cgroup2 "$aside"
hostname "$name"
mkdir -p /run/sshd
rm -rf /root/.ssh /root/.ansible /root/.ansible_async /root/.bashrc /root/.profile
rm -rf /etc/systemd/system/*.wants
mkdir /run/units
cd /run/units
for unit in systemd-journald.service systemd-journald.socket; do
    ln -s "/lib/systemd/system/$unit"
done
for unit in {" ".join(_EMPTY_TARGETS)}; do
    printf '[Unit]\nDefaultDependencies=no\n' >"$unit"
done
echo 'Wants=systemd-journald.service host.service multi-user.target' >>host.target
printf '[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=%s\n' "$service" >host.service
touch "$folder.up"
cd /
SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units container=lab exec {_INIT} --unit=host.target
"""

_SSHD = """
ListenAddress {address}
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/key.pub"
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
MaxStartups 100
"""


def missing_tools(*names: str) -> str | None:
    """None when labs can be built here and all these programs are there, else the reason."""
    absent = [name for name in names if shutil.which(name, path=SYSTEM_PATH) is None]
    return Lab.available() or (f"not installed: {', '.join(absent)}" if absent else None)


@dataclass(frozen=True)
class Member:
    """One host of the cluster."""

    name: str  #: its host name, and what it is called in the inventory
    address: str
    namespace: str
    pid: int  #: of its systemd

    def command(self, argv: Sequence[str], *, online: bool = False) -> list[str]:
        """`argv` as a command to run on this host; `online` with this machine's network."""
        spaces = ["--mount", "--uts", "--pid", "--cgroup", *([] if online else ["--net"])]
        # nsenter would look for a working directory outside
        home = ["sh", "-c", 'cd /root && exec "$@"', "sh"]
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *home, *argv]

    def run(self, *argv: str) -> str:
        """Standard output of a command that has to succeed on this host."""
        done = subprocess.run(
            self.command(argv), capture_output=True, text=True, env=clean_environment()
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr}{done.stdout}"
        return done.stdout

    @property
    def is_up(self) -> bool:
        """Whether its systemd has started everything."""
        asked = subprocess.run(
            self.command(["systemctl", "is-system-running"]), capture_output=True, text=True
        )
        return asked.stdout.strip() in ("running", "degraded")

    def path(self, path: str) -> Path:
        """A path on this host, as seen from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def pids(self, word: str) -> list[int]:
        """The processes on this host that have `word` in their command line."""
        found = subprocess.run(
            ["pgrep", "--full", "--ns", str(self.pid), "--nslist", "net", "--", word],
            capture_output=True,
            text=True,
        )
        return [int(line) for line in found.stdout.split()]


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what belongs to this test run and not to a host."""
    names = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "KOLLACAST_DEBUG", "KOLLACAST_CI"]
    names += ["TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR"]
    kept = {key: value for key, value in os.environ.items() if key not in names}
    return {**kept, "PATH": SYSTEM_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(more or {})}


def until(condition: Callable[[], object], what: str, patience_s: float = 180.0) -> None:
    """Wait for what gives no sign when it changes; `what` is for a failure."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {what}"
        time.sleep(_LOOK_S)


class Cluster:
    """The installer and the hosts of a lab. `folder`, one of pytest's, is for keys and logs."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.folder = folder
        self._booted: dict[str, subprocess.Popen[bytes]] = {}  # by namespace
        folder.chmod(0o755)
        for name in ("key", "host_key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        self.installer = self._boot(lab.server, "installer", ["/bin/sleep", "infinity"])
        self.hosts = [
            self._boot(host, f"host-{number}", self._sshd(host))
            for number, host in enumerate(lab.clients, 1)
        ]
        until(lambda: all(host.pids("sshd") for host in self.hosts), "sshd on every host")

    def close(self) -> None:
        """Kill what still runs; the file systems go with the last process that sees them."""
        for process in self._booted.values():
            process.kill()
        for group, process in self._booted.items():
            process.wait()
            # a moment may pass until the kernel has ended what was in it
            argv = ["unshare", "--mount", "sh", "-c", _WITHOUT_GROUP, "sh", group]
            until(partial(_succeeds, argv), "the last process to end")

    def inventory_line(self, host: Member) -> str:
        """How the installer's Ansible reaches a host."""
        return f"{host.name} ansible_host={host.address} ansible_user=root"

    def _sshd(self, host: Host) -> list[str]:
        config = self.folder / f"{host.namespace}.sshd"
        config.write_text(_SSHD.format(address=host.address, folder=self.folder))
        return [shutil.which("sshd", path=SYSTEM_PATH) or "sshd", "-D", "-e", "-f", str(config)]

    def _boot(self, host: Host, name: str, argv: Sequence[str]) -> Member:
        folder = self.folder / name
        folder.mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                host.command(
                    [
                        *("unshare", "--mount", "sh", "-c", _IN_GROUP, "sh", host.namespace),
                        *(*_UNSHARE.split(), "sh", "-c", _BOOT, "sh", str(folder), name),
                        *(_unit_words(argv), *_kept(self.folder.parent)),
                    ],
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )
        self._booted[host.namespace] = process
        up = Path(f"{folder}.up")
        until(lambda: up.exists() or process.poll() is not None, f"{name} to boot")
        assert up.exists(), (self.folder / f"{name}.log").read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        member = Member(name, host.address, host.namespace, int(children.read_text()))
        until(lambda: member.is_up, f"systemd on {name}")
        return member


@contextlib.contextmanager
def cluster(hosts: int, folder: Path, prefix: str) -> Iterator[Cluster]:
    """A cluster for a ``with`` block."""
    with Lab(hosts, prefix=prefix) as lab:
        made = Cluster(lab, folder)
        try:
            yield made
        finally:
            made.close()


def kill(pids: Sequence[int]) -> None:
    """SIGKILL; no matter who is gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _unit_words(argv: Sequence[str]) -> str:
    """`argv` as a unit of systemd has it: systemd.service(5), "Command lines"."""
    escaped = (json.dumps(word, ensure_ascii=False) for word in argv)
    return " ".join(escaped).replace("%", "%%").replace("$", "$$")


def _kept(files: Path) -> list[str]:
    """What a host must see as it is: the test's files, and what is in a folder that is empty there.

    This checkout and its Python are seen through a layer like everything else.
    """
    files = files.resolve()
    needed = (path.resolve() for path in (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)))
    hidden = {path for path in needed if path.is_relative_to("/tmp") or path.is_relative_to("/run")}
    return sorted(str(path) for path in {files, *hidden})


def _succeeds(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, capture_output=True).returncode == 0


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
