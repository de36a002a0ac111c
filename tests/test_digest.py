"""The digest of the whole image, piece by piece."""

from __future__ import annotations

import hashlib
import sys
from unittest import mock

from twisted.trial import unittest

from kollacast.core import digest


class Digests(unittest.SynchronousTestCase):
    def test_sha256_is_what_sha256sum_says(self) -> None:
        image = bytes(range(256)) * 40
        digester = digest.Digester("sha256")
        digester.update([memoryview(image)[:1], memoryview(image)[1:5000]])
        digester.update([])
        digester.update([memoryview(image)[5000:]])
        self.assertEqual(digester.value(), hashlib.sha256(image).digest())

    def test_an_empty_image(self) -> None:
        self.assertEqual(
            digest.Digester("sha256").value().hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        )

    def test_every_digest_that_is_offered_fits_its_message(self) -> None:
        self.assertIn("sha256", digest.available_digests())
        for name in digest.available_digests():
            self.assertEqual(len(digest.Digester(name).value()), 32)

    def test_what_is_not_installed_is_not_offered(self) -> None:
        with mock.patch.dict(sys.modules, {"blake3": None}):
            self.assertEqual(digest.available_digests(), ("sha256",))
