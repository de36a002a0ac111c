"""uftp: a whole pass over the file, negative acknowledgements, then passes of repairs.

Its receiver is a daemon that never ends, so the transfer ends when the last daemon has written to
its status file that the copy is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.contenders.base import Contender, Scene, command, not_installed, package_version
from bench.crew import Crew, Side
from bench.rows import Row
from lab import Host

_PUBLIC_GROUP, _PRIVATE_GROUP = "239.77.3.1", "239.77.3.2"
_TICK_S = 0.005


class Uftp(Contender):
    name = "uftp"
    is_multicast = True
    # As fast as the link takes it: the socket buffer pushes back, so this settles at the link's
    # rate in the rows that have one, too; TFMCC congestion control is slower in every row. A round
    # trip here is far below the half second that the tool assumes at first. 50 tries instead of 20
    # for each message, or at 5 % loss it gives all its receivers up.
    sender_options: tuple[str, ...] = (
        *("-R", "-1", "-b", "1400", "-B", "1048576", "-r", "0.1:0.01:1", "-s", "50"),
    )
    # The cache stays at its default of 1 MB: 20 MB is no faster without loss, and a third of the
    # speed with it.
    receiver_options: tuple[str, ...] = ("-B", "4194304")

    def missing(self) -> str | None:
        return not_installed("uftp", "uftpd")

    def version(self) -> str:
        return package_version("uftp", ["uftp", "-V"])

    def options(self, row: Row) -> str:
        return " ".join([*self.sender_options, "/", *self.receiver_options])

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        receivers, statuses = [], []
        for host, copy in zip(scene.lab.clients, scene.copies, strict=True):
            copy.parent.mkdir(parents=True, exist_ok=True)
            statuses.append(copy.with_suffix(".status"))
            receivers.append(
                crew.start(
                    host,
                    Side.RECEIVER,
                    [
                        *(command("uftpd"), "-d", "-q", "-I", "eth0", "-M", _PUBLIC_GROUP),
                        *("-D", str(_incoming(copy)), "-F", str(statuses[-1])),
                        *self.receiver_options,
                    ],
                )
            )
        crew.wait_until_idle(receivers)
        image = scene.image.name
        sender = [command("uftp"), "-I", "eth0", "-M", _PUBLIC_GROUP, "-P", _PRIVATE_GROUP]
        sender += ["-H", ",".join(_identity(host) for host in scene.lab.clients)]
        sender += [*self.sender_options, "-D", image]
        crew.begin(receivers[0])
        server = crew.start(scene.lab.server, Side.SENDER, [*sender, str(scene.image)])
        crew.wait_until(lambda: all(map(_is_complete, statuses)), tick_s=_TICK_S)
        crew.finish([_incoming(copy) / image for copy in scene.copies])
        crew.wait([server])
        crew.stop(receivers)
        for copy in scene.copies:
            (_incoming(copy) / image).rename(copy)
        return {}


def _incoming(copy: Path) -> Path:
    """A folder of its own for each daemon, since all copies have the same name."""
    folder = copy.with_suffix(".incoming")
    folder.mkdir(exist_ok=True)
    return folder


def _identity(host: Host) -> str:
    """A daemon's identity is its address, written as one hexadecimal number."""
    return "0x" + "".join(f"{int(part):02X}" for part in host.address.split("."))


def _is_complete(status: Path) -> bool:
    try:
        return any(line.startswith("RESULT;") for line in status.read_text().splitlines())
    except OSError:
        return False
