"""Who speaks first: the greeting and the hello in JSON, and jasmine's group info.

Where both ends share a secret, a challenge and a response come before.  The JSON texts are where
later features are agreed on: unknown keys are ignored, known ones are checked before anything acts
on them.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import struct
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from kollacast.wire.structures import (
    GROUP_INFO_SIZE,
    KEY_SIZE,
    MAX_JSON_SIZE,
    MAX_MTU,
    MIN_MTU,
    SEQ_LIMIT,
    WireError,
)

#: Opens a kollacast server's greeting.
MAGIC = b"KCST"
#: Opens a jasmine server's group info: AF_INET of Linux as a little-endian u16.
GROUP_INFO_START = b"\x02\x00"

PROTOCOL_VERSION = 2

#: How TLS begins: a record with a handshake, of a version 3.x (RFC 8446, section 5.1).
_TLS_START = 0x1603
#: What is said of who speaks TLS to an end that does not.
TLS_UNEXPECTED = (
    "it speaks TLS, and this end does not: both have --token-file or --tls-dir, or none"
)

_MAX_TEXT = 200
_IDENTITY = re.compile(r"[0-9a-f]{0,64}")


@dataclass(frozen=True)
class GroupInfo:
    """Where a jasmine server multicasts to."""

    group: str
    port: int

    def encode(self) -> bytes:
        """A ``sockaddr_in`` as Linux lays it out."""
        return struct.pack("<H", 2) + struct.pack("!H4s8x", self.port, socket.inet_aton(self.group))

    @classmethod
    def decode(cls, data: bytes) -> GroupInfo:
        """Raise :class:`WireError` unless ``data`` names a multicast group."""
        if len(data) != GROUP_INFO_SIZE or data[:2] != GROUP_INFO_START:
            raise WireError("the server's group info is no IPv4 socket address")
        port, address = struct.unpack_from("!H4s", data, 2)
        return cls(group=_group(socket.inet_ntoa(address)), port=_number(port, "port", 1, 65535))


@dataclass(frozen=True)
class Challenge:
    """What a server says first that has a shared secret; ``nonce`` is fresh.

    ``auth`` names how both sides prove to know it.
    """

    auth: str
    nonce: str

    def encode(self) -> bytes:
        """The whole message, magic and length included."""
        return MAGIC + encode_json({"version": PROTOCOL_VERSION, **vars(self)})

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Challenge:
        """The challenge in this JSON."""
        _version(fields)
        return cls(clean_text(fields.get("auth")), _identity(fields.get("nonce", "")))


@dataclass(frozen=True)
class Response:
    """What a client answers to it: ``proof``, in hexadecimal digits, with its own ``nonce``."""

    nonce: str
    proof: str

    def encode(self) -> bytes:
        """The whole message, length included."""
        return encode_json({"version": PROTOCOL_VERSION, **vars(self)})

    @classmethod
    def decode(cls, data: bytes) -> Response:
        """The response in this JSON; :class:`WireError` where there is none."""
        fields = decode_json(data)
        _version(fields)
        return cls(_identity(fields.get("nonce")), _identity(fields.get("proof")))


@dataclass(frozen=True)
class Greeting:
    """What a kollacast server says of the session, to everyone who connects.

    ``salt`` seeds the packets' CRC; ``source`` is the address that multicast comes from, None
    where that is not known, and ``seal`` names how it is sealed, with ``seal_key`` in hexadecimal
    digits; ``size`` is the image's in bytes, None
    where it is not known; ``coding`` says that losses of several clients may
    be mended by one coded packet.

    With ``pieces``, every client is told the digests of all pieces of the image.  ``control_key``
    is the key, in hexadecimal digits, with which that and all else which is multicast to control
    the session is signed; empty where nothing is.

    ``fetch`` says that the server can read the image again for a client that
    is not in step with the others, and ``pull`` that this client has to be one
    and is not in step; unless there is ``late_join``, and it says so, too: then it
    is in step from the next announcement on.  Two greetings with the same ``image``
    are of one image cut in one way, whichever server sends them; empty where that is
    not known.
    ``failsafe`` is a registry (host:port) that has the image should all else fail.
    ``proof``, in hexadecimal digits, is the server's, where it has challenged the client.
    """

    session: str
    salt: int
    group: str
    port: int
    mtu: int
    buffer_packets: int
    window: int
    digest: str
    source: str | None = None
    pieces: bool = False
    control_key: str = ""
    seal: str | None = None
    seal_key: str = field(default="", repr=False)
    coding: bool = False
    name: str | None = None
    size: int | None = None
    fetch: bool = False
    pull: bool = False
    late_join: bool = False
    image: str = ""
    failsafe: str | None = None
    proof: str = ""

    def encode(self) -> bytes:
        """The whole message, magic and length included."""
        return MAGIC + encode_json({"version": PROTOCOL_VERSION, **vars(self)})

    @classmethod
    def decode(cls, data: bytes) -> Greeting | Challenge | Refusal:
        """The greeting in this JSON, or what came in its place or before.

        Raises :class:`WireError` where it is none of these.
        """
        fields = decode_json(data)
        if "refused" in fields:
            return Refusal(clean_text(fields["refused"]), fields.get("tls") is True)
        if fields.get("auth") is not None:
            return Challenge.of(fields)
        _version(fields)
        mtu = _number(fields.get("mtu"), "mtu", 0, MAX_MTU)
        if mtu < MIN_MTU:
            raise WireError(f"the peer's mtu {mtu} holds no packet")
        source = fields.get("source")
        seal = fields.get("seal")
        size = fields.get("size")
        name = fields.get("name")
        failsafe = fields.get("failsafe")
        return cls(
            session=clean_text(fields.get("session", "")),
            salt=_number(fields.get("salt"), "salt", 0, 0xFFFFFFFF),
            group=_group(fields.get("group")),
            port=_number(fields.get("port"), "port", 1, 65535),
            mtu=mtu,
            buffer_packets=_number(fields.get("buffer_packets"), "buffer_packets", 1, 65536),
            window=_number(fields.get("window"), "window", 1, 64),
            digest=clean_text(fields.get("digest", "")),
            source=None if source is None else _source(source),
            pieces=fields.get("pieces") is True,
            control_key=_key(fields.get("control_key", "")),
            seal=None if seal is None else clean_text(seal),
            seal_key=_identity(fields.get("seal_key", "")),
            coding=fields.get("coding") is True,
            name=None if name is None else clean_text(name),
            size=None if size is None else _number(size, "size", 0, 1 << 63),
            fetch=fields.get("fetch") is True,
            pull=fields.get("pull") is True,
            late_join=fields.get("late_join") is True,
            image=_identity(fields.get("image", "")),
            failsafe=None if failsafe is None else clean_text(failsafe),
            proof=_identity(fields.get("proof", "")),
        )


@dataclass(frozen=True)
class Refusal:
    """The server does not let this client in; ``reason`` says why.

    With ``tls``, that is said without TLS to somebody of whom the server has heard none.
    """

    reason: str
    tls: bool = False

    def encode(self) -> bytes:
        """The whole message, in place of a greeting."""
        return MAGIC + encode_json({"refused": self.reason} | ({"tls": True} if self.tls else {}))


@dataclass(frozen=True)
class Hello:
    """What a client answers: its name, how many packets it can hold, whether it decodes.

    ``fetch`` says that it can be told to fetch the image by itself, and
    ``pull`` that it is going to; with ``late_join`` only up to where multicast
    takes it up.  In step, it has ``room`` for so many buffers from the first one that it
    is told of, before it says so.  It has the first ``kept`` packets already.  ``run`` is
    the same on every connection of one run of a client.
    """

    name: str
    packets: int
    coding: bool = False
    fetch: bool = False
    pull: bool = False
    late_join: bool = False
    room: int = 0
    kept: int = 0
    run: str = ""

    def encode(self) -> bytes:
        """The whole message, length included."""
        return encode_json({"version": PROTOCOL_VERSION, **vars(self)})

    @classmethod
    def decode(cls, data: bytes) -> Hello:
        """The hello in this JSON; :class:`WireError` where there is none."""
        fields = decode_json(data)
        _version(fields)
        return cls(
            name=clean_text(fields.get("name", "")),
            packets=_number(fields.get("packets"), "packets", 1, 1 << 31),
            coding=fields.get("coding") is True,
            fetch=fields.get("fetch") is True,
            pull=fields.get("pull") is True,
            late_join=fields.get("late_join") is True,
            room=_number(fields.get("room", 0), "room", 0, 64),
            kept=_number(fields.get("kept", 0), "kept", 0, SEQ_LIMIT),
            run=_identity(fields.get("run", "")),
        )


def encode_json(fields: dict[str, Any]) -> bytes:
    """``fields`` as JSON behind its length (u32, network order)."""
    data = json.dumps(fields, separators=(",", ":")).encode()
    return struct.pack("!I", len(data)) + data


def length_prefixed(limit: int = MAX_JSON_SIZE) -> Generator[int, bytes, bytes]:
    """Read JSON behind its length: yields how many bytes it needs, and is sent them."""
    (length,) = struct.unpack("!I", (yield 4))
    if length >> 16 == _TLS_START:
        raise WireError(TLS_UNEXPECTED)
    if length > limit:
        raise WireError(f"{length} bytes of JSON are announced, {limit} is the limit")
    return (yield length)


def decode_json(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``; :class:`WireError` if there is none."""
    if len(data) > MAX_JSON_SIZE:
        raise WireError(f"{len(data)} bytes of JSON, {MAX_JSON_SIZE} is the limit")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("the peer's JSON cannot be read") from None
    if not isinstance(fields, dict):
        raise WireError("the peer's JSON is no object")
    return fields


