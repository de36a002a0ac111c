"""kollacast: this project, from the Python environment that runs the benchmark."""

from __future__ import annotations

import compileall
import functools
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.contenders.base import Contender, Scene
from bench.crew import Crew, Side, TransferError
from bench.rows import SUBJECT, SWEEP_BUFFER_PACKETS, SWEEP_WINDOWS, WATCHED_SUBJECT, Row

_CHECKOUT = Path(__file__).resolve().parents[2]
#: Of every process that runs this project's code.
ENVIRONMENT = {"PYTHONPATH": str(_CHECKOUT)}
_QUIET = ("--progress", "none")
_WATCHING = (sys.executable, "-m", "bench.watching")
_STATUS_PORT = 8080
_STATUS_URL = f"http://127.0.0.1:{_STATUS_PORT}/"
_DEFAULT_DIGEST, _FAST_DIGEST = "sha256", "tree"


class Kollacast(Contender):
    """Without arguments kollacast as it is compared: its defaults, with a digest to suit the row.

    A row in which no link limits anything, so that SHA-256 would, gets BLAKE3. The record of a row
    says which ``digest`` it was, and has the `facts` given here. A variant of another `name` may
    fix the `digest`, add `options`, be kept to some rows `only`, and have those who watch it.
    """

    is_multicast = True
    is_subject = True

    def __init__(
        self,
        name: str = SUBJECT,
        *,
        digest: str | None = None,
        options: tuple[str, ...] = (),
        only: frozenset[str] | None = None,
        facts: dict[str, Any] | None = None,
        is_watched: bool = False,
    ) -> None:
        self.name = name
        self._is_watched = is_watched
        self._digest = digest
        self._options = options
        self._only = only
        self._facts = facts or {}

    def skips(self, row: Row) -> str | None:
        return None if self._only is None or row.name in self._only else "not in this row"

    def facts(self, row: Row) -> dict[str, Any]:
        return {"is_subject": True, "digest": self._digest_in(row), **self._facts}

    def missing(self) -> str | None:
        return None if _twistd() else "not installed: twistd"

    def version(self) -> str:
        try:
            return importlib.metadata.version("kollacast")
        except importlib.metadata.PackageNotFoundError:
            return "checkout"

    def options(self, row: Row) -> str:
        wanted = self._digest_in(row)
        return " ".join(self._server_options(row)) or f"its defaults (--digest {wanted})"

    def _digest_in(self, row: Row) -> str:
        if self._digest is not None:
            return self._digest
        return _FAST_DIGEST if row.limit_bytes_per_s is None else _DEFAULT_DIGEST

    def _server_options(self, row: Row) -> list[str]:
        digest = self._digest_in(row)
        is_default = digest == _DEFAULT_DIGEST
        return [*([] if is_default else ["--digest", digest]), *self._options]

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        lab = scene.lab
        _compile()
        receivers = [
            crew.start(
                host,
                Side.RECEIVER,
                [
                    *(*_twistd_words(), "kollacast-client", *_QUIET),
                    *("--output", str(copy), "--report", f"{copy}.json"),
                    *(host.address, lab.server.address),
                ],
                ENVIRONMENT,
            )
            for host, copy in zip(lab.clients, scene.copies, strict=True)
        ]
        crew.wait_until_idle(receivers)
        crew.begin(receivers[0])
        server_report = self._start_server(crew, scene)
        crew.finish(scene.copies, crew.wait(receivers))
        crew.wait(crew.running())
        return {**read_report(server_report, "the server"), **self._watched(scene)}

    def _start_server(self, crew: Crew, scene: Scene, statuses: tuple[int, ...] = (0,)) -> Path:
        """Start it for all hosts of the scene; where its report will be."""
        _compile()
        report, address = scene.folder / "server.json", scene.lab.server.address
        terminal: tuple[str, ...] = ()
        shown: tuple[str, ...] = _QUIET
        if self._is_watched:
            terminal = (*_WATCHING, "terminal")
            shown = ("--progress", "bar", "--status-port", str(_STATUS_PORT))
            crew.start(
                scene.lab.server,
                Side.VIEWER,
                [*_WATCHING, "viewer", _STATUS_URL, str(_viewer_report(scene))],
                ENVIRONMENT,
            )
        crew.start(
            scene.lab.server,
            Side.SENDER,
            [
                *(*terminal, *_twistd_words(), "kollacast-server", *shown),
                *self._server_options(scene.row),
                *("--input", str(scene.image), "--report", str(report)),
                *(address, str(scene.hosts)),
            ],
            ENVIRONMENT,
            statuses,
        )
        return report

    def _watched(self, scene: Scene) -> dict[str, Any]:
        """What those who watched have counted, if there were any."""
        if not self._is_watched:
            return {}
        return {"viewer": read_report(_viewer_report(scene), "the viewer")}


def _viewer_report(scene: Scene) -> Path:
    return scene.folder / "viewer.json"


def read_report(path: Path, whose: str) -> dict[str, Any]:
    """A report in JSON; TransferError where there is none."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TransferError(f"the report of {whose} cannot be read: {error}") from None
    return report


def with_sha256() -> Kollacast:
    """kollacast with its default digest in the raw rows, where the comparison has the fast one."""
    return Kollacast(
        f"{SUBJECT}-sha256", digest=_DEFAULT_DIGEST, only=frozenset({"raw-1", "raw-4"})
    )


def watched() -> Kollacast:
    """kollacast while somebody looks at its page, its metrics and its terminal."""
    return Kollacast(WATCHED_SUBJECT, is_watched=True)


def sweep() -> list[Kollacast]:
    """The defaults, and every window with every size of a buffer of the sweep."""
    variants = [Kollacast()]
    for window in SWEEP_WINDOWS:
        for packets in SWEEP_BUFFER_PACKETS:
            variants.append(
                Kollacast(
                    f"window {window}, {packets} packets",
                    options=("--window", str(window), "--buffer-packets", str(packets)),
                    facts={"window": window, "buffer_packets": packets},
                )
            )
    return variants


@functools.cache
def _compile() -> None:
    """Compile the modules, as pip does for who installs them; else each process might on its own.

    Python keeps no compiled modules where the environment has PYTHONDONTWRITEBYTECODE.
    """
    for folder in ("kollacast", "twisted"):
        compileall.compile_dir(_CHECKOUT / folder, quiet=2)


def _twistd_words() -> list[str]:
    """Many clients share one working directory here: each without twistd's file of its pid."""
    return [str(_twistd()), "-n", "--pidfile="]


def _twistd() -> Path | None:
    """The twistd of this very environment, else the one in the path."""
    beside = Path(sys.executable).with_name("twistd")
    if beside.exists():
        return beside
    found = shutil.which("twistd")
    return Path(found) if found else None
