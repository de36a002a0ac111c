"""The lab does to traffic what its arguments say, and is gone afterwards, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from lab import Fate, Host, Lab, LabError

_PREFIX = f"lt{os.getpid()}-"
_CHECKOUT = Path(__file__).resolve().parents[1]

# Receives numbered datagrams on the host with the address argv[1] until three were "end", for one
# may overtake; prints "ready", then the numbers, the seconds from the arrival of the first to that
# of the last, as the kernel saw them, for this process may be late, and how many had their filling
# as it was sent.
_RECEIVER = """
import json, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: what is lost was lost on the way
s.bind(("239.77.9.9", 7777))
request = socket.inet_aton("239.77.9.9") + socket.inet_aton(sys.argv[1])
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
s.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
s.settimeout(120)
print("ready", flush=True)
numbers, first, whole, ends = [], None, 0, 0
while ends < 3:
    datagram, notes, _, _ = s.recvmsg(65535, 64)
    ends += datagram == b"end"
    if len(datagram) < 4:
        continue
    whole_seconds, nanoseconds = struct.unpack("@ll", notes[0][2])
    last = whole_seconds + nanoseconds / 1e9
    first = first or last
    numbers.append(struct.unpack_from("!I", datagram)[0])
    whole += datagram[4:] == b"." * (len(datagram) - 4)
seconds = last - first if first else 0
print(json.dumps({"numbers": numbers, "seconds": seconds, "whole": whole}))
"""

# Sends argv[2] numbered datagrams of argv[3] bytes from the address argv[1], unfragmented, then
# "end" again and again, because one of them may be lost, until it is killed. Says so behind three.
_SENDER = """
import itertools, socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
for number in range(int(sys.argv[2])):
    s.sendto(struct.pack("!I", number).ljust(int(sys.argv[3]), b"."), ("239.77.9.9", 7777))
for ends in itertools.count(1):
    s.sendto(b"end", ("239.77.9.9", 7777))
    if ends == 3:
        print("three", flush=True)
    time.sleep(0.02)
"""

# One super-packet of 40 datagrams of 1000 bytes, by UDP_SEGMENT.
_SUPER_PACKET = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
s.setsockopt(socket.IPPROTO_UDP, 103, 1000)
s.sendto(bytes(40000), ("239.77.9.9", 7777))
"""

# Counts the frames that carry the 40000 bytes of a multicast super-packet; prints "ready" first.
_COUNTER = """
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
s.settimeout(120)
print("ready", flush=True)
frames = carried = 0
while carried < 40000:
    frame = s.recv(65535)
    if frame[9] == socket.IPPROTO_UDP and frame[16:20] == socket.inet_aton("239.77.9.9"):
        frames += 1
        carried += len(frame) - 28
print(frames)
"""

# Sends to a port where nobody listens, and hears so, or nothing for so many seconds.
_ASKER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 9))
s.settimeout(0.1)
deadline = time.monotonic() + float(sys.argv[2])
while time.monotonic() < deadline:
    try:
        s.send(b"?")
        s.recv(1)
    except ConnectionRefusedError:
        print("refused")
        break
    except TimeoutError:
        pass
"""

# Keeps a lab up until it is ended by a signal.
_LAB = """
import signal, sys
from lab import Lab
with Lab(1, prefix=sys.argv[1]):
    print("up", flush=True)
    signal.pause()
