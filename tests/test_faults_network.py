"""What networks do to a transfer: it loses, breaks, shuffles, doubles and damages; it ends well.

Random loss is in ``test_hosts.py``, where it is counted; so are another session's packets.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from lab import Fate
from tests.processes import Crew, make_crew, on_the_reactor
from tests.transfer import PACKETS, transfer

crew = pytest_twisted.async_yield_fixture(make_crew)


@pytest.mark.parametrize("down_s", [1, 5])
@pytest.mark.parametrize("where", ["client", "server"])
@on_the_reactor
async def test_a_link_that_is_down_for_a_while(crew: Crew, where: str, down_s: int) -> None:
    async with transfer(crew, 3) as run:
        host = run.lab.server if where == "server" else run.lab.clients[1]
        await run.reached(0.3)
        run.lab.set_link(host, up=False)
        await deferLater(crew.reactor, down_s)
        run.lab.set_link(host, up=True)
        await run.all_have_it()


@on_the_reactor
async def test_packets_in_disorder_and_twice(crew: Crew) -> None:
    async with transfer(crew, 3, "--patience", "60") as run:
        with run.lab.relay(Fate(shuffle=20, duplicate=0.2)):
            await run.all_have_it()
        for index in range(3):
            report = run.report(f"client-{index}")
            assert report["packets_repeated"] > 0.1 * PACKETS
            assert report["packets_multicast"] > 0


@on_the_reactor
async def test_bits_flipped_in_flight_that_only_the_crc_can_notice(crew: Crew) -> None:
    async with transfer(crew, 3) as run:
        with run.lab.relay(Fate(damage=0.05)):
            await run.all_have_it()
        for index in range(3):
            report = run.report(f"client-{index}")
            assert report["packets_damaged"] > 0
            assert report["packets_repaired"] > 0


@on_the_reactor
async def test_a_partition_that_heals(crew: Crew) -> None:
    """One client and the server do not hear each other until the others have the image."""
    async with transfer(crew, 3, "--patience", "1") as run:
        await run.reached(0.3)
        assert len(run.lab.groups(run.lab.clients[1])) == 1
        with run.lab.partition(run.lab.server, run.lab.clients[1]):
            await run.have_it([0, 2])
        await run.all_have_it()
        assert run.report("client-1")["packets_fetched"] > 0


@on_the_reactor
async def test_multicast_from_another_address(crew: Crew) -> None:
    """Nothing comes in where only the server's is taken, and all comes in where anybody's is."""
    async with transfer(crew, 1, expected=3, hosts=3) as run:
        for index, words in ((1, ()), (2, ("--any-source",))):
            run.lab.translate_multicast(run.lab.clients[index], "10.77.99.99")
            run.start_client(index, *words)
        await run.clients[1].said(
            "no multicast reaches this host", f"from {run.lab.server.address}"
        )
        await run.clients[1].said("--any-source")
        await run.all_have_it()
        reports = [run.report(f"client-{index}") for index in range(3)]
        assert [report["packets_multicast"] > 0 for report in reports] == [True, False, True]


@on_the_reactor
async def test_a_host_that_no_multicast_reaches(crew: Crew) -> None:
    """It says what to check, and goes on by TCP while the others go on by multicast."""
    async with transfer(crew, 2, expected=3, hosts=3) as run:
        run.lab.block_multicast(run.lab.clients[2])
        run.start_client(2)
        await run.clients[2].said("no multicast reaches this host", "querier")
        await run.all_have_it()
        report = run.report("client-2")
        assert (report["packets_multicast"], report["packets_fetched"] > 0) == (0, True)
        [found] = run.report("server")["diagnosis"]
        assert found.startswith(f"no multicast reached host {run.lab.clients[2].address},")
        assert run.server.lines[-2] == f"kollacast-server: diagnosis: {found}"
        for index in (0, 1):
            report = run.report(f"client-{index}")
            assert (report["packets_multicast"] > 0, report["packets_fetched"]) == (True, 0)