def clean_text(value: object) -> str:
    """A peer's text as one printable line of bounded length."""
    if not isinstance(value, str):
        raise WireError("the peer sent something else where a text belongs")
    return "".join(c if c.isprintable() else "?" for c in value[:_MAX_TEXT])


def _version(fields: dict[str, Any]) -> None:
    version = _number(fields.get("version"), "version", 0, 0xFFFFFFFF)
    if version != PROTOCOL_VERSION:
        raise WireError(f"the peer speaks version {version}, this is version {PROTOCOL_VERSION}")


def _number(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WireError(f"the peer's {name} is not a number from {low} to {high}")
    return value


def _identity(value: object) -> str:
    if not isinstance(value, str) or _IDENTITY.fullmatch(value) is None:
        raise WireError("the peer sent something else where an identity belongs")
    return value


def _key(value: object) -> str:
    key = _identity(value)
    if len(key) not in (0, 2 * KEY_SIZE):
        raise WireError("the peer sent something else where a key belongs")
    return key


def _source(value: object) -> str:
    try:
        address = ipaddress.IPv4Address(clean_text(value))
    except ValueError:
        raise WireError("the peer's source is no IPv4 address") from None
    if address.is_multicast or address.is_unspecified:
        raise WireError(f"the peer's source {address} is no host's address")
    return str(address)


def _group(value: object) -> str:
    try:
        address = ipaddress.IPv4Address(clean_text(value))
    except ValueError:
        raise WireError("the peer's group is no IPv4 address") from None
    if not address.is_multicast:
        raise WireError(f"the peer's group {address} is not a multicast address")
    return str(address)
