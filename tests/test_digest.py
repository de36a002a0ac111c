"""The digest of the whole image, piece by piece."""

from __future__ import annotations

import hashlib
import sys
from unittest import mock

from twisted.trial import unittest

from kollacast.files import digest


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

    def test_the_same_whatever_the_pieces(self) -> None:
        image = bytes(range(251)) * 2000
        for name in digest.available_digests():
            whole = digest.Digester(name)
            whole.update([memoryview(image)])
            for size in (1, 63, 64, 1460, 65536):
                pieces = digest.Digester(name)
                views = [memoryview(image)[at : at + size] for at in range(0, 9000, size)]
                pieces.update(views)
                pieces.update([memoryview(image)[len(views) * size :]])
                self.assertEqual(pieces.value(), whole.value(), f"{name} of {size} bytes each")

    def test_it_may_be_asked_in_between(self) -> None:
        for name in digest.available_digests():
            digester = digest.Digester(name)
            empty = digester.value()
            self.assertEqual(digester.value(), empty)
            digester.update([memoryview(b"more")])
            self.assertNotEqual(digester.value(), empty)

    def test_blake3_is_what_b3sum_says(self) -> None:
        if "blake3" not in digest.available_digests():
            raise unittest.SkipTest("the blake3 package is not installed")
        self.assertEqual(
            digest.Digester("blake3").value().hex(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        )

    def test_every_digest_that_is_offered_fits_its_message(self) -> None:
        self.assertIn("sha256", digest.available_digests())
        for name in digest.available_digests():
            self.assertEqual(len(digest.Digester(name).value()), 32)

    def test_what_is_not_installed_is_not_offered(self) -> None:
        with mock.patch.dict(sys.modules, {"blake3": None}):
            self.assertEqual(digest.available_digests(), ("sha256",))
