"""What the kernel refuses, at either end and at any time: it is lost, said, and never the end.

And what one end can look up about its own failure, it says. All of this is the system's: hosts are
namespaces, and what befalls them is done with `ip`, `nft` and `sysctl`.
"""

from __future__ import annotations

import signal
import subprocess

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from kollacast.operator.outcome import Status
from lab import Host
from tests.processes import Crew, make_crew, on_the_reactor
from tests.transfer import PACKETS, SIZE, Transfer, transfer

crew = pytest_twisted.async_yield_fixture(make_crew)


def _run(host: Host, command: str) -> None:
    subprocess.run(host.command(command.split()), check=True, capture_output=True)


def _refuse_to_send(host: Host) -> None:
    """A firewall of `host` rejects its multicast: EPERM."""
    rules = """
        table ip out { chain output { type filter hook output priority 0;
            ip daddr 224.0.0.0/4 drop; }; }
    """
    subprocess.run(host.command(["nft", "-f", "-"]), input=rules, text=True, check=True)


def _allow_to_send(host: Host) -> None:
    _run(host, "nft delete table ip out")


def _said_once(run: Transfer, *texts: str) -> None:
    lines = [line for line in run.server.lines if "the kernel refuses" in line]
    assert len(lines) == 1, run.server.errors
    for text in texts:
        assert text in lines[0]


@on_the_reactor
async def test_a_firewall_that_rejects_all_multicast(crew: Crew) -> None:
    """From the start to the end: the image comes by TCP, and one line says why."""
    async with transfer(crew, 3, expected=4, hosts=4) as run:
        _refuse_to_send(run.lab.server)
        run.start_client(3)
        await run.all_have_it()
        _said_once(run, "Operation not permitted", "firewall", "let out UDP", "goes by TCP")
        assert run.report("server")["packets_multicast"] == 0


@on_the_reactor
async def test_a_firewall_that_rejects_for_a_moment(crew: Crew) -> None:
    """Nothing is lost but the time."""
    async with transfer(crew, 3) as run:
        await run.reached(0.3)
        _refuse_to_send(run.lab.server)
        await run.server.said("the kernel refuses")
        _allow_to_send(run.lab.server)
        await run.server.said("multicast leaves again")
        await run.all_have_it()
        for index in range(3):
            report = run.report(f"client-{index}")
            assert report["packets_multicast"] > 1000
            assert report["packets_fetched"] == 0


@on_the_reactor
async def test_an_address_that_is_away_for_a_moment(crew: Crew) -> None:
    """A lease is renewed."""
    async with transfer(crew, 3) as run:
        await run.reached(0.3)
        server = run.lab.server
        _run(server, f"ip address del {server.address}/16 dev eth0")
        await run.server.said(f"no interface has the address {server.address} now")
        _run(server, f"ip address add {server.address}/16 dev eth0")
        await run.all_have_it()
        assert run.report("client-0")["packets_fetched"] == 0


@on_the_reactor
async def test_an_interface_that_is_down_for_a_while(crew: Crew) -> None:
    async with transfer(crew, 3) as run:
        await run.reached(0.3)
        _run(run.lab.server, "ip link set eth0 down")
        await run.server.said("the interface eth0 is down", "ip link set eth0 up")
        await deferLater(crew.reactor, 2)
        _run(run.lab.server, "ip link set eth0 up")
        await run.all_have_it()


@pytest.mark.parametrize("first", [True, False])
@on_the_reactor
async def test_a_second_interface_that_is_down_with_the_same_address(
    crew: Crew, first: bool
) -> None:
    """Multicast goes by the one that is up."""
    async with transfer(crew, 1, expected=2, hosts=2) as run:
        await run.server.said("is in: 1 of 2")
        run.server.send_signal(signal.SIGKILL)
        assert await run.server.end() == -signal.SIGKILL
        for host in (run.lab.server, run.lab.clients[1]):
            _run(host, "ip link add spare type bridge")
            if first:
                _run(host, f"ip address del {host.address}/16 dev eth0")
            _run(host, f"ip address add {host.address}/16 dev spare")
            if first:
                _run(host, f"ip address add {host.address}/16 dev eth0")
        run.start_server("--rate", "10M", "--buffer-packets", "100", clients=2)
        run.start_client(1)
        await run.all_have_it()
        assert run.report("server")["packets_multicast"] > 1000
        for index in (0, 1):
            assert run.report(f"client-{index}")["packets_multicast"] > 1000


@on_the_reactor
async def test_a_client_that_may_join_no_group(crew: Crew) -> None:
    async with transfer(crew, 2, expected=3, hosts=3) as run:
        _run(run.lab.clients[2], "sysctl -qw net.ipv4.igmp_max_memberships=0")
        run.start_client(2)
        await run.clients[2].said(
            "cannot receive group", "sysctl -w net.ipv4.igmp_max_memberships=", "Going on by TCP"
        )
        await run.all_have_it()
        assert run.report("client-2")["packets_multicast"] == 0
        assert run.report("client-0")["packets_fetched"] == 0


@on_the_reactor
async def test_a_client_whose_udp_port_is_taken(crew: Crew) -> None:
    """The image from a pipe, so that repairs have to bring it."""
    code = "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', "
    code += f"{crew.port})); print(); sys.stdin.read()"
    async with transfer(crew, 1, expected=2, hosts=2, piped=True) as run:
        argv = ["python3", "-c", code]
        other = crew.start(argv, "other", host=run.lab.clients[1], stdin="pipe")
        await other.gave(1)
        run.start_client(1)
        await run.clients[1].said("Address already in use", "another program", "ss -ulpn")
        run.server.write(run.image)
        run.server.close_input()
        await run.all_have_it()
        other.close_input()
        await other.end()


