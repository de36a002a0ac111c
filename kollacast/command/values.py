"""From the words of a command line to values: numbers, addresses, durations, rates.

Each parser takes what an option or argument is called and the text that was given. It returns the
value, or raises `UsageError` with a line that names the option, the text and what would do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

from twisted.python.usage import UsageError

from kollacast.files.digest import DIGEST_SIZE, KNOWN_DIGESTS, ExpectedDigest

#: Listens on whatever addresses this host has.
ALL_ADDRESSES = "0.0.0.0"
#: Listens for this host alone.
LOOPBACK = "127.0.0.1"
#: No more digits than make sense, and than Python takes.
_NUMBER = r"\d{1,30}(?:\.\d{1,30})?"
_DURATION = re.compile(rf"({_NUMBER}|\.\d{{1,30}})\s*(s|m|h)?", re.ASCII)
_DURATION_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600}
_RATE = re.compile(rf"({_NUMBER})\s*([kmg]?)(?:bit(?:s|/s)?|bps)?", re.ASCII | re.IGNORECASE)
_RATE_UNITS_BPS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgt]?)b?", re.ASCII | re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_HEX = re.compile(rf"[0-9a-fA-F]{{{2 * DIGEST_SIZE}}}", re.ASCII)
_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?"
)
#: Characters of a host's name: as many as a client's hello may have.
_LONGEST_NAME = 200


def integer(what: str, text: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    number = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else None
    if number is None or not least <= number <= most:
        raise UsageError(f"{what} {text!r}: must be a whole number from {least} to {most}")
    return number


def duration_s(what: str, text: str, least_s: float, most_s: float = 30 * 86400) -> float:
    """Seconds, or a number with the unit s, m or h."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _DURATION_UNITS_S[match[2] or ""] if match else -1.0
    if not least_s <= seconds <= most_s:
        raise UsageError(
            f"{what} {text!r}: must be seconds, as in 90, 30s or 5m,"
            f" from {least_s:g}s to {most_s / 3600:g}h"
        )
    return seconds


def rate_bps(what: str, text: str, least_bps: int, most_bps: int) -> int | None:
    """Bits a second, with k, M or G for powers of 1000; None for "auto"."""
    if text.strip().lower() == "auto":
        return None
    match = _RATE.fullmatch(text.strip())
    rate = round(Fraction(match[1]) * _RATE_UNITS_BPS[match[2].lower()]) if match else -1
    if not least_bps <= rate <= most_bps:
        raise UsageError(
            f"{what} {text!r}: must be bits a second, as in 500M or 1.5G,"
            f" from {least_bps // 1000}k to {most_bps // 10**9}G, or auto"
        )
    return rate


def size_bytes(what: str, text: str, least_bytes: int, most_bytes: int) -> int:
    """Bytes, with k, M, G or T for powers of 1000."""
    match = _SIZE.fullmatch(text.strip())
    size = round(Fraction(match[1]) * _SIZE_UNITS[match[2].lower()]) if match else -1
    if not least_bytes <= size <= most_bytes:
        raise UsageError(f"{what} {text!r}: must be bytes, as in 500M or 20G")
    return size


def per_cent(what: str, text: str) -> float:
    """A part of a whole, from 0 to 90 per cent."""
    match = re.fullmatch(rf"({_NUMBER})\s*%?", text.strip(), re.ASCII)
    if match is None or float(match[1]) > 90:
        raise UsageError(f"{what} {text!r}: must be per cent, as in 5 or 2.5, from 0 to 90")
    return float(match[1])


def expected_digest(what: str, text: str) -> ExpectedDigest:
    """The digest that an image must have, as ``ALGORITHM:HEX``, the way registries write one."""
    name, _, digits = text.strip().partition(":")
    if name not in KNOWN_DIGESTS or not _HEX.fullmatch(digits):
        raise UsageError(
            f"{what} {text!r}: must be {', '.join(KNOWN_DIGESTS[:-1])} or {KNOWN_DIGESTS[-1]}, a"
            f" colon and {2 * DIGEST_SIZE} hexadecimal digits, as in sha256:9f86d0…"
        )
    return ExpectedDigest(name, bytes.fromhex(digits))


