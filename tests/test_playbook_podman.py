"""The playbook with registries in containers of Podman.

Podman and its containers are real. The images are called as the real ones of both versions, and say
the same of themselves; what runs in them is Debian's docker-registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Member
from tests.engines import prepare_podman
from tests.site import LOCAL, RETRY, Page, Run, Site, commands, finish, pull_all, site_of
from tests.small_image import make_image

_CONTAINER = "kollacast-registry"
_IMAGE = "docker.io/library/registry:2"
_IMAGE_3 = "docker.io/library/registry:3"
#: What the real images run by their `/entrypoint.sh`: a registry with this configuration.
_CONFIGS = {
    _IMAGE: "/etc/docker/registry/config.yml",
    _IMAGE_3: "/etc/distribution/config.yml",
}
#: An image that is no registry.
_OTHER = "docker.io/library/other:1"
#: What takes the place of the first image file.
_NEWER = "/root/newer.tgz"

_PROGRAMS = ("/bin/sh", "/usr/bin/docker-registry")
_ENTRYPOINT = """#!/bin/sh
exec docker-registry serve "$1"
"""
_IMAGE_CONFIG = {
    "entrypoint": "/entrypoint.sh",
    "volume": "/var/lib/registry",
    "env": "PATH=/usr/bin:/bin",
}


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An installer and one host that have Podman, and no image for it."""
    with site_of(1, tmp_path_factory, "podman", "crun") as made:
        for member in (made.installer, *made.hosts):
            prepare_podman(member)
        yield made


def _make_image(member: Member, folder: Path, name: str, command: str) -> str:
    """Make an image, as a file for `podman load`."""
    folder.mkdir()
    config = {**_IMAGE_CONFIG, "cmd": command}
    source = make_image(member, folder, _PROGRAMS, {"/entrypoint.sh": _ENTRYPOINT}, config)
    archive = str(folder / "image.tar")
    copy = ["skopeo", "--insecure-policy", "copy", "-q"]
    member.run(*copy, source, f"docker-archive:{archive}:{name}")
    return archive


def _run(site: Site, **variables: object) -> Run:
    return site.run(kollacast_registry_engine="podman", **variables)


def _inspect(host: Member, field: str) -> str:
    return host.run("podman", "container", "inspect", "--format", f"{{{{{field}}}}}", _CONTAINER)


def test_containers(site: Site, tmp_path: Path) -> None:
    """From a site without the registry's image to a newer version, and a start as at boot."""
    [host] = site.hosts
    Page(site).run("venv", "wheels.py", "pip install", "ansible-galaxy", "pack")
    lacking = _run(site)
    assert lacking.status != 0
    assert f"podman is not here, or has no image {_IMAGE}" in lacking.output

    for number, (name, command) in enumerate({**_CONFIGS, _OTHER: "/etc/passwd"}.items()):
        archive = _make_image(site.installer, tmp_path / str(number), name, command)
        for member in (site.installer, host):
            member.run("podman", "load", "--quiet", "--input", archive)
    # as a start that fails leaves it
    host.run("podman", "create", "--name", _CONTAINER, _IMAGE)
    first = _run(site)
    assert first.status == 0
    assert first.table[host.name][0] == "TCP"
    assert set(site.registries().values()) == {LOCAL}
    pull_all(host, LOCAL, site.digests)
    assert len(host.run("podman", "volume", "ls", "--quiet").split()) == 1

    again = _run(site)
    assert again.status == 0
    assert again.changed == {host.name: 0}
    assert again.table[host.name][:2] == ["already", "there"]

    running = _inspect(host, ".Id"), _inspect(host, ".State.StartedAt")
    site.add_image("glance-api", ["openstack", "glance"])
    pack = next(line for line in commands() if "pack" in line)
    assert finish(site.start(pack.replace("kolla_image.tgz", _NEWER))).status == 0
    newer = _run(site, kollacast_image=_NEWER)
    assert newer.status == 0
    assert newer.table[host.name][0] == "TCP"
    assert set(site.registries().values()) == {LOCAL}
    assert running == (_inspect(host, ".Id"), _inspect(host, ".State.StartedAt"))
    pull_all(host, LOCAL, site.digests)

    wrong = _run(site, kollacast_image=_NEWER, kollacast_registry_container_image=_OTHER)
    assert wrong.status != 0
    line = (
        f"the image {_OTHER} is no registry of version 2 or 3: it runs /entrypoint.sh /etc/passwd"
    )
    assert line in wrong.output
    assert running == (_inspect(host, ".Id"), _inspect(host, ".State.StartedAt"))

    version_3 = {"kollacast_image": _NEWER, "kollacast_registry_container_image": _IMAGE_3}
    assert _run(site, **version_3).status == 0
    assert _inspect(host, ".ImageName").strip() == _IMAGE_3
    assert set(site.registries().values()) == {LOCAL}
    pull_all(host, LOCAL, site.digests)
    again = _run(site, **version_3)
    assert again.status == 0
    assert again.changed == {host.name: 0}

    assert host.run("systemctl", "is-enabled", "podman-restart").strip() == "enabled"
    host.run("podman", "stop", _CONTAINER)
    host.run("systemctl", "start", "podman-restart")
    host.run("curl", "-sf", *RETRY, f"http://{LOCAL}/v2/")
    pull_all(host, LOCAL, site.digests)

    assert site.run(kollacast_image=_NEWER).status == 0
    for member in (site.installer, host):
        assert not member.run("podman", "ps", "--all", "--quiet")
    assert host.run("systemctl", "is-active", _CONTAINER).strip() == "active"
    pull_all(host, LOCAL, site.digests)
    assert _run(site, kollacast_image=_NEWER).status == 0
    assert not host.path(f"/etc/systemd/system/{_CONTAINER}.service").exists()
    pull_all(host, LOCAL, site.digests)