"""


def _python(host: Host, program: str, *arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", program, host.address, *map(str, arguments)]
    return subprocess.Popen(host.command(argv), stdout=subprocess.PIPE, text=True)


def _await_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def _cast(
    lab: Lab, hosts: list[Host], count: int, size: int = 1000, *, lagging: int | None = None
) -> list[dict[str, Any]]:
    """What each of `hosts` received of `count` datagrams that the server multicast.

    A `lagging` process does nothing until all of them are sent, and three "end"s.
    """
    receivers = [_python(host, _RECEIVER) for host in hosts]
    for receiver in receivers:
        _await_line(receiver, "ready")
    if lagging is not None:
        os.kill(lagging, signal.SIGSTOP)
    sender = _python(lab.server, _SENDER, count, size)
    try:
        if lagging is not None:
            _await_line(sender, "three")
            os.kill(lagging, signal.SIGCONT)
        return [json.loads(receiver.communicate(timeout=240)[0]) for receiver in receivers]
    finally:
        for process in (sender, *receivers):
            process.kill()
            process.communicate()


def _frames_of_a_super_packet(lab: Lab) -> int:
    """How many frames carry it when it gets to the first client."""
    counter = _python(lab.clients[0], _COUNTER)
    _await_line(counter, "ready")
    _python(lab.server, _SUPER_PACKET).communicate(timeout=120)
    return int(counter.communicate(timeout=240)[0])


def _frames_received(host: Host) -> int:
    text = subprocess.check_output(
        host.command(["ip", "-s", "-j", "link", "show", "eth0"]), text=True
    )
    return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


def _reaches(host: Host, other: Host, patience_s: float = 120.0) -> bool:
    """Whether a UDP datagram gets from one host to the other, and its refusal back."""
    argv = [sys.executable, "-c", _ASKER, other.address, str(patience_s)]
    return subprocess.check_output(host.command(argv), text=True) == "refused\n"


def _own_namespaces() -> list[str]:
    found = Path("/run/netns")
    names = [path.name for path in found.iterdir()] if found.is_dir() else []
    return [name for name in names if name.startswith(_PREFIX)]


@contextmanager
def _lab_of_another_process(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a lab of one client up, with this module's prefix."""
    with subprocess.Popen(
        [sys.executable, "-c", _LAB, _PREFIX],
        cwd=_CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            _await_line(process, "up")
            yield process
        finally:
            process.kill()


class _LabTestCase(TestCase):
    timeout = 600

    def setUp(self) -> None:
        reason = Lab.available()
        if reason:
            raise SkipTest(reason)


class TrafficTests(_LabTestCase):
    """What becomes of datagrams on their way."""

    def test_multicast_reaches_every_client(self) -> None:
        with Lab(3, prefix=_PREFIX) as lab:
            for received in _cast(lab, lab.clients, 500):
                self.assertEqual(received["numbers"], list(range(500)))

    def test_loss_is_random_and_each_clients_own(self) -> None:
        with Lab(2, prefix=_PREFIX, loss=0.3) as lab:
            first, second = (r["numbers"] for r in _cast(lab, lab.clients, 4000))
        # Six standard deviations of the binomial distribution around its mean.
        for numbers in (first, second):
            self.assertApproximates(len(numbers), 2800, 174)
        self.assertApproximates(len(set(first) & set(second)), 1960, 190)

    def test_duplicates_come_besides_the_originals(self) -> None:
        with Lab(2, prefix=_PREFIX, duplicates=0.5) as lab:
            for received in _cast(lab, lab.clients, 4000):
                self.assertEqual(set(received["numbers"]), set(range(4000)))
                self.assertApproximates(len(received["numbers"]), 6000, 190)

    def test_the_servers_link_has_its_rate_and_pushes_back(self) -> None:
        count, size, rate_bps = 2500, 1000, 20_000_000
        with Lab(1, prefix=_PREFIX, rate_bps=rate_bps) as lab:
            (received,) = _cast(lab, lab.clients, count, size)
        self.assertEqual(received["numbers"], list(range(count)))
        at_least = (count * (size + 42) - 128 * 1024) * 8 / rate_bps
        self.assertGreater(received["seconds"], 0.9 * at_least)

    def test_a_slow_port_drops_what_it_cannot_carry(self) -> None:
        count = 6000
        with Lab(2, prefix=_PREFIX, slow_ports={0: 10_000_000}) as lab:
            slow, fast = _cast(lab, lab.clients, count)
            counters = lab.port_counters(lab.clients[0])
            self.assertEqual(lab.port_counters(lab.clients[1])["drops"], 0)
        self.assertEqual(fast["numbers"], list(range(count)))
        self.assertGreater(counters["drops"], 0)
        # Ends of the stream are dropped, too, and other traffic; the datagrams are the most of it.
        self.assertLessEqual(count - len(slow["numbers"]), counters["drops"])
        self.assertGreaterEqual(counters["packets"], len(slow["numbers"]))

    def test_own_frames(self) -> None:
        for own_frames, frames in ((False, 1), (True, 40)):
            with Lab(1, prefix=_PREFIX, own_frames=own_frames) as lab:
                self.assertEqual(_frames_of_a_super_packet(lab), frames)

    def test_jumbo_frames(self) -> None:
        with Lab(1, prefix=_PREFIX, mtu=9000) as lab:
            (received,) = _cast(lab, lab.clients, 20, 9000 - 28)
        self.assertEqual(received["numbers"], list(range(20)))

    def test_a_pulled_cable_and_plugged_in_again(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab:
            lab.set_link(lab.clients[0], up=False)
            before = _frames_received(lab.clients[0])
            (other,) = _cast(lab, lab.clients[1:], 100)
            self.assertEqual(len(other["numbers"]), 100)
            self.assertEqual(_frames_received(lab.clients[0]), before)
            lab.set_link(lab.clients[0], up=True)
            for received in _cast(lab, lab.clients, 100):
                self.assertEqual(received["numbers"], list(range(100)))

    def test_a_relay_changes_the_order_and_loses_nothing(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab, lab.relay(Fate(shuffle=20)):
            first, second = (r["numbers"] for r in _cast(lab, lab.clients, 500))
        for numbers in (first, second):
            self.assertEqual(sorted(numbers), list(range(500)))
            self.assertNotEqual(numbers, sorted(numbers))
        self.assertNotEqual(first, second)

    def test_a_relay_that_lags_lets_nothing_overtake_what_was_sent_long_before(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab, lab.relay(Fate(shuffle=20)) as relay:
            for received in _cast(lab, lab.clients, 500, lagging=relay):
                self.assertEqual(sorted(received["numbers"]), list(range(500)))

    def test_a_relay_duplicates(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab, lab.relay(Fate(duplicate=0.5)):
            for received in _cast(lab, lab.clients, 4000):
                self.assertEqual(set(received["numbers"]), set(range(4000)))
                self.assertApproximates(len(received["numbers"]), 6000, 190)

    def test_a_relay_damages_what_the_kernel_lets_through(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab, lab.relay(Fate(damage=0.5)):
            for received in _cast(lab, lab.clients, 4000):
                self.assertEqual(len(received["numbers"]), 4000)
                self.assertApproximates(received["whole"], 2000, 190)

    def test_a_relay_that_has_ended(self) -> None:
        with Lab(1, prefix=_PREFIX) as lab:
            with lab.relay(Fate(damage=1.0)):
                pass
            (received,) = _cast(lab, lab.clients, 100)
        self.assertEqual((received["numbers"], received["whole"]), (list(range(100)), 100))

    def test_a_partition_between_two_hosts_that_heals(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab:
            cut, other = lab.clients
            with lab.partition(lab.server, cut):
                self.assertFalse(_reaches(lab.server, cut, patience_s=0.3))
                self.assertFalse(_reaches(cut, lab.server, patience_s=0.3))
                self.assertTrue(_reaches(other, cut))
                self.assertTrue(_reaches(lab.server, other))
            self.assertTrue(_reaches(lab.server, cut))
            for received in _cast(lab, lab.clients, 100):
                self.assertEqual(received["numbers"], list(range(100)))


class ViewTests(_LabTestCase):
    """What can be seen of the hosts."""

    def test_groups_and_processes(self) -> None:
        with Lab(2, prefix=_PREFIX) as lab, lab.relay(Fate()):
            receiver = _python(lab.clients[0], _RECEIVER)
            _await_line(receiver, "ready")
            self.assertEqual(lab.processes(), [receiver.pid])
            self.assertEqual(lab.groups(lab.clients[0]), {"239.77.9.9"})
            self.assertEqual(lab.groups(lab.clients[1]), set())
            receiver.kill()
            receiver.communicate()
            self.assertEqual(lab.processes(), [])
            self.assertEqual(lab.groups(lab.clients[0]), set())


class EndTests(_LabTestCase):
    """A lab leaves nothing behind."""

    def test_after_an_exception_with_a_process_inside(self) -> None:
        def fail() -> None:
            with Lab(1, prefix=_PREFIX) as lab:
                started.append(_python(lab.clients[0], _RECEIVER))
                _await_line(started[0], "ready")
                raise RuntimeError("meant to happen")

        started: list[subprocess.Popen[str]] = []
        self.assertRaises(RuntimeError, fail)
        self.assertEqual(started[0].wait(120), -signal.SIGKILL)
        self.assertEqual(_own_namespaces(), [])

    def test_on_sigterm(self) -> None:
        with _lab_of_another_process() as process:
            self.assertEqual(len(_own_namespaces()), 3)
            process.terminate()
            self.assertEqual(process.wait(120), 128 + signal.SIGTERM)
        self.assertEqual(_own_namespaces(), [])

    def test_what_a_killed_run_left_goes_when_its_prefix_is_used_again(self) -> None:
        with _lab_of_another_process() as process:
            process.kill()
            process.wait(120)
        self.assertEqual(len(_own_namespaces()), 3)
        with Lab(0, prefix=_PREFIX):
            self.assertEqual(len(_own_namespaces()), 2)
        self.assertEqual(_own_namespaces(), [])

    def test_a_prefix_in_use_is_refused_and_another_is_not(self) -> None:
        with Lab(1, prefix=_PREFIX):
            with self.assertRaises(LabError) as refused:
                Lab(1, prefix=_PREFIX).__enter__()
            self.assertIn(_PREFIX, str(refused.exception))
            with Lab(1, prefix=f"{_PREFIX}b-"):
                self.assertEqual(len(_own_namespaces()), 6)
            self.assertEqual(len(_own_namespaces()), 3)

    def test_a_prefix_in_use_is_refused_whatever_the_folder_for_temporary_files(self) -> None:
        folder = self.mktemp()
        os.mkdir(folder)
        with _lab_of_another_process(TMPDIR=folder):
            self.assertRaises(LabError, Lab(1, prefix=_PREFIX).__enter__)
            self.assertEqual(len(_own_namespaces()), 3)
        with Lab(0, prefix=_PREFIX):
            pass

    def test_a_failed_build_is_taken_down(self) -> None:
        with self.assertRaises(LabError):
            Lab(1, prefix=_PREFIX, mtu=10**9).__enter__()
        self.assertEqual(_own_namespaces(), [])
