"""Proves that a registry serves the images that it is there for: asks for all that a pull asks for.

Manifests are read, and compared with their digests; of each blob, it has to say that it is there
and how large it is.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from kollacast.images.catalog import Image
from kollacast.images.manifest import MAX_MANIFEST, MEDIA_TYPES, Manifest, read_manifest

#: Seconds between two attempts to reach the registry.
_RETRY_S = 0.2
#: Seconds that an answer may take at the least, however short the patience is.
_LEAST_S = 1.0
#: Requests that are under way at a time.
_AT_ONCE = 8


@dataclass(frozen=True)
class Served:
    """What a registry has been asked for, and has."""

    manifests: int
    blobs: int


def check_registry(address: str, images: Sequence[Image], timeout_s: float) -> Served:
    """Wait until the registry at `address` answers; then it must serve all `images` as they are.

    Speaks HTTP, without a proxy. Raises OSError, with what is wrong first in one line.
    """
    return _Check(address, timeout_s).run(images)


@dataclass(frozen=True)
class _Asked:
    """A manifest that is part of an image."""

    image: Image
    reference: str  #: tag or digest
    digest: str

    @property
    def name(self) -> str:
        """For messages."""
        is_whole = self.reference == self.image.tag
        return self.image.name if is_whole else f"{self.digest} of {self.image.name}"


@dataclass(frozen=True)
class _Blob:
    """A blob that is part of an image."""

    image: Image
    digest: str
    size: int | None  #: in bytes, if the manifest says so


class _Check:
    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        #: For an answer of a registry that has answered before.
        self._patience_s = max(timeout_s, _LEAST_S)
        self._deadline = time.monotonic() + timeout_s
        self._opener: OpenerDirector = build_opener(ProxyHandler({}))

    def run(self, images: Sequence[Image]) -> Served:
        self._wait()
        pool = ThreadPoolExecutor(_AT_ONCE, "check")
        try:
            return self._ask_for_all(images, pool)
        except _NoAnswerError as error:
            raise _wrong(f"the registry at {self._address} answers no more: {error}") from None
        finally:
            # Not waited for: who interrupts this need not wait for a registry that does not answer.
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask_for_all(self, images: Sequence[Image], pool: ThreadPoolExecutor) -> Served:
        """Ask for manifests, those that they name, and all blobs, several at once."""
        seen: set[tuple[str, str]] = set()
        blobs: dict[tuple[str, str], _Blob] = {}
        waiting = [_Asked(image, image.tag, image.digest) for image in images]
        while waiting:
            children = []
            for asked, manifest in zip(waiting, pool.map(self._manifest, waiting), strict=True):
                image = asked.image
                seen.add((image.repository, asked.digest))
                for digest, size in manifest.blobs.items():
                    blobs.setdefault((image.repository, digest), _Blob(image, digest, size))
                children += [
                    _Asked(image, digest, digest)
                    for digest in manifest.children
                    if digest not in image.absent and (image.repository, digest) not in seen
                ]
            waiting = list({(a.image.repository, a.digest): a for a in children}.values())
        for _ in pool.map(self._blob, blobs.values()):
            pass
        return Served(len(seen), len(blobs))

    def _manifest(self, asked: _Asked) -> Manifest:
        """What is in a manifest that the registry serves."""
        path = f"/v2/{asked.image.repository}/manifests/{asked.reference}"
        status, headers, body = self._ask("GET", path, self._patience_s)
        if status != 200:
            raise self._not_served(asked.name, status)
        algorithm, _, value = asked.digest.partition(":")
        digest = headers.get("docker-content-digest")
        if hashlib.new(algorithm, body).hexdigest() != value or digest != asked.digest:
            raise _wrong(
                f"the registry at {self._address} serves another {asked.name}: {digest}, and"
                f" not {asked.digest}"
            )
        manifest = read_manifest(body)
        if manifest is None:
            raise _wrong(f"the registry at {self._address} serves no manifest for {asked.name}")
        return manifest

    def _blob(self, blob: _Blob) -> None:
        path = f"/v2/{blob.image.repository}/blobs/{blob.digest}"
        status, headers, _ = self._ask("HEAD", path, self._patience_s)
        name = f"the blob {blob.digest} of {blob.image.name}"
        if status != 200:
            raise self._not_served(name, status)
        size = headers.get("content-length")
        if blob.size is not None and size is not None and size != str(blob.size):
            raise _wrong(
                f"the registry at {self._address} serves {size} bytes for {name}, and not"
                f" {blob.size}"
            )

    def _not_served(self, name: str, status: int) -> OSError:
        return _wrong(f"the registry at {self._address} does not serve {name}: status {status}")

    def _wait(self) -> None:
        """Return when a registry answers."""
        while True:
            try:
                left_s = self._deadline - time.monotonic()
                status, headers, _ = self._ask("GET", "/v2/", max(left_s, _LEAST_S))
                if headers.get("docker-distribution-api-version") != "registry/2.0":
                    raise _wrong(f"what answers at {self._address} is no registry")
                if status == 200:
                    return
                why = f"status {status}"
            except _NoAnswerError as error:
                why = str(error)
            if time.monotonic() + _RETRY_S > self._deadline:
                raise _wrong(
                    f"no registry answers at {self._address} within {self._timeout_s:g} s: {why}"
                )
            time.sleep(_RETRY_S)

    def _ask(self, method: str, path: str, patience_s: float) -> tuple[int, Message, bytes]:
        """Status, headers, and as much as a manifest has of the body."""
        # A registry translates a manifest that is not asked for, or refuses.
        request = Request(
            f"http://{self._address}{path}",
            method=method,
            headers={"Accept": ", ".join(MEDIA_TYPES)},
        )
        try:
            with self._opener.open(request, timeout=patience_s) as answer:
                body = _body(answer, patience_s) if method == "GET" else b""
                return answer.status, answer.headers, body
        except HTTPError as error:
            with error:
                return error.code, error.headers, b""
        except OSError as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise _NoAnswerError(getattr(reason, "strerror", None) or str(reason)) from None
        except (HTTPException, ValueError):  # which is what an address that is none leads to
            raise _wrong(f"what answers at {self._address} is no registry") from None


def _body(answer: HTTPResponse, patience_s: float) -> bytes:
    """As much of the body as a manifest may have. Raises _NoAnswerError where it takes too long."""
    deadline = time.monotonic() + patience_s
    body = bytearray()
    while len(body) <= MAX_MANIFEST and (piece := answer.read1(MAX_MANIFEST + 1 - len(body))):
        body += piece
        if time.monotonic() > deadline:
            raise _NoAnswerError("it does not come to the end of an answer")
    return bytes(body)


class _NoAnswerError(Exception):
    """The connection fails."""


def _wrong(text: str) -> OSError:
    return OSError(errno.EPROTO, text)
