"""Why multicast does not leave this host, or does not reach it: cause and remedy in a few words.

The kernel's own word for a refusal says little ("Invalid argument" where an address has gone). What
can be looked up about it is looked up, once for each failure and never for a packet.
"""

from __future__ import annotations

import errno
from pathlib import Path

from kollacast.transport import interfaces
from kollacast.transport.interfaces import Interface

_SYSCTL = Path("/proc/sys")
#: A table of connections is full from this part of its limit on.
_FULL = 0.99
#: Strict reverse path filtering, and the loose one (``ip-sysctl.rst`` of Linux).
_STRICT, _LOOSE = 1, 2


def why_refused(error: OSError, local_ip: str, group: tuple[str, int]) -> str:
    """Why the kernel refuses to send to ``group`` (address, port) from ``local_ip``."""
    address, port = group
    said = error.strerror or str(error)
    lack = _lack(local_ip)
    if error.errno in (errno.EPERM, errno.EACCES):
        full = _full_table()
        cause = full or (
            f"a firewall on this host rejects it: let out UDP to {address} port {port}"
        )
    elif lack is not None:
        cause = lack
    elif error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        cause = f"it has no route to the group: ip route add 224.0.0.0/4 dev {_name(local_ip)}"
    elif error.errno in (errno.ENOBUFS, errno.ENOMEM):
        cause = "its queues are full: look for other traffic on this interface, or give --rate"
    else:
        cause = f"look at the interface {_name(local_ip)}: ip address, ip route, dmesg"
    return f"{said}: {cause}"


def why_not_joined(error: OSError, local_ip: str) -> str:
    """Why the kernel refuses to join a group at ``local_ip``, or to open the group's port."""
    said = error.strerror or str(error)
    lack = _lack(local_ip)
    if error.errno == errno.EADDRINUSE:
        cause = "another program has this UDP port: ss -ulpn shows which"
    elif error.errno == errno.ENOBUFS:
        limit = _sysctl("net/ipv4/igmp_max_memberships")
        cause = (
            f"a socket may join {limit} groups: sysctl -w net.ipv4.igmp_max_memberships=20"
            if limit is not None
            else "a socket may join no more groups: raise net.ipv4.igmp_max_memberships"
        )
    elif error.errno in (errno.EPERM, errno.EACCES):
        cause = "a security policy of this host forbids it"
    else:
        cause = lack or f"look at the interface {_name(local_ip)}: ip address"
    return f"{said}: {cause}"


def why_unreached(local_ip: str, source: str, mtu: int) -> str | None:
    """What on this host keeps multicast of ``mtu`` bytes from ``source`` out of ``local_ip``.

    None where nothing is found; a firewall cannot be asked.
    """
    lack = _lack(local_ip)
    interface = interfaces.with_address(local_ip)
    if lack is not None or interface is None:
        return lack
    name = interface.name
    if not interface.takes_multicast:
        return f"the interface {name} takes no multicast: ip link set {name} multicast on"
    if interface.mtu < mtu:
        return (
            f"the MTU of {name} is {interface.mtu} and the server's datagrams have up to {mtu}"
            f" bytes: ip link set {name} mtu {mtu} here, or --mtu {interface.mtu} at the server"
        )
    return _filtered(interface, source)


def _filtered(interface: Interface, source: str) -> str | None:
    """Whether reverse path filtering drops what comes from ``source`` by this interface."""
    name = interface.name
    modes = [_sysctl(f"net/ipv4/conf/{which}/rp_filter") or 0 for which in ("all", name)]
    back = interfaces.toward(source)
    if max(modes) != _STRICT or back == name:
        return None
    way = "there is none" if back is None else f"it leaves by {back}"
    return (
        f"reverse path filtering drops it: the route to the server, {source}, does not leave by"
        f" {name} ({way}): sysctl -w net.ipv4.conf.{name}.rp_filter={_LOOSE}"
    )


def _lack(local_ip: str) -> str | None:
    """What the interface of this address lacks to carry anything, or None."""
    if not interfaces.are_known():
        return None
    interface = interfaces.with_address(local_ip)
    if interface is None:
        return f"no interface has the address {local_ip} now: ip address"
    if not interface.is_up:
        return f"the interface {interface.name} is down: ip link set {interface.name} up"
    if not interface.is_running:
        return f"the interface {interface.name} has no link: look at its cable and switch port"
    return None


def _name(local_ip: str) -> str:
    interface = interfaces.with_address(local_ip)
    return local_ip if interface is None else interface.name


def _full_table() -> str | None:
    """Whether the firewall's table of connections is full, which refuses whatever is new."""
    folder = "net/netfilter/nf_conntrack"
    count, limit = _sysctl(f"{folder}_count"), _sysctl(f"{folder}_max")
    if count is None or not limit or count < _FULL * limit:
        return None
    return (
        f"the table of connections is full ({count} of {limit}):"
        f" sysctl -w net.netfilter.nf_conntrack_max={2 * limit}"
    )


def _sysctl(path: str) -> int | None:
    try:
        return int((_SYSCTL / path).read_text())
    except (OSError, ValueError):
        return None
