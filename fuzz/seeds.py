"""Where the search begins: for each target the recorded sessions in the form that it takes."""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
from collections.abc import Iterator

from fuzz import image_files, recorded
from kollacast.repair.xor import combine
from kollacast.wire import parity, recipes
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Challenge, Greeting, Hello, Response
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Detach,
    Digest,
    Fetch,
    Packet,
    Repaired,
    Report,
    Request,
    Sent,
)
from kollacast.wire.recipes import parity_seq
from kollacast.wire.tagged import TaggedMessage

#: What opens a session of the kollacast dialect.
_GREETING = Greeting("ab12", 7, "239.1.2.3", 4000, 1500, 4, 2, "sha256", coding=True, fetch=True)
_HELLO = Hello("host-1", 4, coding=True, fetch=True)
_CONTROLS = (
    Control(1, 1, (BufferCtl(1, 80, 0, 2), BufferCtl(2, 30, 2, 1))),
    Control(1, 3, (Sent(1, 2), Repaired(1), Sent(2, 0))),
    Control(6, 6, ()),
    Control(6, 7, (BufferCtl(3, 0, 3, 0),)),
)
_FROM_SERVER = (
    *_CONTROLS,
    Packet(1, 2, b"abc"),
    Digest(bytes(32)),
    Report({"ok": True}),
    BufferCtl(3, 0, 3, 0),
    Detach(),
)
_FROM_CLIENT = (
    Credit(0, 2),
    Ask(0),
    Request((0, 2)),
    Credit(1, 3, 5, 2),
    Fetch(4, 7),
    Detach(),
    Report({"ok": False, "reason": "no space"}),
)


def of(target: str) -> list[bytes]:
    """The first inputs of a target."""
    return list(_SEEDS[target])


def _streams(who: str, *names: str) -> list[bytes]:
    """One side of the examples, whole, and cut off after each message."""
    seeds = []
    for name in names:
        said = recorded.messages(name, who)
        seeds += [b"".join(said[:count]) for count in range(1, len(said) + 1)]
    return seeds


def _said(opening: bytes, messages: tuple[TaggedMessage, ...]) -> list[bytes]:
    """One side of a session: all of it, and each message alone behind the opening."""
    said = [message.encode(KOLLACAST) for message in messages]
    return [opening + b"".join(said), *(opening + message for message in said)]


def _json() -> Iterator[bytes]:
    """The texts of the example, without their lengths."""
    for who in ("S>C", "C>S"):
        for message in recorded.messages("kollacast", who):
            start = message.find(b"{")
            if start >= 0:
                yield message[start:]
    yield _GREETING.encode()[8:]
    yield _HELLO.encode()[4:]
    yield b'{"refused":"the session has ended"}'
    yield b'{"refused":"it speaks TLS","tls":true}'
    yield Challenge("hmac-sha256", "00aa").encode()[8:]
    yield Response("00aa", "0b" * 32).encode()[4:]


def _datagrams() -> Iterator[bytes]:
    """A whole delivery, and some in which coded packets mend a loss."""
    lost = (3, 12)
    packets = [_sealed(seq, bytes((seq,)) * 40) for seq in range(34)] + [_sealed(34, bytes(33))]
    yield b"".join(packets)
    [recipe] = recipes.pack([lost], 0, 40)
    mix = combine([memoryview(bytes((seq,)) * 40) for seq in lost], 40)
    mend = [_sealed(0xC0, recipe), _sealed(0x80, mix)]
    yield b"".join([p for seq, p in enumerate(packets) if seq != 3] + mend)
    yield b"".join([p for seq, p in enumerate(packets) if seq not in lost] + list(_parity()))
    yield b"".join([*packets[:20], b"\x03\x00", *packets[10:30]])
    word = _CONTROLS[0].data(KOLLACAST)[:40]
    yield b"".join([*packets[:20], _sealed(0xE0, word), *packets[20:], _sealed(0xE1, word[:8])])
    shown = [data[:52] for who, data, _ in recorded.example("jasmine") if who == "udp"]
    yield b"".join(b"\x00" + bytes((len(data),)) + data for data in shown)


def _parity() -> Iterator[bytes]:
    """Parity of the first buffer, which mends what is lost of it: six packets in five layers."""
    run = parity.ParityRun(parity_seq(0), 6, 5)
    drawn = list(parity.orders(run, 20))
    for number in range(6):
        part = parity.places(run, 20, number)
        slots = [slot for order in drawn for slot in order[part] if slot < 20]
        mix = combine([memoryview(bytes((slot,)) * 40) for slot in slots], 40)
        yield _sealed(0xA0 + number, mix)
    yield bytes((2, 3, 0, 6, 4))


def _sealed(seq: int, payload: bytes) -> bytes:
    return bytes((1, 1 + len(payload), seq)) + payload


