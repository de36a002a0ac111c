"""The image's digest as a tree: its shape, its pieces, and the two ways to take them."""

from __future__ import annotations

import hashlib
import random

from blake3 import blake3
from twisted.trial.unittest import SynchronousTestCase

from kollacast.files.digest import Digester
from kollacast.files.tree_digest import (
    PIECE_SIZE,
    Tree,
    TreeDigest,
    bounds,
    count_pieces,
    digest_pieces,
    join,
)

#: The inputs and the roots of RFC 6962's tree over SHA-256 that Certificate Transparency's own
#: implementations are tested with, for the first 1 to 8 of these leaves.
_LEAVES = (
    *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
    "606162636465666768696a6b6c6d6e6f",
)
_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class ShapeTests(SynchronousTestCase):
    def test_rfc_6962(self) -> None:
        tree = Tree(lambda left, right: _sha256(b"\x01" + left + right))
        for leaf, root in zip(_LEAVES, _ROOTS, strict=True):
            digest = _sha256(b"\x00" + bytes.fromhex(leaf))
            last = tree.root(digest)
            tree.add(digest)
            found = tree.root()
            assert found is not None
            self.assertEqual(found.hex(), root)
            self.assertEqual(last, found)

    def test_no_leaves(self) -> None:
        self.assertIsNone(Tree().root())
        self.assertEqual(TreeDigest().digest(), blake3(b"").digest())


class PieceTests(SynchronousTestCase):
    def test_where_pieces_are(self) -> None:
        piece = PIECE_SIZE
        for offset, size, found in (
            (0, 0, []),
            (5, 0, []),
            (0, 1, [(0, 1)]),
            (0, piece, [(0, piece)]),
            (0, piece + 1, [(0, piece), (piece, piece + 1)]),
            (piece - 1, 2, [(0, 1), (1, 2)]),
            (piece - 1, 1, [(0, 1)]),
            (3 * piece + 9, piece, [(0, piece - 9), (piece - 9, piece)]),
        ):
            self.assertEqual(bounds(offset, size), found)
            self.assertEqual(count_pieces(offset, size), len(found))

    def test_a_tree_by_hand(self) -> None:
        image = random.Random(5).randbytes(2 * PIECE_SIZE + 77)
        leaves = [
            blake3(image[at : at + PIECE_SIZE] + b"\x00").digest()
            for at in range(0, len(image), PIECE_SIZE)
        ]
        self.assertEqual(digest_pieces(memoryview(image), 0), leaves)
        root = join(join(leaves[0], leaves[1]), leaves[2])
        self.assertEqual(
            root,
            blake3(blake3(leaves[0] + leaves[1] + b"\x01").digest() + leaves[2] + b"\x01").digest(),
        )
        digest = TreeDigest()
        digest.update(memoryview(image))
        self.assertEqual(digest.digest(), root)

    def test_known_fragments_or_none(self) -> None:
        """Whatever parts an image comes in, and whether their pieces are digested already."""
        draw = random.Random(6)
        image = memoryview(draw.randbytes(5 * PIECE_SIZE + 4321))
        whole = Digester("tree", "sha256")
        whole.update([image])
        for _ in range(20):
            digester = Digester("tree", "sha256")
            at = 0
            while at < len(image):
                part = image[at : at + draw.choice((1, 1000, PIECE_SIZE, 3 * PIECE_SIZE + 5))]
                if draw.random() < 0.5:
                    digester.update([part])
                else:
                    digester.take(part, digest_pieces(part, at))
                at += len(part)
            self.assertEqual(digester.values(), whole.values())

    def test_a_leaf_is_no_node(self) -> None:
        """64 bytes that are two digests are not the tree of the two."""
        left, right = blake3(b"a").digest(), blake3(b"b").digest()
        (leaf,) = digest_pieces(memoryview(left + right), 0)
        self.assertNotEqual(leaf, join(left, right))