def one_of(what: str, text: str, choices: Sequence[str]) -> str:
    """One of a few words."""
    if text not in choices:
        raise UsageError(f"{what} {text!r}: must be one of {', '.join(choices)}")
    return text


def interface_address(what: str, text: str) -> str:
    """The IPv4 address that a network interface may have."""
    address = _ipv4(text)
    if address is None:
        raise UsageError(f"{what} {text!r}: must be an IPv4 address, as in 10.0.0.1")
    if address.is_unspecified:
        raise UsageError(f"{what} {text!r}: must be the address of one interface, not of all")
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise UsageError(f"{what} {text!r}: must be the address of one interface, not a group")
    return str(address)


def listen_address(what: str, text: str) -> str:
    """The IPv4 address of an interface, or that of all."""
    return text if text == ALL_ADDRESSES else interface_address(what, text)


def multicast_group(what: str, text: str) -> str:
    """An IPv4 multicast address."""
    address = _ipv4(text)
    if address is None or not address.is_multicast:
        raise UsageError(
            f"{what} {text!r}: must be a multicast address, 224.0.0.0 to 239.255.255.255"
        )
    return str(address)


def host(what: str, text: str) -> str:
    """The IPv4 address or the name of one host."""
    address = _ipv4(text)
    if address is not None:
        if address.is_unspecified or address.is_multicast:
            raise UsageError(f"{what} {text!r}: must be the address of one host")
        return str(address)
    looks_like_an_address = re.fullmatch(r"[0-9.]+", text) is not None
    if looks_like_an_address or not _HOST_NAME.fullmatch(text):
        raise UsageError(f"{what} {text!r}: must be an IPv4 address or a host name")
    return text


def host_names(what: str, text: str) -> frozenset[str]:
    """The names of hosts, one a line; what is behind a # is for people."""
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise UsageError(
                f"{what}: line {number} is no name of up to {_LONGEST_NAME} printable characters"
            )
        if name in names:
            raise UsageError(f"{what}: line {number} names {name} once more")
        names.add(name)
    return frozenset(names)


def networks(what: str, text: str) -> tuple[ipaddress.IPv4Network, ...]:
    """Addresses and networks, with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    try:
        around = [ipaddress.IPv4Network(part, strict=False) for part in parts]
    except ValueError:
        raise UsageError(
            f"{what} {text!r}: must be addresses or networks, as in 10.0.0.7,10.0.1.0/24"
        ) from None
    for part, network in zip(parts, around, strict=True):
        address, slash, _ = part.partition("/")
        if slash and address != str(network.network_address):
            raise UsageError(
                f"{what} {text!r}: {part} is one host in a network; say {address} for the"
                f" host, {network} for the network"
            )
    return tuple(around)


def listen_address_and_port(what: str, text: str) -> tuple[str, int]:
    """A port, and the address to listen at, as ``ADDRESS:PORT`` or, for loopback, ``PORT``."""
    address, colon, number = text.strip().rpartition(":")
    if not re.fullmatch(r"\d{1,5}", number, re.ASCII) or not 1 <= int(number) <= 65535:
        raise UsageError(
            f"{what} {text!r}: must be a port from 1 to 65535, as in 8080, or the address of one"
            " interface and a port, as in 10.0.0.1:8080"
        )
    return listen_address(what, address) if colon else LOOPBACK, int(number)


def host_and_port(what: str, text: str) -> str:
    """One host and a port of its, as ``host:port``."""
    name, colon, number = text.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", number, re.ASCII):
        raise UsageError(f"{what} {text!r}: must be host:port, as in registry.example:4000")
    if not 1 <= int(number) <= 65535:
        raise UsageError(f"{what} {text!r}: the port must be from 1 to 65535")
    return f"{host(what, name)}:{int(number)}"


def label(what: str, text: str, most_bytes: int) -> str:
    """A short printable text."""
    if not text.strip() or not text.isprintable() or len(text.encode()) > most_bytes:
        raise UsageError(f"{what} {text!r}: must be printable, 1 to {most_bytes} bytes")
    return text


@contextmanager
def refusing(what: str, remedy: str = "") -> Iterator[None]:
    """Within it an OSError becomes a `UsageError`: `what` cannot be, why, and what to do then."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}{remedy}") from None


def _ipv4(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None
