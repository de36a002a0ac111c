"""What an operator has before the first command of docs/kolla.md, and how the page is followed.

The parts are real: Ansible over SSH, docker-registry, images that umoci makes and skopeo pushes and
pulls. The hosts are namespaces, each with a systemd of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import SYSTEM_PATH, Cluster, Member, clean_environment, cluster, missing_tools
from tests.processes import CHECKOUT

_TOOLS = ("docker-registry", "skopeo", "umoci", "sshd", "ssh", "systemctl", "pgrep")
_BIN = Path(sys.executable).parent
_SOURCE = "127.0.0.1:5000"
#: Where the registry of each host is.
LOCAL = "127.0.0.1:4000"
_NAMESPACE = "openstack.kolla"
TAG = "2025.1-debian-bookworm"
#: Images, each as the layers that it has above the base; what is equal is shared.
_IMAGES = {
    "keystone": ["openstack", "keystone"],
    "nova-api": ["openstack", "nova", "nova-api"],
    "nova-compute": ["openstack", "nova", "nova-compute"],
    "neutron-server": ["openstack", "neutron"],
    "mariadb-server": ["mariadb"],
}
_LAYER_BYTES = 2_000_000
#: No command of the page takes this long, on a machine however busy.
RUN_PATIENCE_S = 900
#: Until a server listens.
RETRY = ("--retry", "100", "--retry-delay", "0", "--retry-connrefused", "--retry-max-time", "120")

_SOURCE_REGISTRY = """
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/docker-registry
http:
  addr: 127.0.0.1:5000
"""

_INVENTORY = """
[control]
{first}

[network]
host-1

[compute]
{others}

[storage]
{last}

[monitoring]
host-1

[deployment]
localhost ansible_connection=local

[all:vars]
ansible_ssh_private_key_file={folder}/key
"""

_ANSIBLE_CFG = """
[defaults]
host_key_checking = false
forks = 4
interpreter_python = {python}
[ssh_connection]
pipelining = true
"""


@dataclass
class Run:
    """One run of the playbook, and what it said."""

    status: int
    output: str

    @property
    def table(self) -> dict[str, list[str]]:
        """The lines of the table: host to its other words."""
        rows = re.findall(r'^ +"((?:host-\d) .*?)",?$', self.output, re.MULTILINE)
        return {row.split()[0]: row.split()[1:] for row in rows}

    @property
    def changed(self) -> dict[str, int]:
        """From the recap: host to changed tasks."""
        rows = re.findall(r"^(\S+) +: ok=.*?changed=(\d+)", self.output, re.MULTILINE)
        return {host: int(count) for host, count in rows}


class Site:
    """A cluster, a filled registry on its installer, and the operator's files in `/root` there."""

    def __init__(self, made: Cluster, folder: Path, tools: Path | None = None) -> None:
        self.tools = tools
        self.installer = made.installer
        self.hosts = made.hosts
        self.failsafe = f"{made.installer.address}:4000"
        self.globals = made.installer.path("/etc/kolla/globals.d/kollacast.yml")
        self._home = made.installer.path("/root")
        first, *others = (made.inventory_line(host) for host in made.hosts)
        self._inventory = _INVENTORY.format(
            first=first, others="\n".join(others), last=made.hosts[-1].name, folder=made.folder
        )
        python = str(tools / "python") if tools else os.path.realpath(sys.executable)
        (self._home / "ansible.cfg").write_text(_ANSIBLE_CFG.format(python=python))
        for name in ("kollacast", "twisted", "ansible", "scripts"):
            shutil.copytree(CHECKOUT / name, self._home / "kollacast" / name)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(CHECKOUT / name, self._home / "kollacast")
        self.set()
        self.digests: dict[str, str] = {}
        self._folder = folder
        _start_source(made.installer, folder)
        for name, own in ({} if tools else _IMAGES).items():
            self.add_image(name, own)

    def push(self, source: str, name: str) -> None:
        """Push an image, in skopeo's words, to the registry that the images come from."""
        image, digest = _copy(self.installer, source, name)
        self.digests[image] = digest

    def add_to_inventory(self, text: str) -> None:
        """More groups, from now on."""
        self._inventory = f"{text}\n{self._inventory}"
        self.set()

    def add_image(self, name: str, layers: list[str]) -> None:
        """Push one more image to the registry that the images come from."""
        image, digest = _push(self.installer, self._folder, name, layers)
        self.digests[image] = digest

    def set(self, **variables: object) -> None:
        """Variables of all hosts, in the inventory, until they are set anew."""
        lines = [f"{key}={json.dumps(value)}" for key, value in variables.items()]
        self._home.joinpath("multinode").write_text("\n".join([self._inventory, *lines, ""]))

    def set_for(self, host: Member, **variables: object) -> None:
        """Variables of one host."""
        folder = self._home / "host_vars"
        folder.mkdir(exist_ok=True)
        folder.joinpath(f"{host.name}.yml").write_text(json.dumps(variables))

    def start(self, command: str, *, online: bool = False) -> subprocess.Popen[str]:
        """Begin a shell command on the installer; `online` with this machine's network."""
        return subprocess.Popen(
            self.installer.command(["sh", "-c", command], online=online),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment(
                {"PATH": f"{self.tools or _BIN}:{SYSTEM_PATH}", "ANSIBLE_NOCOLOR": "1"}
            ),
        )

    def run_shell(self, command: str) -> None:
        """Run what has to succeed on the installer."""
        assert finish(self.start(command)).status == 0

    def begin(self, more: str = "", /, **variables: object) -> subprocess.Popen[str]:
        """Begin the playbook as the page does, with more words and other variables."""
        command = next(line for line in commands() if "distribute -e" in line)
        words = [f"-e {key}={value}" for key, value in variables.items()]
        return self.start(" ".join([self.with_address(command), *words]) + more)

    def run(self, more: str = "", /, **variables: object) -> Run:
        """Run the playbook so."""
        return finish(self.begin(more, **variables))

    def with_address(self, command: str) -> str:
        """A command of the page with the installer's real address."""
        return command.replace("10.0.0.1", self.installer.address)

    def registries(self) -> dict[str, str]:
        """Where Kolla Ansible has each machine pull from: it passes the file as this does."""
        show = ["ansible", "all", "-i", "multinode", "-e", "@/etc/kolla/globals.d/kollacast.yml"]
        show += ["-m", "debug", "-a", "var=docker_registry"]
        shown = finish(self.start(shlex.join(show)))
        assert shown.status == 0
        found = re.findall(r'^(\S+) \|.*?"docker_registry": "(.*?)"', shown.output, re.M | re.S)
        return dict(found)

    def report(self, name: str) -> dict[str, Any]:
        """A report that the playbook has collected."""
        report: dict[str, Any] = json.loads(
            (self._home / "kollacast-reports" / f"{name}.json").read_text()
        )
        return report


