"""Proves that a registry serves the images that it is there for."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from kollacast.images.catalog import Image

#: Seconds between two attempts to reach the registry.
_RETRY_S = 0.2
#: What a manifest may be; a registry translates one that is not asked for, or refuses.
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
)


def check_registry(address: str, images: Sequence[Image], timeout_s: float) -> None:
    """Wait until the registry at `address` answers; then it must serve all `images` as they are.

    Speaks HTTP, without a proxy. Raises OSError, with all that is wrong in one line.
    """
    _Check(address, timeout_s).run(images)


class _Check:
    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._opener: OpenerDirector = build_opener(ProxyHandler({}))

    def run(self, images: Sequence[Image]) -> None:
        self._wait()
        for image in images:
            path = f"/v2/{image.repository}/manifests/{image.tag}"
            status, headers = self._ask("HEAD", path)
            digest = headers.get("docker-content-digest")
            if status != 200:
                raise _wrong(
                    f"the registry at {self._address} does not serve {image.name}: status {status}"
                )
            if digest != image.digest:
                raise _wrong(
                    f"the registry at {self._address} serves another {image.name}: {digest}, and"
                    f" not {image.digest}"
                )

    def _wait(self) -> None:
        """Return when a registry answers."""
        while True:
            try:
                status, headers = self._ask("GET", "/v2/")
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

    def _ask(self, method: str, path: str) -> tuple[int, dict[str, str]]:
        """Status and headers, by name in small letters."""
        request = Request(
            f"http://{self._address}{path}", method=method, headers={"Accept": _MANIFESTS}
        )
        patience_s = max(self._deadline - time.monotonic(), 1.0)
        try:
            with self._opener.open(request, timeout=patience_s) as answer:
                return answer.status, {name.lower(): value for name, value in answer.getheaders()}
        except HTTPError as error:
            with error:
                return error.code, {name.lower(): value for name, value in error.headers.items()}
        except OSError as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise _NoAnswerError(getattr(reason, "strerror", None) or str(reason)) from None
        except HTTPException:
            raise _wrong(f"what answers at {self._address} is no registry") from None


class _NoAnswerError(Exception):
    """The connection fails."""


def _wrong(text: str) -> OSError:
    return OSError(errno.EPROTO, text)
