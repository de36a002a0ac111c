"""What the documentation says is what the code does: examples, tables, options, links."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from bench.results import load
from bench.scaling import PAGE, PICTURE, filled
from fuzz import recorded
from kollacast.client.terms import of_greeting, of_group_info
from kollacast.command.client_options import ClientOptions
from kollacast.command.server_options import ServerOptions
from kollacast.command.service import write_report
from kollacast.files.tree_digest import digest_pieces
from kollacast.operator.config import ServerConfig
from kollacast.operator.outcome import Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.repair.xor import combine
from kollacast.sending.plan import offer
from kollacast.server.credentials import Credentials
from kollacast.wire import recipes
from kollacast.wire.checksum import crcmod_engine
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import (
    Challenge,
    Greeting,
    GroupInfo,
    Hello,
    Response,
    encode_json,
)
from kollacast.wire.messages import (
    BufferCtl,
    Control,
    Credit,
    Notice,
    Repaired,
    Request,
    Sent,
    encode_sealed,
)
from kollacast.wire.parity import ParityRun, orders, places
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.proof import Agreement
from kollacast.wire.recipes import control_seq, parity_seq, pieces_seq
from kollacast.wire.signature import Signer
from kollacast.wire.structures import Tag
from tests import vectors
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase

_CHECKOUT = Path(__file__).resolve().parents[1]
_PAGES = (
    "README.md",
    "docs/options.md",
    "docs/protocol.md",
    "docs/architecture.md",
    "docs/failures.md",
    "docs/kolla.md",
    "docs/reading.md",
    "docs/scaling.md",
    "docs/security.md",
)
_SALT = 1802464364


def _page(name: str) -> str:
    return (_CHECKOUT / name).read_text("utf-8")


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in ``text``."""
    for line in text.splitlines():
        if line.startswith("| ") and line.endswith("|"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def _section(text: str, heading: str) -> str:
    """From the line ``heading`` to the next heading of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    [_, rest] = re.split(f"^{re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


class ExampleTests(SynchronousTestCase):
    """The examples of docs/protocol.md, byte by byte."""

    def setUp(self) -> None:
        self.codec = KOLLACAST.codec(_SALT, crcmod_engine())
        # The key of the examples is the bytes 0 to 31.
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        with mock.patch.object(Ed25519PrivateKey, "generate", return_value=key):
            self.signer = Signer()
        self.buffer = PacketBuffer(1460, 3)
        self.buffer.payload[: len(vectors.IMAGE)] = vectors.IMAGE
        self.ctl = self.buffer.announce(1, 0, len(vectors.IMAGE))
        payloads = self.buffer.slots(0, 3)
        self.codec.seal(self.buffer.headers, 0, 0, payloads)
        self.datagrams = [bytes(self.buffer.vector(i, 1)[0]) + payloads[i] for i in range(3)]

    def signed(self, seq: int, data: bytes) -> tuple[str, bytes]:
        """A packet beside the image's."""
        data = self.signer.sign(seq, data)
        return "udp", self.codec.sealed(seq, [memoryview(data)]) + data

    def control(self, number: int, *notices: Notice) -> tuple[str, bytes]:
        """A control packet."""
        return self.signed(control_seq(number), Control(1, 1, notices).data(KOLLACAST))

    def repaired(self, repaired: Repaired) -> tuple[str, bytes]:
        """The control packet behind coded repairs of the first buffer."""
        end = BufferCtl(2, 0, 3, 0)
        return self.control(4, self.ctl, end, Sent(1, 3), Sent(2, 0), repaired)

    def assertShown(self, name: str, expected: Sequence[tuple[str, bytes]]) -> None:
        """The example shows these messages, each in full unless it says otherwise."""
        shown = recorded.example(name)
        cut = [
            (who, data[: len(part)] if goes_on else data)
            for (who, data), (_, part, goes_on) in zip(expected, shown, strict=True)
        ]
        self.assertEqual([(who, part) for who, part, _ in shown], cut)

    def test_kollacast(self) -> None:
        greeting = Greeting(
            session="0f1e2d3c4b5a6978",
            salt=_SALT,
            group="239.238.0.31",
            port=18383,
            mtu=1500,
            buffer_packets=4309,
            window=4,
            digest="sha256",
            source="10.0.0.1",
            pieces=True,
            control_key=self.signer.public.hex(),
            coding=True,
            name="image.tgz",
            size=2926,
        )
        [tree] = digest_pieces(memoryview(vectors.IMAGE), 0)
        report = encode_json({"ok": True, "tree": tree.hex(), "packets_multicast": 2})
        packet = encode_sealed(KOLLACAST, self.buffer.headers, [1], self.buffer.slots(1, 1))
        end = BufferCtl(2, 0, 3, 0)
        notices = (self.ctl, end, Sent(1, 3), Sent(2, 0))
        control = [self.control(n, *notices[: n + 1]) for n in range(4)]
        pieces = Pieces(1, 0, tuple(digest_pieces(memoryview(vectors.IMAGE), 0)))
        told = [self.signed(pieces_seq(n), pieces.data(KOLLACAST)) for n in range(2)]
        self.assertShown(
            "kollacast",
            [
                ("S>C", greeting.encode()),
                ("C>S", Hello("host-1", 45964, coding=True, room=4).encode()),
                ("S>C", Control(1, 1, (self.ctl,)).encode(KOLLACAST)),
                *control[:2],
                told[0],
                *(("udp", datagram) for datagram in self.datagrams),
                told[1],
                *control[2:],
                ("S>C", bytes((Tag.DIGEST,)) + hashlib.sha256(vectors.IMAGE).digest()),
                ("C>S", Request((1,)).encode(KOLLACAST)),
                ("S>C", packet),
                ("C>S", Credit(1, 5, 1, 1).encode(KOLLACAST)),
                ("C>S", Credit(2, 6).encode(KOLLACAST)),
                ("C>S", bytes((Tag.REPORT,)) + report),
            ],
        )

    def test_pieces(self) -> None:
        """What a client asks for that has heard neither of them."""
        pieces = Pieces(1, 0, tuple(digest_pieces(memoryview(vectors.IMAGE), 0)))
        self.assertShown(
            "pieces",
            [("C>S", Want(1).encode(KOLLACAST)), ("S>C", pieces.encode(KOLLACAST))],
        )

    def test_secret(self) -> None:
        secret, agreement = b"a secret of this room", Agreement("00112233", "44556677", b"Z" * 32)
        proof = agreement.proof(secret, "client").hex()
        challenge = Challenge("hmac-sha256", agreement.server_nonce)
        response = Response(agreement.client_nonce, proof)
        self.assertShown("secret", [("S>C", challenge.encode()), ("C>S", response.encode())])
        shown = f'"proof":"{agreement.proof(secret, "server").hex()}"'
        self.assertIn(
            f"The greeting then has `{shown}`.", " ".join(_page("docs/protocol.md").split())
        )

    def test_coding(self) -> None:
        [recipe] = recipes.pack([[1, 2]], 0, 1460)
        combination = combine(self.buffer.slots(1, 2), 1460)
        packets = ((recipes.recipe_seq(0), recipe), (recipes.combination_seq(0), combination))
        self.assertShown(
            "coding",
            [
                *(("udp", self.codec.sealed(s, [memoryview(data)]) + data) for s, data in packets),
                self.repaired(Repaired(1)),
            ],
        )

    def test_parity(self) -> None:
        run = ParityRun(parity_seq(0), 1, 5)
        payloads = self.buffer.slots(0, 3)
        drawn = [order[places(run, 3, 0)] for order in orders(run, 3)]
        data = combine([payloads[slot] for order in drawn for slot in order], 1460)
        datagram = self.codec.sealed(run.first, [memoryview(data)]) + data
        repaired = self.repaired(Repaired(1, run.first, run.count, run.layers))
        self.assertShown("parity", [("udp", datagram), repaired])

    def test_jasmine(self) -> None:
        server = [("S>C", data) for data, _ in vectors.JASMINE_SERVER]
        client = [("C>S", data) for data, _ in vectors.JASMINE_CLIENT]
        udp = [
            ("udp", header + vectors.IMAGE[1460 * slot :][:1460])
            for slot, header in enumerate(vectors.HEADERS)
        ]
        self.assertShown(
            "jasmine",
            [
                *server[:2],
                client[0],
                *reversed(udp),
                server[2],
                client[1],
                server[3],
                client[2],
                server[4],
                client[3],
                server[5],
                client[4],
            ],
        )


class ProtocolTests(SynchronousTestCase):
    """The tables of docs/protocol.md."""

    def test_messages(self) -> None:
        table = {
            row[1]: int(row[0], 16)
            for row in _rows(_section(_page("docs/protocol.md"), "## Structures"))
            if row[0].startswith("0x")
        }
        self.assertEqual(table, {f"`{tag.name}`": tag.value for tag in Tag})

    def test_json_keys(self) -> None:
        section = _section(_page("docs/protocol.md"), "### Greeting and hello")
        greeting, hello = section.split("| hello |")
        for text, kind in ((greeting, Greeting), (hello, Hello)):
            keys = [key for row in _rows(text) for key in re.findall(r"`(\w+)`", row[0])]
            self.assertEqual(keys, ["version", *kind.__dataclass_fields__])


class ReadmeTests(MemoryTestCase):
    """What README and docs/options.md say of the two command lines."""

    def _check_options(self, heading: str, options: Any) -> None:
        rows = {
            row[0].strip("`").split()[0]: row
            for row in _rows(_section(_page("docs/options.md"), heading))
            if row[0].startswith("`--")
        }
        offered = set(re.findall(r"^ +(--[\w-]+)", options.getUsage(), re.MULTILINE))
        self.assertEqual(set(rows) | {"--help", "--version"}, offered)
        for name, _, default, *_ in options.optParameters:
            if default is not None:
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                self.assertIn(shown, rows[f"--{name}"][1].split(), name)

    def test_receive_buffer(self) -> None:
        """What README has the kernel allow is what a client asks for with the defaults."""
        [allowed] = re.findall(r"net\.core\.rmem_max=(\d+)", _page("README.md"))
        config = ServerConfig("127.0.0.1", 1, 18383, "239.238.0.31", 8, 1500)
        greeting = Credentials(config, offer(config, crcmod_engine(), None, None), None).greeting
        assert isinstance(greeting, Greeting)
        self.assertEqual(of_greeting(greeting).shape.unread_bytes, int(allowed))
        jasmine = of_group_info(GroupInfo("224.238.0.31", 18383))
        self.assertEqual(jasmine.shape.unread_bytes, int(allowed))

    def test_server_options(self) -> None:
        self._check_options("## Options of the server", ServerOptions())

    def test_client_options(self) -> None:
        self._check_options("## Options of the client", ClientOptions())

    def test_exit_statuses(self) -> None:
        section = _section(_page("README.md"), "## Exit statuses")
        statuses = {int(row[0]) for row in _rows(section) if row[0].isdecimal()}
        self.assertEqual(statuses, set(Status))

    def test_report(self) -> None:
        """The example has what a server's report has, in that order, and of each client."""
        [example] = re.findall(r"```json\n(.*?)```", _page("docs/options.md"), re.DOTALL)
        shown = json.loads(example)
        network = Network()
        server = network.serve(b"image", clients=1)
        network.join()
        network.settle()
        path = self.mktemp()
        write_report(path, server.finish())
        report = json.loads(Path(path).read_text("utf-8"))
        self.assertEqual(list(shown), list(report))
        [client] = report["clients"]
        for entry in shown["clients"]:
            self.assertEqual(list(entry), list(client))

    def test_make_targets(self) -> None:
        makefile = _page("Makefile")
        targets = set(re.findall(r"\bmake ([a-z]+)", _page("README.md")))
        self.assertLessEqual({"demo", "test"}, targets)
        for target in targets:
            self.assertRegex(makefile, rf"(?m)^{target}:")


class FailuresTests(SynchronousTestCase):
    """The tests that docs/failures.md names, and docs/security.md."""

    def setUp(self) -> None:
        self.page = _page("docs/failures.md")

    def test_they_exist(self) -> None:
        pages = self.page + _page("docs/security.md")
        named = set(re.findall(r"`(test_\w+)\.(test_\w+)`", pages))
        self.assertTrue(named)
        for module, test in sorted(named):
            text = _page(f"tests/{module}.py")
            self.assertRegex(text, rf"(?m)^(?:    )?(?:async )?def {test}\(", f"{module}.{test}")

    def test_every_promise_has_one(self) -> None:
        promises = [row for row in _rows(self.page) if "shown by" not in row and len(row) == 3]
        self.assertTrue(promises)
        for row in promises:
            if set(row[0]) != {"-"}:
                self.assertRegex(row[2], r"^`test_\w+\.test_\w+`", row[1])


class ScalingTests(SynchronousTestCase):
    """The tables of docs/scaling.md are those of the results."""

    def test_they_are_rendered(self) -> None:
        results = _CHECKOUT / "bench" / "results"
        picture = f"../bench/results/{PICTURE}"
        page = _page("docs/scaling.md")
        self.assertEqual(PAGE, _CHECKOUT / "docs" / "scaling.md")
        self.assertEqual(page, filled(page, load(results / "benchmark.json"), picture))


class LinkTests(SynchronousTestCase):
    """A link between pages and files leads somewhere."""

    def test_links(self) -> None:
        for name in _PAGES:
            targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", _page(name))
            self.assertTrue(targets, name)
            for target in targets:
                path = (_CHECKOUT / name).parent / target
                self.assertTrue(path.exists(), f"{name}: {target}")
