"""Plays seeds: one, watched for whatever the program logs as an error, or many in processes."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import secrets
import shutil
import tempfile
import traceback
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from random import Random
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from kollacast.files import tree_digest
from kollacast.repair import choice
from kollacast.sending import repairs
from tests.simulation.multicast import memory_sockets
from tests.storm import accidents, verdict
from tests.storm.session import Session

#: Seeds that a process takes at a time.
_CHUNK = 20
#: Bytes of a piece: less than a packet, and more than a buffer.
_PIECES = (90, 1000, 65536)


def command(seed: int) -> str:
    """What plays this seed again, and shows what happens."""
    return f"python -m tests.storm {seed}"


def play(seed: int) -> list[str]:
    """Everything that is wrong with the session of ``seed``."""
    return _play(seed)[0]


def fingerprint(seed: int) -> str:
    """Names every message and datagram of the session of ``seed``, and how its runs ended."""
    return _play(seed, trace=True)[1]


def play_many(seeds: Iterable[int], processes: int) -> Iterator[tuple[int, list[str]]]:
    """Each seed and what is wrong with it, in any order."""
    with multiprocessing.get_context("spawn").Pool(processes, _settle) as pool:
        yield from pool.imap_unordered(_play_one, seeds, _CHUNK)


def _settle() -> None:
    """Have the collector look at what sessions make, and not at all the modules after each."""
    gc.freeze()


def _play_one(seed: int) -> tuple[int, list[str]]:
    return seed, play(seed)


def _play(seed: int, trace: bool = False) -> tuple[list[str], str]:
    folder = tempfile.mkdtemp(prefix="storm.")
    print_ = hashlib.sha256()
    gone: list[weakref.ref[object]] = []
    with memory_sockets(), _seeded_secrets(seed), _ways_to_mend(seed), _logged_errors() as wrong:
        try:
            session = Session(seed, folder)
            if trace:
                session.network.trace = []
            accidents.happen(session)
            wrong += verdict.faults(session)
            for way, data in session.network.trace or ():
                # What TLS makes of it is never the same, and always as long.
                is_hidden = way != "udp" and any(run.config.is_secure for run in session.clients)
                print_.update(way.encode() + (b"%d" % len(data) if is_hidden else data))
            print_.update("".join(repr(run.outcome) for run in session.running()).encode())
            gone += [weakref.ref(run) for run in session.running()]
            del session
        except Exception:
            wrong.append(traceback.format_exc())
        # A Deferred whose failure nobody has seen says so when it goes.
        gc.collect()
        if not wrong and any(ref() is not None for ref in gone):
            wrong.append("something holds on to runs that are over")
    shutil.rmtree(folder)
    return wrong, print_.hexdigest()


@contextlib.contextmanager
def _seeded_secrets(seed: int) -> Iterator[None]:
    """Session names, salts and nonces are of a length that what is cut where depends on."""
    random = Random(~seed)
    with (
        mock.patch.object(secrets, "token_hex", lambda size=32: random.randbytes(size).hex()),
        mock.patch.object(secrets, "randbits", random.getrandbits),
        mock.patch.object(
            Ed25519PrivateKey,
            "generate",
            partial(_key, random),
        ),
        # Sessions are small, and so are their pieces.
        mock.patch.object(tree_digest, "PIECE_SIZE", Random(f"pieces {seed}").choice(_PIECES)),
    ):
        yield


def _key(random: Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.randbytes(32))


@contextlib.contextmanager
def _ways_to_mend(seed: int) -> Iterator[None]:
    """Of as few clients as there are, parity is the way of half of the seeds, in several rounds."""
    if Random(f"mend {seed}").random() < 0.5:
        yield
        return
    with (
        mock.patch.object(choice, "WORTH", 5.0),
        mock.patch.object(choice, "_CLEARLY", -10.0),
        mock.patch.object(repairs, "_MANY_CLIENTS", 2),
        mock.patch.object(repairs, "_MIN_REQUESTED", 2),
    ):
        yield


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """What the program logs as an error meanwhile: it has no right to."""
    errors: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            errors.append(f"logged: {formatEvent(event)}\n{failure.getTraceback()}")
        elif event.get("log_level", LogLevel.info) >= LogLevel.error:
            errors.append(f"logged: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    try:
        yield errors
    finally:
        globalLogPublisher.removeObserver(observe)
