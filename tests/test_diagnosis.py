"""What a host finds out about its own failure: kernel numbers to cause and remedy."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from kollacast.transport import diagnosis, interfaces
from kollacast.transport.diagnosis import why_not_joined, why_refused, why_unreached
from kollacast.transport.interfaces import Interface

_GROUP = ("239.238.0.31", 18383)
_IP = "10.0.0.1"
_ETH0 = Interface("eth0", 2, is_up=True, is_running=True, takes_multicast=True, mtu=1500)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _DiagnosisTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.patch(diagnosis, "_SYSCTL", self.folder)
        self.patch(interfaces, "are_known", lambda: True)
        self.have(_ETH0)
        self.patch(interfaces, "toward", lambda address: "eth0")

    def have(self, interface: Interface | None) -> None:
        """The interface that has the address."""
        self.patch(interfaces, "with_address", lambda address: interface)

    def set(self, name: str, value: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


class RefusedTests(_DiagnosisTestCase):
    """Sending fails."""

    def why(self, number: int) -> str:
        return why_refused(_error(number), _IP, _GROUP)

    def test_a_firewall(self) -> None:
        self.assertEqual(
            self.why(errno.EPERM),
            "Operation not permitted: a firewall on this host rejects it: let out UDP to"
            " 239.238.0.31 port 18383",
        )

    def test_a_full_table_of_connections(self) -> None:
        self.set("net/netfilter/nf_conntrack_max", 1000)
        self.set("net/netfilter/nf_conntrack_count", 500)
        self.assertIn("a firewall", self.why(errno.EPERM))
        self.set("net/netfilter/nf_conntrack_count", 1000)
        self.assertIn("full (1000 of 1000)", self.why(errno.EPERM))
        self.assertIn("sysctl -w net.netfilter.nf_conntrack_max=2000", self.why(errno.EPERM))

    def test_no_route(self) -> None:
        self.assertIn("ip route add 224.0.0.0/4 dev eth0", self.why(errno.ENETUNREACH))

    def test_what_the_interface_lacks_explains_any_number(self) -> None:
        for number in (errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV):
            self.have(None)
            self.assertIn("no interface has the address 10.0.0.1 now", self.why(number))
            self.have(Interface("eth0", 2, False, False, True, 1500))
            self.assertIn("is down: ip link set eth0 up", self.why(number))
            self.have(Interface("eth0", 2, True, False, True, 1500))
            self.assertIn("eth0 has no link", self.why(number))

    def test_anything_else(self) -> None:
        self.assertIn("--rate", self.why(errno.ENOBUFS))
        self.assertIn("look at the interface eth0", self.why(errno.EIO))


class JoinTests(_DiagnosisTestCase):
    """Joining fails."""

    def test_too_many_groups(self) -> None:
        why = why_not_joined(_error(errno.ENOBUFS), _IP)
        self.assertIn("raise net.ipv4.igmp_max_memberships", why)
        self.set("net/ipv4/igmp_max_memberships", 0)
        why = why_not_joined(_error(errno.ENOBUFS), _IP)
        self.assertIn("may join 0 groups: sysctl -w net.ipv4.igmp_max_memberships=20", why)

    def test_others(self) -> None:
        self.assertIn("ss -ulpn", why_not_joined(_error(errno.EADDRINUSE), _IP))
        self.assertIn("security policy", why_not_joined(_error(errno.EPERM), _IP))
        self.have(None)
        self.assertIn("no interface has", why_not_joined(_error(errno.ENODEV), _IP))


class UnreachedTests(_DiagnosisTestCase):
    """Nothing comes."""

    def why(self, mtu: int = 1500) -> str | None:
        return why_unreached(_IP, "10.0.0.9", mtu)

    def test_nothing_found(self) -> None:
        self.assertIsNone(self.why())

    def test_the_mtu(self) -> None:
        self.assertIn("the MTU of eth0 is 1500", self.why(9000) or "")

    def test_an_interface_without_multicast(self) -> None:
        self.have(Interface("eth0", 2, True, True, False, 1500))
        self.assertIn("ip link set eth0 multicast on", self.why() or "")

    def test_reverse_path_filtering(self) -> None:
        """The stricter of two settings counts, but 2 is looser than 1 and wins."""
        for all_mode, own_mode, back, found in (
            (1, 0, "eth1", True),
            (0, 1, "eth1", True),
            (1, 1, None, True),
            (1, 1, "eth0", False),
            (1, 2, "eth1", False),
            (0, 0, "eth1", False),
        ):
            self.set("net/ipv4/conf/all/rp_filter", all_mode)
            self.set("net/ipv4/conf/eth0/rp_filter", own_mode)
            self.patch(interfaces, "toward", lambda address, back=back: back)
            why = self.why()
            self.assertEqual(why is not None, found, (all_mode, own_mode, back))
            if why is not None:
                self.assertIn("sysctl -w net.ipv4.conf.eth0.rp_filter=2", why)


class KernelTests(SynchronousTestCase):
    """What the kernel of this machine says of its loopback interface."""

    def test_loopback(self) -> None:
        if not interfaces.are_known():
            raise SkipTest("Linux only")
        found = interfaces.with_address("127.0.0.1")
        assert found is not None
        self.assertEqual((found.name, found.is_up), ("lo", True))
        self.assertEqual(found.index, socket.if_nametoindex("lo"))
        self.assertEqual(interfaces.toward("127.0.0.1"), "lo")
        # of the block for documentation, RFC 5737
        self.assertIsNone(interfaces.with_address("192.0.2.77"))
        self.assertEqual(len(interfaces.request("239.0.0.1", "127.0.0.1")), 12)
        self.assertEqual(len(interfaces.request("239.0.0.1", "192.0.2.77")), 8)
