"""The digests of the whole image, piece by piece."""

from __future__ import annotations

import hashlib

from twisted.trial import unittest

from kollacast.files.digest import DIGEST_SIZE, KNOWN_DIGESTS, Digester


class Digests(unittest.SynchronousTestCase):
    def test_sha256_is_what_sha256sum_says(self) -> None:
        image = bytes(range(256)) * 40
        digester = Digester("sha256")
        digester.update([memoryview(image)[:1], memoryview(image)[1:5000]])
        digester.update([])
        digester.update([memoryview(image)[5000:]])
        self.assertEqual(digester.values(), {"sha256": hashlib.sha256(image).digest()})

    def test_an_empty_image(self) -> None:
        self.assertEqual(
            Digester("sha256", "blake3").values()["sha256"].hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        )

    def test_the_same_whatever_the_pieces(self) -> None:
        image = bytes(range(251)) * 2000
        whole = Digester(*KNOWN_DIGESTS)
        whole.update([memoryview(image)])
        for size in (1, 63, 64, 1460, 65536):
            pieces = Digester(*KNOWN_DIGESTS)
            views = [memoryview(image)[at : at + size] for at in range(0, 9000, size)]
            pieces.update(views)
            pieces.update([memoryview(image)[len(views) * size :]])
            self.assertEqual(pieces.values(), whole.values(), f"{size} bytes each")

    def test_it_may_be_asked_in_between(self) -> None:
        digester = Digester(*KNOWN_DIGESTS)
        empty = digester.values()
        self.assertEqual(digester.values(), empty)
        digester.update([memoryview(b"more")])
        for name, value in digester.values().items():
            self.assertNotEqual(value, empty[name], name)

    def test_blake3_is_what_b3sum_says(self) -> None:
        self.assertEqual(
            Digester("blake3").values()["blake3"].hex(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        )

    def test_every_digest_fits_its_message(self) -> None:
        for value in Digester(*KNOWN_DIGESTS).values().values():
            self.assertEqual(len(value), DIGEST_SIZE)
