"""udpcast: slices of a thousand packets, each acknowledged by every receiver (Debian's package)."""

from __future__ import annotations

from typing import Any

from bench.contenders.base import Contender, Scene, command, not_installed, package_version
from bench.crew import Crew, Side
from bench.rows import Row

_GROUP = "239.77.2.1"
_COMMON = ("--interface", "eth0", "--nokbd", "--no-progress")


class Udpcast(Contender):
    name = "udpcast"
    is_multicast = True
    # Multicast also to a single host (the tool would turn to unicast; the speed is the same). A
    # hello every 0.1 s finds receivers that wait already: without it 2 s pass. Slices of 256
    # packets lose less time to a round of repairs than the default's 1024 where there is loss, and
    # nothing where there is none. Packets stay at the default (and maximum) of 1456 bytes: more
    # does not fit into a frame together with the headers, and halves the speed.
    sender_options: tuple[str, ...] = (
        *("--full-duplex", "--nopointopoint"),
        *("--rexmit-hello-interval", "100", "--slice-size", "256"),
    )
    # By default every receiver stays half a second longer than it needs to.
    receiver_options: tuple[str, ...] = ("--rcvbuf", "4194304", "--exit-wait", "100")

    def missing(self) -> str | None:
        return not_installed("udp-sender", "udp-receiver")

    def version(self) -> str:
        return package_version("udpcast", ["udp-sender", "--license"])

    def options(self, row: Row) -> str:
        return " ".join([*self.sender_options, "/", *self.receiver_options])

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        receiver = [command("udp-receiver"), *_COMMON, *self.receiver_options]
        receivers = [
            crew.start(host, Side.RECEIVER, [*receiver, "--file", str(copy)])
            for host, copy in zip(scene.lab.clients, scene.copies, strict=True)
        ]
        crew.wait_until_idle(receivers)
        sender = [command("udp-sender"), *_COMMON, *self.sender_options]
        sender += ["--mcast-data-address", _GROUP, "--min-receivers", str(len(receivers))]
        crew.begin(receivers[0])
        crew.start(scene.lab.server, Side.SENDER, [*sender, "--file", str(scene.image)])
        crew.finish(scene.copies, crew.wait(receivers))
        crew.wait(crew.running())
        return {}