class Page:
    """The commands of the page, which are run in their order."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._commands = commands(site.tools)

    def start(self, words: str) -> subprocess.Popen[str]:
        """Begin the next command, which has to have these words in it."""
        command = self._commands.pop(0)
        assert words in command
        command = self._site.with_address(command)
        return self._site.start(command, online="wheels.py" in command)

    def run(self, *parts: str) -> Run:
        """Run the next commands, each of which has one of these parts; the last one's outcome."""
        for words in parts:
            run = finish(self.start(words))
            assert run.status == 0, run.output
        return run

    def rewind(self, words: str) -> None:
        """Have a command of the page come once more."""
        self._commands[:0] = [line for line in commands(self._site.tools) if words in line]

    def is_through(self) -> bool:
        return not self._commands


def commands(tools: Path | None = None) -> list[str]:
    """Every command that the page shows; those of Kolla Ansible where `tools` has it."""
    shown = re.findall(r"^    (\S.*)$", (CHECKOUT / "docs" / "kolla.md").read_text(), re.M)
    return [line for line in shown if tools or not line.startswith("kolla-ansible ")]


@contextlib.contextmanager
def site_of(
    hosts: int, factory: pytest.TempPathFactory, *tools: str, kolla: Path | None = None
) -> Iterator[Site]:
    """A cluster of so many hosts for a fixture; skips where these tools or the usual ones lack.

    `kolla` is where Kolla Ansible's programs are, if it is to be used.
    """
    reason = missing_tools(*_TOOLS, *tools, str((kolla or _BIN) / "ansible-playbook"))
    if reason:
        pytest.skip(reason)
    with cluster(hosts, factory.mktemp("cluster"), f"kolla-{os.getpid()}-") as made:
        yield Site(made, factory.mktemp("site"), kolla)


def finish(process: subprocess.Popen[str]) -> Run:
    output, _ = process.communicate(timeout=RUN_PATIENCE_S)
    print(output)
    return Run(process.returncode, output)


def pull_all(host: Member, registry: str, digests: dict[str, str]) -> None:
    """Pull every image on `host`, and compare its digest with the original's."""
    for image, digest in digests.items():
        target = f"/var/tmp/pulled/{image.replace('/', '_').replace(':', '_')}"
        host.run("mkdir", "-p", target)
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false"]
        host.run(*copy, f"docker://{registry}/{image}", f"dir:{target}")
        sums = host.run("sha256sum", f"{target}/manifest.json")
        assert digest == f"sha256:{sums.split()[0]}", image


def _start_source(host: Member, folder: Path) -> None:
    """Start the registry that the images come from."""
    config = folder / "source.yml"
    config.write_text(_SOURCE_REGISTRY)
    subprocess.Popen(
        host.command(["docker-registry", "serve", str(config)]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    (folder / "layers").mkdir()
    host.run("umoci", "init", "--layout", str(folder / "oci"))
    host.run("curl", "-sf", *RETRY, f"http://{_SOURCE}/v2/")


def _push(host: Member, folder: Path, name: str, own: list[str]) -> tuple[str, str]:
    """Make an image of the base and its `own` layers, and push it.

    Returns its name in a registry and its digest.
    """
    layers = folder / "layers"
    reference = f"{folder / 'oci'}:{name}"
    host.run("umoci", "new", "--image", reference)
    for layer in ["base", *own]:
        archive = layers / f"{layer}.tar"
        if not archive.exists():
            content = layers / layer
            content.write_bytes(os.urandom(_LAYER_BYTES))
            host.run("tar", "-C", str(layers), "-cf", str(archive), layer)
        host.run("umoci", "raw", "add-layer", "--image", reference, str(archive))
    return _copy(host, f"oci:{reference}", name)


def _copy(host: Member, source: str, name: str) -> tuple[str, str]:
    """Push an image; returns its name in a registry and its digest."""
    image = f"{_NAMESPACE}/{name}:{TAG}"
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    host.run(*copy, source, f"docker://{_SOURCE}/{image}")
    return image, _digest(host, f"docker://{_SOURCE}/{image}")


def _digest(host: Member, reference: str) -> str:
    inspect = ["skopeo", "--insecure-policy", "inspect", "--format", "{{.Digest}}"]
    return host.run(*inspect, "--tls-verify=false", reference).strip()
