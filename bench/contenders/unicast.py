"""Unicast: every client pulls the file over HTTP, as from a registry: nginx and curl."""

from __future__ import annotations

import os
from typing import Any

from bench.contenders.base import Contender, Scene, command, not_installed, package_version
from bench.crew import Crew, Side
from bench.rows import LOSS_OF_UNICAST, Row

_CONFIGURATION = """\
daemon off;
user root;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:80;
        root {root};
    }}
}}
"""


class Unicast(Contender):
    name = "unicast"
    is_multicast = False

    def missing(self) -> str | None:
        return not_installed("nginx", "curl")

    def version(self) -> str:
        return package_version("nginx", ["nginx", "-v"])

    def skips(self, row: Row) -> str | None:
        is_again = row.loss and row.name != LOSS_OF_UNICAST
        return f"as in {LOSS_OF_UNICAST}: loss spares TCP" if is_again else None

    def options(self, row: Row) -> str:
        return "nginx: sendfile on, tcp_nopush on, a worker a core / curl"

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        configuration = scene.folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                workers=os.cpu_count(),
                folder=scene.folder,
                address=scene.lab.server.address,
                root=scene.image.parent,
            )
        )
        argv = [command("nginx"), "-p", str(scene.folder), "-c", str(configuration)]
        server = crew.start(scene.lab.server, Side.SENDER, [*argv, "-e", "stderr"])
        crew.wait_until_idle([server])
        url = f"http://{scene.lab.server.address}/{scene.image.name}"
        crew.begin(server)
        receivers = [
            crew.start(
                host,
                Side.RECEIVER,
                [command("curl"), "-fsS", "--noproxy", "*", "-o", str(copy), url],
            )
            for host, copy in zip(scene.lab.clients, scene.copies, strict=True)
        ]
        crew.finish(scene.copies, crew.wait(receivers))
        crew.stop([server])
        return {}
