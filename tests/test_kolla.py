"""Kolla Ansible itself, by the commands of docs/kolla.md, with small images under Kolla's names.

It is the newest that the machine's Python takes, in a virtual environment of its own
(`make .venv/kolla/installed`). Engines, containers and their units are real; what runs in them
sleeps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Member, missing_tools
from tests.engines import prepare_podman, start_dbus, start_docker, start_podman_socket
from tests.site import LOCAL, TAG, Page, Site, commands, finish, pull_all, site_of
from tests.small_image import make_image

_VENV = Path(sys.executable).parent.parent / "kolla"
_BIN = _VENV / "bin"
_SHARE = _VENV / "share" / "kolla-ansible"

_PROGRAMS = ("/bin/sh", "/bin/sleep")
#: What Kolla Ansible looks for in an image of Kolla's.
_SCRIPTS = {
    "/usr/local/bin/kolla_start": "#!/bin/sh\ntrap 'exit 0' TERM\nsleep infinity & wait\n",
    "/usr/local/bin/kolla_set_configs": "#!/bin/sh\n",
    "/usr/local/bin/healthcheck_listen": "#!/bin/sh\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "/etc/group": "root:x:0:\n",
}
_CONFIG = {
    "cmd": "kolla_start",
    "env": "PATH=/usr/local/bin:/usr/bin:/bin",
    # Kolla Ansible counts on there being one
    "label": "name=small",
}

_GLOBALS = """
kolla_container_engine: {engine}
openstack_tag: {tag}
network_interface: eth0
kolla_internal_vip_address: {address}
enable_openstack_core: false
enable_haproxy: false
enable_fluentd: false
enable_mariadb: false
enable_rabbitmq: false
enable_memcached: true
ansible_python_interpreter: {python}
# a machine may not let its containers have the limits that Kolla Ansible asks for
default_container_dimensions: {{}}
"""
#: What its `bootstrap-servers` has Podman know.
_REGISTRIES = f"""
[[registry]]
location = "{LOCAL}"
insecure = false
"""
#: The only part of Kolla Ansible's work that small images can stand in for.
_TAGS = " --tags cron,memcached"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installer with Kolla Ansible; two hosts have a first image file, and one fell back."""
    tools = ("podman", "crun", "dbus-daemon", str(_BIN / "kolla-ansible"))
    with site_of(2, tmp_path_factory, *tools, kolla=_BIN) as made:
        for host in made.hosts:
            start_dbus(host)
            prepare_podman(host)
            start_podman_socket(host)
            host.path("/etc/containers/registries.conf.d/registries.conf").write_text(_REGISTRIES)
        inventory = (_SHARE / "ansible" / "inventory" / "multinode").read_text()
        made.add_to_inventory(inventory[inventory.index("[baremetal:children]") :])
        _push_version(made, tmp_path_factory.mktemp("first"), "first")
        Page(made).run("venv", "wheels.py", "pip install", "ansible-galaxy")
        fallen = {"kollacast_registry_program": "/bin/false", "kollacast_registry_patience": 1}
        made.set_for(made.hosts[1], **fallen)
        _distribute(made)
        yield made


def _configure(site: Site, engine: str) -> None:
    """What an operator of Kolla Ansible has written."""
    folder = site.globals.parent.parent
    folder.mkdir(exist_ok=True)
    text = _GLOBALS.format(
        engine=engine,
        tag=TAG,
        address=site.installer.address,
        python=_BIN / "python",
    )
    folder.joinpath("globals.yml").write_text(text)
    passwords = _SHARE / "etc_examples" / "kolla" / "passwords.yml"
    folder.joinpath("passwords.yml").write_text(passwords.read_text())


def _push_version(site: Site, folder: Path, version: str) -> None:
    for name in ("cron", "memcached"):
        scripts = {**_SCRIPTS, "/version": f"{name} {version}"}
        made = folder / name
        made.mkdir()
        site.push(make_image(site.installer, made, _PROGRAMS, scripts, _CONFIG), name)


def _distribute(site: Site) -> None:
    """Bring what is in the registry to the hosts; the second one's own registry does not start."""
    pack, distribute = (
        next(line for line in commands() if words in line)
        for words in ("pack --output", "distribute -e")
    )
    assert finish(site.start(pack)).status == 0
    run = finish(site.start(site.with_address(distribute)))
    assert run.status == 0
    assert {host: row[0] for host, row in run.table.items()} == {
        "host-1": "TCP",
        "host-2": "failsafe",
    }


def _deploy(site: Site, engine: str) -> dict[str, str]:
    """What the page says next; then every host runs what was distributed last.

    Returns the images, by the digests of their configurations.
    """
    _configure(site, engine)
    for command in commands(_BIN):
        if command.startswith("kolla-ansible "):
            assert finish(site.start(command + _TAGS)).status == 0
    served = {name: _served(site, name) for name in ("cron", "memcached")}
    sound, fallen = site.hosts
    for host, names in ((sound, ("cron", "memcached")), (fallen, ("cron",))):
        for name in names:
            assert _running(host, engine, name) == served[name], f"{name} on {host.name}"
    return served


def _running(host: Member, engine: str, name: str) -> str:
    """The image of a container that runs, by the digest of its configuration."""
    shown = json.loads(host.run(engine, "container", "inspect", name))[0]
    assert shown["State"]["Running"]
    return str(shown["Image"]).removeprefix("sha256:")


def _served(site: Site, name: str) -> str:
    """The same of the image that the installer serves under the name."""
    image = next(image for image in site.digests if f"/{name}:" in image)
    inspect = ["skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false"]
    manifest = json.loads(site.installer.run(*inspect, f"docker://{LOCAL}/{image}"))
    return str(manifest["config"]["digest"]).removeprefix("sha256:")


def test_deploy(site: Site, tmp_path: Path) -> None:
    """With Podman; twice, the second time with newer images under the same tag."""
    first = _deploy(site, "podman")
    assert set(site.registries().values()) == {LOCAL}
    for host in site.hosts:
        # as at boot; else systemd forgets a unit that has ended, for which Kolla Ansible waits
        host.run("systemctl", "daemon-reload")
    _push_version(site, tmp_path, "second")
    _distribute(site)
    second = _deploy(site, "podman")
    assert not set(first.values()) & set(second.values())
    pull_all(site.installer, LOCAL, site.digests)


def test_deploy_with_docker(site: Site) -> None:
    """From the same registries, and through the same forward."""
    reason = missing_tools("docker", "dockerd")
    if reason:
        pytest.skip(reason)
    for host in site.hosts:
        for name in host.run("podman", "ps", "--all", "--format", "{{.Names}}").split():
            host.run("systemctl", "stop", f"kolla-{name}-container")
            host.run("podman", "rm", "--force", name)
        start_docker(host)
    _deploy(site, "docker")
