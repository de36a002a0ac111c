"""What a host of a test lacks for containers, and for what drives them: Podman, Docker, D-Bus."""

from __future__ import annotations

from tests.cluster import Member

#: A host of a test may have no D-Bus, over which Podman would ask systemd for a control group, and
#: may lack the right to set a container's limits. Its `/dev/shm` is that of this machine.
_CONTAINERS_CONF = """
[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
lock_type = "file"
"""

#: One process, which starts its own containerd; nothing is set up for networks of its own.
_DOCKER_SERVICE = """
[Unit]
Description=Docker
[Service]
Type=notify
ExecStart=/usr/sbin/dockerd --bridge=none --iptables=false --ip-forward=false
Delegate=yes
KillMode=process
"""

_UNITS = "/lib/systemd/system"


def prepare_podman(member: Member) -> None:
    """Let Podman run containers."""
    member.path("/etc/containers/containers.conf").write_text(_CONTAINERS_CONF)
    _make_storage(member, "/var/lib/containers")
    _know(member, "podman-restart.service")


def start_podman_socket(member: Member) -> None:
    """Have Podman answer on its socket."""
    _know(member, "podman.socket", "podman.service")
    member.run("systemctl", "start", "podman.socket")


def start_docker(member: Member) -> None:
    """Start Docker's daemon."""
    _make_storage(member, "/var/lib/docker")
    member.path("/etc/systemd/system/docker.service").write_text(_DOCKER_SERVICE)
    member.run("systemctl", "daemon-reload")
    member.run("systemctl", "start", "docker")


def start_dbus(member: Member) -> None:
    """Start the bus by which programs speak to systemd."""
    _know(member, "dbus.socket", "dbus.service")
    member.run("systemctl", "start", "dbus.service")


def _make_storage(member: Member, folder: str) -> None:
    # `/var` is an overlay, and no overlay can write to another one
    member.path(folder).mkdir(exist_ok=True)
    member.run("mount", "-t", "tmpfs", "tmpfs", folder)


def _know(member: Member, *units: str) -> None:
    # a host of a test knows no unit of another folder
    for unit in units:
        member.run("cp", f"{_UNITS}/{unit}", "/etc/systemd/system")
    member.run("systemctl", "daemon-reload")
