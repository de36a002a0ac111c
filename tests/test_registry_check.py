"""What is asked of a registry, how many requests at a time, and what becomes of its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from twisted.trial.unittest import SynchronousTestCase

from kollacast.images.catalog import Image
from kollacast.images.check import check_registry
from kollacast.images.versions import Record, parse_record
from tests.processes import LOOPBACK, PATIENCE_S
from tests.registry_storage import blob_path, digest_of, manifest_of, storage_of

_NAME = "kolla/one:1"
_FILES = storage_of({_NAME: [b"first", b"second"]})
_DIGEST = manifest_of(_FILES, _NAME)
_IMAGE = Image("kolla/one", "1", _DIGEST, 1)


class _Handler(BaseHTTPRequestHandler):
    """A registry that serves `_FILES` as far as `server` tells."""

    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        kind, _, reference = self.path.rpartition("/")
        if self.path == "/v2/":
            self._answer(b"{}")
        elif self.server.is_dead:
            self.close_connection = True
        elif self.server.redirect is not None:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
        elif self.server.has_no_end:
            self.send_response(200)
            self.end_headers()
            while not self.server.is_over.wait(0.01):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
        elif kind == "/v2/kolla/one/manifests":
            self._answer(self.server.manifest, {"Docker-Content-Digest": _DIGEST})
        else:
            self.server.barrier.wait(PATIENCE_S)
            self._answer(_FILES[blob_path(reference)])

    do_HEAD = do_GET

    def _answer(self, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(200)
        more = {"Docker-Distribution-Api-Version": "registry/2.0", **headers}
        for name, value in {**more, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *words: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.manifest = _FILES[blob_path(_DIGEST)]
        self.is_dead = False
        self.redirect: str | None = None
        self.has_no_end = False
        self.is_over = threading.Event()
        self.barrier = threading.Barrier(3)
        self.asked: list[str] = []


@contextmanager
def _serving() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()


def _check(server: _Server) -> tuple[int, int]:
    served = check_registry(f"{LOOPBACK}:{server.server_port}", [_IMAGE], PATIENCE_S)
    return served.manifests, served.blobs


class CheckTests(SynchronousTestCase):
    """One image of three blobs."""

    def test_blobs_by_head_and_all_at_a_time(self) -> None:
        """The answers come once all three are asked for."""
        with _serving() as server:
            self.assertEqual(_check(server), (1, 3))
        blobs = [
            digest_of(json.dumps({"of": _NAME}).encode()),
            *map(digest_of, (b"first", b"second")),
        ]
        expected = ["GET /v2/", "GET /v2/kolla/one/manifests/1"]
        self.assertEqual(server.asked[:2], expected)
        self.assertEqual(
            sorted(server.asked[2:]), sorted(f"HEAD /v2/kolla/one/blobs/{each}" for each in blobs)
        )

    def test_one_that_dies_in_the_middle(self) -> None:
        with _serving() as server:
            server.is_dead = True
            error = self.assertRaises(OSError, _check, server)
        self.assertRegex(error.strerror, "^the registry at .* answers no more: ")

    def test_one_that_leads_to_what_is_no_address(self) -> None:
        for redirect in ("http://[bad", "http://a b/", "http://127.0.0.1:999999/"):
            with self.subTest(redirect), _serving() as server:
                server.redirect = redirect
                error = self.assertRaises(OSError, _check, server)
                self.assertRegex(error.strerror, "is no registry$|answers no more: ")

    def test_an_answer_without_an_end(self) -> None:
        """A byte now and then is no reason to wait for ever."""
        with _serving() as server:
            server.has_no_end = True
            address = f"{LOOPBACK}:{server.server_port}"
            error = self.assertRaises(OSError, check_registry, address, [_IMAGE], 0.1)
        self.assertRegex(error.strerror, "answers no more: it does not come to the end")

    def test_another_manifest_by_the_name_of_this_one(self) -> None:
        """What a registry says of its answer is not what counts."""
        with _serving() as server:
            server.manifest = server.manifest.replace(b"2", b"1", 1)
            error = self.assertRaises(OSError, _check, server)
        self.assertIn(f"serves another {_NAME}", error.strerror)


class RecordTests(SynchronousTestCase):
    """What is expected of a registry comes from a file, which may hold anything."""

    def _parse(self, **changes: object) -> Record:
        image = {"repository": "kolla/one", "tag": "1", "digest": _DIGEST, "bytes": 1, **changes}
        fields = {"digest": _DIGEST, "bytes": 1, "received_at": "", "images": [image]}
        return parse_record(json.dumps(fields), "record")

    def test_one_that_does_not_know_of_absent_images(self) -> None:
        self.assertEqual(self._parse().images, [_IMAGE])

    def test_what_cannot_be_an_image(self) -> None:
        for changes in (
            {"repository": "kolla one"},
            {"repository": 1},
            {"tag": "/"},
            {"digest": 1},
            {"digest": "md5:00"},
            {"bytes": "1"},
            {"absent": 1},
            {"absent": [None]},
            {"more": 1},
        ):
            with self.subTest(changes):
                error = self.assertRaises(OSError, self._parse, **changes)
                self.assertEqual(error.filename, "record")

    def test_brackets_without_end(self) -> None:
        error = self.assertRaises(OSError, parse_record, "[" * 200_000, "record")
        self.assertEqual(error.filename, "record")
