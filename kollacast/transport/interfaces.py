"""This host's network interfaces as the kernel knows them at this moment.

An address is no name for an interface: two may have the same one, of which one is down, and a
lease that is renewed takes it away for a moment. So whoever means an interface asks here first.

Requests and flags are those of Linux (``linux/sockios.h``, ``linux/in.h``, ``linux/rtnetlink.h``,
``net/if.h``, netdevice(7)); elsewhere, and where the kernel does not say, the answer is None.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

_LINUX = sys.platform.startswith("linux") and struct.calcsize("P") == 8

_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_SIOCGIFMTU = 0x8921
_IFF_UP = 0x1
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTA_OIF = 4
_IFF_RUNNING = 0x40
_IFF_MULTICAST = 0x1000
#: ``struct ifreq``: a name, and a union as large as ``struct ifmap``.
_IFREQ_SIZE = 40
#: ``linux/in.h``. Python has the first since 3.12.
_IP_ADD_SOURCE_MEMBERSHIP = 39
_MCAST_JOIN_SOURCE_GROUP = 46
_NAME_SIZE = 16
#: Addresses of one host that are looked through; no host has as many.
_MOST_ADDRESSES = 4096


@dataclass(frozen=True)
class Interface:
    """One interface: `is_running` says that its link is up, too; `mtu` is in bytes."""

    name: str
    index: int
    is_up: bool
    is_running: bool
    takes_multicast: bool
    mtu: int


def are_known() -> bool:
    """Whether the kernel can be asked here at all."""
    return _LINUX


def with_address(address: str) -> Interface | None:
    """The interface that has this IPv4 address: of several the one that works best."""
    found = [interface for name in _names(address) if (interface := _named(name)) is not None]
    return max(found, key=lambda i: (i.is_up, i.is_running), default=None)


def request(group: str, local_ip: str) -> bytes:
    """What IP_MULTICAST_IF and IP_ADD_MEMBERSHIP are given: a ``struct ip_mreqn`` (ip(7)).

    It is the older ``ip_mreq`` where the interface's number is not known. By the address alone, the
    kernel may take another interface that has it too and is down.
    """
    words = socket.inet_aton(group) + socket.inet_aton(local_ip)
    interface = with_address(local_ip)
    return words if interface is None else words + struct.pack("=i", interface.index)


def source_request(group: str, local_ip: str, source: str) -> tuple[int, bytes]:
    """The option that joins ``group`` for what ``source`` sends, and what it is given.

    A ``struct group_source_req`` (RFC 3678, 5.1), or where the interface's number is not known the
    older ``ip_mreq_source`` (ip(7)), which names it by its address.
    """
    interface = with_address(local_ip)
    if interface is None:
        addresses = (group, local_ip, source)
        return _IP_ADD_SOURCE_MEMBERSHIP, b"".join(map(socket.inet_aton, addresses))
    request = struct.pack("=I4x", interface.index)
    for address in (group, source):
        request += struct.pack("=HH4s120x", socket.AF_INET, 0, socket.inet_aton(address))
    return _MCAST_JOIN_SOURCE_GROUP, request


def toward(address: str) -> str | None:
    """The name of the interface by which unicast to this IPv4 address leaves.

    Asked by rtnetlink(7): the address that the kernel would send from may be another interface's.
    """
    # A struct nlmsghdr, a struct rtmsg, and one attribute.
    question = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    question += struct.pack("=HH4s", 8, _RTA_DST, socket.inet_aton(address))
    header = struct.pack("=IHHII", 16 + len(question), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with suppress(OSError, struct.error):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.send(header + question)
            answer = kernel.recv(8192, socket.MSG_DONTWAIT)
        (kind,) = struct.unpack_from("=H", answer, 4)
        at = 16 + 12
        while kind == _RTM_NEWROUTE and at + 4 <= len(answer):
            size, attribute = struct.unpack_from("=HH", answer, at)
            if attribute == _RTA_OIF:
                return socket.if_indextoname(struct.unpack_from("=I", answer, at + 4)[0])
            at += max(size + 3 & ~3, 4)
    return None


def _names(address: str) -> list[str]:
    """The names of all interfaces that have this address, also of those that are down."""
    if not _LINUX:
        return []
    wanted = socket.inet_aton(address)
    memory = array.array("B", bytes(_IFREQ_SIZE * _MOST_ADDRESSES))
    place, size = memory.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", size, place))
        except OSError:
            return []
    (length, _) = struct.unpack("iP", answer)
    data = memory.tobytes()[:length]
    names = []
    for start in range(0, length, _IFREQ_SIZE):
        label = data[start : start + _NAME_SIZE].partition(b"\0")[0].decode(errors="replace")
        # A sockaddr_in: family, port, address.
        if data[start + _NAME_SIZE + 4 : start + _NAME_SIZE + 8] == wanted:
            names.append(label.partition(":")[0])
    return names


def _named(name: str) -> Interface | None:
    request = struct.pack(f"{_IFREQ_SIZE}s", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            index = socket.if_nametoindex(name)
            flags = fcntl.ioctl(probe, _SIOCGIFFLAGS, request)
            mtu = fcntl.ioctl(probe, _SIOCGIFMTU, request)
        except OSError:
            return None  # it has gone in this moment
    (bits,) = struct.unpack_from("=H", flags, _NAME_SIZE)
    return Interface(
        name,
        index,
        is_up=bool(bits & _IFF_UP),
        is_running=bool(bits & _IFF_RUNNING),
        takes_multicast=bool(bits & _IFF_MULTICAST),
        mtu=struct.unpack_from("=i", mtu, _NAME_SIZE)[0],
    )