@on_the_reactor
async def test_a_client_whose_address_changes(crew: Crew) -> None:
    """It comes back, receives at its new address, and is one row in the report."""
    async with transfer(crew, 2, slow=("--rate", "3M", "--buffer-packets", "100")) as run:
        await run.reached(0.1)
        host = run.lab.clients[1]
        _run(host, f"ip address del {host.address}/16 dev eth0")
        _run(host, "ip address add 10.77.9.9/16 dev eth0")
        # So that the old connection is known to be broken at once.
        _run(host, f"ss -K src {host.address}")
        await run.clients[1].said("trying to come back")
        await run.clients[1].said("receiving at 10.77.9.9")
        await run.all_have_it()
        rows = run.report("server")["clients"]
        assert sorted((row["name"], row["address"]) for row in rows) == [
            ("client-0", run.lab.clients[0].address),
            ("client-1", "10.77.9.9"),
        ]


@on_the_reactor
async def test_multicast_that_stops_for_good_at_one_host(crew: Crew) -> None:
    async with transfer(crew, 3) as run:
        await run.reached(0.2)
        run.lab.block_multicast(run.lab.clients[2])
        await run.clients[2].said("multicast has stopped reaching this host", "buffer", "querier")
        await run.server.said("client-2", "multicast has stopped reaching it")
        await run.all_have_it()
        assert run.report("client-2")["packets_fetched"] > 0
        assert run.report("client-0")["packets_fetched"] == 0


@pytest.mark.parametrize("piped", [False, True])
@on_the_reactor
async def test_multicast_that_stops_for_good_everywhere(crew: Crew, piped: bool) -> None:
    """It is said at both ends, and not multicast in vain."""
    slow = ("--rate", "10M", "--buffer-packets", "64", "--window", "1")
    async with transfer(crew, 3, slow=slow, piped=piped) as run:
        if piped:
            run.server.write(run.image[: SIZE // 5])
            await run.crew.until(
                lambda: all(c.writes_in(crew.folder) > SIZE // 10 for c in run.clients), "a part"
            )
        else:
            await run.reached(0.2)
        for host in run.lab.clients:
            run.lab.block_multicast(host)
        if piped:
            run.server.write(run.image[SIZE // 5 :])
            run.server.close_input()
        for client in run.clients:
            await client.said("multicast has stopped reaching this host", "querier")
        await run.server.said("multicast reaches none of 3 clients any more")
        await run.all_have_it()
        report = run.report("server")
        assert report["packets_multicast"] + report["packets_coded"] < 0.75 * PACKETS


@on_the_reactor
async def test_an_mtu_that_is_smaller_at_a_host(crew: Crew) -> None:
    words = ("--mtu", "4000", "--buffer-packets", "64")
    async with transfer(
        crew, 1, *words, slow=("--rate", "10M"), expected=2, hosts=2, mtu=4000
    ) as run:
        _run(run.lab.clients[1], "ip link set eth0 mtu 1500")
        run.start_client(1)
        await run.clients[1].said(
            "no multicast reaches this host", "the MTU of eth0 is 1500", "--mtu 1500"
        )
        await run.all_have_it()


@on_the_reactor
async def test_an_interface_of_a_smaller_mtu_at_the_server(crew: Crew) -> None:
    """Nobody gave --mtu, so nobody is told that it is wrong."""
    async with transfer(crew, 1, slow=("--rate", "20M"), mtu=1400) as run:
        await run.all_have_it()
        assert run.report("client-0")["packets_multicast"] > 0


@on_the_reactor
async def test_strict_reverse_path_filtering(crew: Crew) -> None:
    async with transfer(crew, 1, expected=2, hosts=2) as run:
        host = run.lab.clients[1]
        # The way to the server is by another interface than its multicast comes in by.
        _add_bypass(run.lab.server, host)
        for name in ("all", "eth0"):
            _run(host, f"sysctl -qw net.ipv4.conf.{name}.rp_filter=1")
        run.start_client(1)
        await run.clients[1].said(
            "no multicast reaches this host",
            "leaves by eth1",
            "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        )
        await run.all_have_it()


def _add_bypass(one: Host, other: Host) -> None:
    """A second cable, by which `other` reaches `one`'s first address."""
    words = f"eth1 netns {one.namespace} type veth peer name eth1 netns {other.namespace}"
    subprocess.run(["ip", "link", "add", *words.split()], check=True)
    for host, address in ((one, "10.78.0.1"), (other, "10.78.0.2")):
        _run(host, f"ip address add {address}/24 dev eth1")
        _run(host, "ip link set eth1 up")
    _run(one, f"ip route add {other.address}/32 via 10.78.0.2 dev eth1 src {one.address}")
    _run(other, f"ip route add {one.address}/32 via 10.78.0.1 dev eth1 src {other.address}")


@on_the_reactor
async def test_a_client_that_gives_up_before_the_start(crew: Crew) -> None:
    """It is not waited for for ever: the others begin without it, and the report names it."""
    async with transfer(crew, 1, "--client-timeout", "6", expected=2, hosts=2) as run:
        await run.server.said("is in: 1 of 2")
        run.clients[0].send_signal(signal.SIGTERM)
        assert await run.clients[0].end() == -signal.SIGTERM
        await run.server.said("waiting 6 s for client client-0", "to be started again")
        run.start_client(1)
        await run.have_it([1])
        assert await run.server.end() == Status.PARTIAL
        assert "without: client-0" in run.server.lines[-1]
