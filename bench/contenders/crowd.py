"""kollacast's server, and a crowd of simulated hosts in the place of its clients."""

from __future__ import annotations

import sys
from typing import Any

from bench.contenders.base import Scene
from bench.contenders.kollacast import ENVIRONMENT, Kollacast, read_report
from bench.crew import Crew, Side, TransferError
from bench.rows import WATCHED_SUBJECT

#: Multicast whose packets' seqs are the image's: the first bit of the UDP payload is 0.
IMAGE_PACKETS = "@th,64,1 0"

#: How a server ends when some clients have the image and some have not.
_PARTIAL = 4


class KollacastToCrowd(Kollacast):
    """One process is all hosts; what is multicast of the image ends in its kernel."""

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        lab, client = scene.lab, scene.lab.clients[0]
        lab.block_multicast(client, of=IMAGE_PACKETS)
        crowd_report = scene.folder / "crowd.json"
        crowd = crew.start(
            client,
            Side.RECEIVER,
            [
                *(sys.executable, "-m", "bench.crowd"),
                *("--loss", str(scene.row.loss), "--report", str(crowd_report)),
                *scene.row.disturbance,
                *(client.address, lab.server.address, str(scene.hosts)),
            ],
            ENVIRONMENT,
        )
        crew.wait_until_idle([crowd])
        crew.begin(crowd)
        statuses = (_PARTIAL,) if scene.row.kills else (0,)
        server_report = self._start_server(crew, scene, statuses)
        crew.finish([], crew.wait([crowd]))
        crew.wait(crew.running())
        report = read_report(crowd_report, "the crowd")
        crew.data_began, crew.completed = report["began_s"], report["ended_s"]
        if report["verified"] + report["killed"] != scene.hosts:
            raise TransferError(f"{report['verified']} of {scene.hosts} hosts have the image")
        server = read_report(server_report, "the server")
        # One entry for each of a thousand hosts says nothing that the crowd's sums do not.
        sums = {key: server[key] for key in server if key != "clients"}
        return {**sums, "crowd": report, **self._watched(scene)}


def watched_by_crowd() -> KollacastToCrowd:
    """The same while somebody looks at its page, its metrics and its terminal."""
    return KollacastToCrowd(WATCHED_SUBJECT, digest="tree", is_watched=True)
