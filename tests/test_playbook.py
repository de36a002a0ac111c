"""The playbook as an operator runs it, from an image file to a registry on every host."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cluster import Member, clean_environment, kill, until
from tests.site import (
    LOCAL,
    RETRY,
    RUN_PATIENCE_S,
    Page,
    Site,
    commands,
    finish,
    pull_all,
    site_of,
)

#: What takes the place of the first image file.
_NEWER = "/root/newer.tgz"
#: Slow enough that a client can be killed in the middle.
_SLOW = "20M"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(3, tmp_path_factory, "nft") as made:
        yield made


def _block_multicast(host: Member) -> None:
    rule = "type filter hook input priority 0; ip daddr 224.0.0.0/4 drop;"
    rules = f"table inet block {{ chain fate {{ {rule} }}; }}"
    subprocess.run(host.command(["nft", "-f", "-"]), input=rules.encode(), check=True)


def _wait_for_a_part(host: Member) -> None:
    part = host.path("/var/lib/kollacast/versions/.incoming.part")
    until(lambda: any(part.rglob("data")), f"a part of the image on {host.name}", RUN_PATIENCE_S)


def _interrupt(host: Member) -> None:
    """Kill the client of a host when a part of the image has arrived."""
    _wait_for_a_part(host)
    clients = host.pids("kollacast-client .*--registry-root")
    assert clients
    kill(clients)


@contextlib.contextmanager
def _serving(host: Member, address: str, *argv: str) -> Iterator[None]:
    """A program of nobody's that answers at an address of a host."""
    process = subprocess.Popen(
        host.command(argv),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    try:
        host.run("curl", "-so/dev/null", *RETRY, f"http://{address}/v2/")
        yield
    finally:
        # what was started is only the way into the host, and its end not that of the program
        words = " ".join(argv)
        kill(host.pids(words))
        process.wait()
        until(lambda: not host.pids(words), f"the end of {words}")


def _forwards(host: Member) -> bool:
    """Whether a host passes its port on to the failsafe, now and after it boots."""
    unit = "kollacast-forward.socket"
    is_active = host.run("sh", "-c", f"systemctl is-active {unit} || true").strip() == "active"
    assert host.path(f"/etc/systemd/system/sockets.target.wants/{unit}").is_symlink() == is_active
    return is_active


def _exposures(host: Member, *units: str) -> list[float]:
    """From 0 to 10, what services of a host may do that they need not: systemd-analyze(1)."""
    told = host.run("systemd-analyze", "security", "--no-pager", *units)
    rows = re.findall(r"^kollacast-[a-z]+\.service +([0-9.]+) ", told, re.MULTILINE)
    assert len(rows) == len(units), told
    return [float(exposure) for exposure in rows]


def _owner(host: Member, path: str) -> str:
    return host.run("stat", "--format=%U", path).strip()


def test_from_an_image_file_to_deploy(site: Site) -> None:
    """The whole page, every command of it, with one host that is deaf and one that is killed."""
    page = Page(site)
    one, deaf, killed = site.hosts
    digests = site.digests
    page.run("venv", "wheels.py", "pip install", "ansible-galaxy", "pack")
    listing = page.run("list")
    for image, digest in digests.items():
        assert image in listing.output
        assert digest in listing.output

    dry = page.run("--check")
    assert dry.status == 0
    assert [dry.table[host.name][0] for host in site.hosts] == ["would"] * 3
    for host in site.hosts:
        assert not host.path("/opt/kollacast").exists()
    assert not site.globals.exists()

    _block_multicast(deaf)
    site.set(kollacast_unicast_hosts=0, kollacast_server_options=["--rate", _SLOW])
    running = page.start("distribute -e")
    _interrupt(killed)
    first = finish(running)
    assert first.status == 0
    assert first.table[one.name][0] == "multicast"
    assert first.table[deaf.name][0] == "TCP"
    assert first.table[killed.name][0] == "failsafe"
    assert "killed" in first.table[killed.name]
    assert all("yes" in row for row in first.table.values())
    assert "Next: kolla-ansible pull, then kolla-ansible deploy" in first.output
    assert "All images have the tag 2025.1-debian-bookworm" in first.output
    assert site.registries() == dict.fromkeys(("localhost", *first.table), LOCAL)
    for host in (site.installer, *site.hosts):
        pull_all(host, LOCAL, digests)
    assert [_forwards(host) for host in (site.installer, *site.hosts)] == [True, False, False, True]
    for host in (one, deaf):
        assert max(_exposures(host, "kollacast-client", "kollacast-registry")) < 3.0
        assert _owner(host, "/var/lib/kollacast/current/") == "kollacast"
    units = ("kollacast-server", "kollacast-failsafe", "kollacast-forward")
    assert max(_exposures(site.installer, *units)) < 3.0

    site.set()
    later = page.run("--limit host-3")
    assert later.status == 0
    assert later.table.keys() == {killed.name}
    assert later.table[killed.name][0] == "TCP"
    assert site.report("server")["packets_multicast"] == 0
    assert not _forwards(killed)
    pull_all(killed, LOCAL, digests)

    page.rewind("distribute -e")
    again = page.run("distribute -e")
    assert again.status == 0
    assert again.changed == {host.name: 0 for host in site.hosts}
    assert [again.table[host.name][:2] for host in site.hosts] == [["already", "there"]] * 3
    assert page.is_through()


def test_another_image(site: Site) -> None:
    """The version before is served until a newer one is whole, and is kept beside it."""
    finish(site.start("head -c 5000000 kolla_image.tgz > torn.tgz"))
    torn = site.run(kollacast_image="/root/torn.tgz")
    assert torn.status != 0
    assert re.search(r"kollacast_image: /root/torn.tgz: .+", torn.output)
    site.add_image("glance-api", ["openstack", "glance"])
    pack = next(line for line in commands() if "pack" in line)
    assert finish(site.start(pack.replace("kolla_image.tgz", _NEWER))).status == 0

    site.set(
        kollacast_unicast_hosts=0,
        kollacast_server_options=["--rate", _SLOW],
        kollacast_client_options=["--connect-timeout", "1"],
    )
    running = site.begin(kollacast_image=_NEWER)
    for host in site.hosts:
        _wait_for_a_part(host)
    kill(site.installer.pids("kollacast-server .*--report"))
    run = finish(running)
    assert run.status == 0
    for host in site.hosts:
        assert run.table[host.name][0] == "failsafe"
        assert "the connection was lost" in " ".join(run.table[host.name])
        assert site.report(host.name)["exit_status"] == 75
        assert _forwards(host)
        pull_all(host, LOCAL, site.digests)

    site.set(kollacast_unicast_hosts=0)
    run = site.run(kollacast_image=_NEWER)
    assert run.status == 0
    for host in site.hosts:
        assert run.table[host.name][0] in ("multicast", "TCP")
        assert not _forwards(host)
        pull_all(host, LOCAL, site.digests)
        assert host.path("/var/lib/kollacast/previous").is_symlink()


def test_what_can_go_wrong(site: Site) -> None:
    """Each in one line of the table or the end of the run, and the hosts pull all the same."""
    absent = site.run(kollacast_image="/root/absent.tgz")
    assert absent.status != 0
    assert "kollacast_image: /root/absent.tgz: no such file on localhost" in absent.output

    nowhere = site.run(kollacast_image=_NEWER, kollacast_wheel_dir="")
    assert nowhere.status != 0
    assert "nobody says where kollacast is to come from: name a folder of wheels" in nowhere.output

    site.run_shell("mkdir foreign && touch foreign/x-1-cp39-cp39-linux_x86_64.whl")
    foreign = site.run(kollacast_image=_NEWER, kollacast_wheel_dir="/root/foreign")
    assert foreign.status != 0
    assert re.search(
        r"/usr/bin/python3 of localhost is Python [\d.]+, and the wheels in /root/foreign are"
        r" for 3\.9: make them with the hosts' Python",
        foreign.output,
    )

    taken, broken, sound = site.hosts
    other = sound.path("/root/other_python")
    other.write_text("#!/bin/sh\necho 3 99 x86_64\n")
    other.chmod(0o755)
    site.set_for(sound, kollacast_python="/root/other_python")
    differing = site.run(" --check", kollacast_image=_NEWER)
    assert differing.status != 0
    assert " ".join(differing.table[sound.name]).startswith(
        f"nothing no /root/other_python of {sound.name} is Python 3.99, and the wheels in"
    )
    assert differing.table[broken.name][:2] == ["already", "there"]
    site.set_for(sound)

    taken.run("systemctl", "stop", "kollacast-registry")
    with _serving(taken, LOCAL, sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "4000"):
        site.set_for(broken, kollacast_registry_program="/bin/false")
        run = site.run(kollacast_image=_NEWER, kollacast_registry_patience=3)
        site.set_for(broken)
    assert run.status != 0
    assert run.table[taken.name][0] == "nothing"
    assert f"{LOCAL} is taken by another program" in " ".join(run.table[taken.name])
    assert "kollacast_registry_port" in " ".join(run.table[taken.name])
    assert run.table[broken.name][0] == "failsafe"
    assert f"{LOCAL} does not serve the image" in " ".join(run.table[broken.name])
    assert "yes" in run.table[sound.name]
    for host in (broken, sound):
        pull_all(host, LOCAL, site.digests)


_REGISTRY = """
version: 0.1
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: {address}
"""


@contextlib.contextmanager
def _registry_of_kolla(site: Site, root: str) -> Iterator[None]:
    """A registry where the failsafe is to be, as Kolla's guide for several hosts puts one there."""
    config = site.installer.path("/root/registry.yml")
    config.write_text(_REGISTRY.format(root=root, address=site.failsafe))
    with _serving(site.installer, site.failsafe, "docker-registry", "serve", "/root/registry.yml"):
        yield


def test_a_registry_in_the_failsafes_place(site: Site) -> None:
    """It is the failsafe where it serves the images; any other is named, with what helps."""
    site.installer.run("systemctl", "disable", "--now", "kollacast-failsafe")
    is_active = "systemctl is-active kollacast-failsafe || true"
    with _registry_of_kolla(site, "/var/lib/kollacast/current"):
        assert site.run(kollacast_image=_NEWER).status == 0
        assert site.installer.run("sh", "-c", is_active).strip() == "inactive"
        pull_all(site.installer, LOCAL, site.digests)
    with _registry_of_kolla(site, "/root/empty"):
        run = site.run(kollacast_image=_NEWER)
    assert run.status != 0
    assert f"{site.failsafe} is taken by another program, which does not serve" in run.output
    assert "name another one with kollacast_registry_port" in run.output