def _control_streams() -> Iterator[bytes]:
    """Records of :mod:`fuzz.control_stream`."""
    begins = _record(3, 1, 1)
    yield begins
    # heard by multicast, with repetitions and a gap that TCP fills
    yield begins + b"".join(
        [_record(1, 1, 2), _record(1, 1, 4, 0), _record(1, 7, 2, 6), _record(3, 5, 2, 3)]
    )
    # silence, told by TCP for as long as that lasts
    yield begins + _record(0, 250) + _record(3, 2, 1) + _record(0, 250) + _record(3, 3, 2)
    # noise, nonsense, and forged numbers, at the end of them
    yield begins + _record(2, *b"noise") + _record(1, 1, 5, 0, 0, 2) + _record(2, *bytes(8))
    yield _record(3, 195, 4, 0, 1) + _record(1, 195, 5, 9, 1) + _record(0, 90)
    yield b"".join(_record(4, *control.data(KOLLACAST)) for control in _CONTROLS)


def _record(kind: int, *body: int) -> bytes:
    return bytes((kind, len(body), *body))


def _archives() -> Iterator[bytes]:
    """Whole images, and the attacks on what unpacks them."""
    layer, config = b"layer", b'{"of":"one"}'
    parts = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (config, layer)]
    fields = {
        "schemaVersion": 2,
        "config": {"digest": parts[0]},
        "layers": [{"digest": parts[1]}],
    }
    manifest = json.dumps(fields, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    file = tarfile.REGTYPE
    blobs = b"".join(image_files.record(file, "", data, 1) for data in (config, layer, manifest))
    places = [f"_layers/{part.replace(':', '/')}" for part in parts]
    places += [f"_manifests/revisions/{digest.replace(':', '/')}", "_manifests/tags/t/current"]
    links = [
        image_files.record(file, f"a/{place}/link", content.encode(), 2)
        for place, content in zip(places, [*parts, digest, digest], strict=True)
    ]
    image = blobs + b"".join(links)
    yield image
    yield image + links[0] + blobs
    yield blobs + b"".join(links[:-1])
    tag = "_manifests/tags/t/current/link"
    deep, long = b"29 path=" + b"a/" * 10 + b"\n", b"a/" * 120
    yield image_files.record(tarfile.XHDTYPE, "", deep) + image_files.record(file, "", b"")
    # a path of many folders, of one kind of header and the other
    for flags in (0, 1):
        name = image_files.record(tarfile.GNUTYPE_LONGNAME, "", long, 0, flags)
        yield name + image_files.record(file, "", b"") + image
    # a repository in many folders, again and again
    yield image + b"".join(
        image_files.record(file, f"{number}/{'a/' * 60}{tag}", digest.encode(), 2)
        for number in range(20)
    )
    # records that reach into each other, and records for all members
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        yield image_files.record(kind, "", b"2 ", 0, 1) + image_files.record(file, "", b"")
        yield (
            image_files.record(kind, "", b"5 a=\n" * 30) + image_files.record(file, "", b"") + image
        )
    # zeros that are not in it
    holes = b"26 GNU.sparse.map=99999,0\n25 GNU.sparse.size=99999\n"
    yield image_files.record(tarfile.XHDTYPE, "", holes) + image_files.record(file, "x", b"")
    yield image_files.record(file, "zeros", bytes(255), 0, 1) + image
    # a size that is not that of the content, and an archive that does not end
    yield image_files.record(file, "", b"layer", 1, 2) + image
    yield image[:-30] + bytes((0, 0, 4))


def _manifests() -> Iterator[bytes]:
    """A manifest, an index, a record, and what is too deep or too much."""
    digest = "sha256:" + "ab" * 32
    named = [{"digest": digest, "size": 5}]
    for fields in (
        {"schemaVersion": 2, "config": named[0], "layers": named},
        {"schemaVersion": 2, "manifests": named},
        {"schemaVersion": 1, "fsLayers": [{"blobSum": digest}]},
        {"schemaVersion": 2, "layers": [{"digest": digest, "urls": ["x"]}]},
    ):
        yield json.dumps(fields).encode()
    image = {"repository": "a/b", "tag": "t", "digest": digest, "bytes": 5, "absent": [digest]}
    fields = {"digest": digest, "bytes": 5, "received_at": "2024", "images": [image]}
    yield json.dumps(fields).encode()
    yield b'{"schemaVersion":2,"layers":' + b"[" * 40 + b"]" * 40 + b"}"
    yield b'{"schemaVersion":2,"layers":[' + b"{}," * 100 + b"{}]}"
    yield b'{"schemaVersion":2,"' + b'"\\' * 100


_SEEDS = {
    "client_of_kollacast": [
        *_streams("C>S", "kollacast"),
        *_said(_HELLO.encode(), _FROM_CLIENT),
        recorded.messages("kollacast", "C>S")[0] + struct.pack("!B2IB", 0x12, 0, 65536, 0x14),
    ],
    "client_of_jasmine": _streams("C>S", "jasmine"),
    "server": [
        *_streams("S>C", "kollacast", "jasmine"),
        *_said(_GREETING.encode(), _FROM_SERVER),
    ],
    "introductions": list(_json()),
    "datagrams_of_kollacast": list(_datagrams()),
    "datagrams_of_jasmine": list(_datagrams()),
    "recipes": recipes.pack([[1, 2], [3, 4, 5]], 0, 40) + recipes.pack([[7, 8]], -1, 24),
    "control_parts": [control.data(KOLLACAST) for control in _CONTROLS],
    "control_reader": list(_control_streams()),
    "archives": list(_archives()),
    "manifests": list(_manifests()),
}
