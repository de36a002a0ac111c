"""A stranger on the multicast group of a real session, who forges what the server sends."""

from __future__ import annotations

import json
import socket
from random import Random

import pytest_twisted
from twisted.internet.task import LoopingCall

from kollacast.wire.greeting import MAGIC, Greeting
from kollacast.wire.structures import payload_capacity
from tests.processes import LOOPBACK, Crew, image_of, make_crew, on_the_reactor
from tests.simulation.forger import Forger

crew = pytest_twisted.async_yield_fixture(make_crew)

_SIZE = 6_000_000
#: One packet in so many is forged, again and again, before the server has come to it.
_EVERY = 97


def _greeting(port: int) -> Greeting:
    """What the server tells everybody who asks."""
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        data = b""
        while len(data) < 8 or len(data) < 8 + int.from_bytes(data[4:8], "big"):
            data += connection.recv(65536)
    assert data.startswith(MAGIC)
    greeting = Greeting.decode(data[8:])
    assert isinstance(greeting, Greeting)
    return greeting


@on_the_reactor
async def test_packets_of_a_stranger(crew: Crew) -> None:
    """Each forged one costs its piece, every host has the image, and what came is counted."""
    image = image_of(_SIZE)
    source = crew.file("image", image)
    server = crew.server("--rate", "40M", "--input", str(source), clients=2)
    copies = [crew.folder / f"copy-{number}" for number in range(2)]
    words = [("--output", str(copy), "--report", f"{copy}.json") for copy in copies]
    clients = [crew.client(*words[0])]
    await server.said("1 of 2")
    greeting = _greeting(crew.port)
    capacity = payload_capacity(greeting.mtu)
    forger = Forger(greeting.salt, Random(7))
    genuine = bytes(12 + capacity)
    forged = [
        forger.payload(seq.to_bytes(4, "big") + genuine[4:])
        for seq in range(0, _SIZE // capacity, _EVERY)
    ]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))

    def forge() -> None:
        for datagram in (*forged, *(forger.control(genuine) for _ in range(20))):
            sender.sendto(datagram, (greeting.group, greeting.port))

    meddling = LoopingCall(forge)
    meddling.start(0.02)
    try:
        clients.append(crew.client(*words[1]))
        for program in (server, *clients):
            assert await program.end() == 0, program.errors
    finally:
        meddling.stop()
        sender.close()
    reports = [json.loads(copy.with_name(f"{copy.name}.json").read_text()) for copy in copies]
    for copy, report in zip(copies, reports, strict=True):
        assert copy.read_bytes() == image
        assert report["pieces_wrong"] > 0
        assert report["packets_forged"] > 0
    assert "are not the server's" in clients[0].errors
