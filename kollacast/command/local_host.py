"""What this host allows, asked of the kernel: its network interfaces, its descriptors."""

from __future__ import annotations

import errno
import resource
import socket
import sys

from twisted.python.usage import UsageError

from kollacast.transport import interfaces
from kollacast.wire.structures import MAX_MTU

#: Option of IPPROTO_IP that tells the MTU of a connected socket's route (ip(7), Linux only).
_IP_MTU = 14


def prove_local(local_ip: str, what: str = "local_ip") -> None:
    """Raise `UsageError`, of ``what``, unless an interface of this host has this address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((local_ip, 0))
            # bind alone takes a subnet's broadcast address as well
            _leave_by(probe, local_ip)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(
                    f"{what} {local_ip}: no network interface of this host has this address;"
                    " `ip -br -4 address` lists those that have one"
                ) from None
            raise UsageError(f"{what} {local_ip}: {error.strerror}") from None


def interface_mtu(local_ip: str, group: str) -> int | None:
    """MTU in bytes of the way to `group` by the interface of `local_ip`; None when unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            _leave_by(probe, local_ip)
            probe.connect((group, 9))  # sends nothing; 9 is the discard port
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            # It may be down for the moment.
            interface = interfaces.with_address(local_ip)
            return None if interface is None else min(interface.mtu, MAX_MTU)


def raise_descriptor_limit() -> int:
    """Let this process open as many descriptors as it may, and return how many these are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # then it stays at what it is
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _leave_by(probe: socket.socket, local_ip: str) -> None:
    request = interfaces.request("0.0.0.0", local_ip)
    probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
