"""Who speaks first: the greeting, the hello, and whatever else may come in their place."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire.greeting import (
    MAGIC,
    PROTOCOL_VERSION,
    Challenge,
    Greeting,
    GroupInfo,
    Hello,
    Refusal,
    Response,
    clean_text,
    decode_json,
    encode_json,
)
from kollacast.wire.structures import MAX_JSON_SIZE, WireError
from tests.vectors import GROUP_INFO, PROPERTY

GREETING = Greeting(
    session="00ff00ff00ff00ff",
    salt=0xDEADBEEF,
    group="239.238.0.31",
    port=18383,
    mtu=1500,
    buffer_packets=4309,
    window=4,
    digest="sha256",
    source="10.0.0.1",
    pieces=True,
    control_key="0123456789abcdef" * 4,
    seal="aes-128-gcm",
    seal_key="00112233445566778899aabbccddeeff",
    coding=True,
    name="kolla_image.tgz",
    size=5_000_000_000,
    fetch=True,
    pull=True,
    late_join=True,
    image="0123456789abcdef",
    failsafe="registry.example:4000",
    proof="00aa",
)

_FIELDS: dict[str, Any] = {
    "version": PROTOCOL_VERSION,
    "session": "00ff00ff00ff00ff",
    "salt": 0xDEADBEEF,
    "group": "239.238.0.31",
    "port": 18383,
    "mtu": 1500,
    "buffer_packets": 4309,
    "window": 4,
    "digest": "sha256",
    "source": "10.0.0.1",
    "pieces": True,
    "control_key": "0123456789abcdef" * 4,
    "seal": "aes-128-gcm",
    "seal_key": "00112233445566778899aabbccddeeff",
    "coding": True,
    "name": "kolla_image.tgz",
    "size": 5_000_000_000,
    "fetch": True,
    "pull": True,
    "late_join": True,
    "image": "0123456789abcdef",
    "failsafe": "registry.example:4000",
    "proof": "00aa",
}


class _Refused(unittest.SynchronousTestCase):
    def refused(self, decode: Any, data: bytes, pattern: str = "") -> None:
        """Every refusal is a WireError of one short line."""
        with self.assertRaisesRegex(WireError, pattern) as caught:
            decode(data)
        text = str(caught.exception)
        self.assertTrue(text.isprintable() and 0 < len(text) < 300, text)


class Greetings(_Refused):
    def greeting(self, **changes: Any) -> Greeting | Challenge | Refusal:
        return Greeting.decode(json.dumps({**_FIELDS, **changes}).encode())

    def not_greeted(self, pattern: str = "", **changes: Any) -> None:
        self.refused(Greeting.decode, json.dumps({**_FIELDS, **changes}).encode(), pattern)

    def test_the_bytes(self) -> None:
        message = GREETING.encode()
        self.assertEqual(message[:4], b"KCST")
        self.assertEqual(int.from_bytes(message[4:8], "big"), len(message) - 8)
        self.assertEqual(json.loads(message[8:]), _FIELDS)

    def test_there_and_back(self) -> None:
        self.assertEqual(Greeting.decode(GREETING.encode()[8:]), GREETING)
        unnamed = Greeting(**{**vars(GREETING), "name": None, "size": None})
        self.assertEqual(Greeting.decode(unnamed.encode()[8:]), unnamed)

    def test_unknown_keys_are_ignored(self) -> None:
        self.assertEqual(self.greeting(fec={"k": 32, "n": 40}, x=None), GREETING)

    def test_a_name_and_a_size_are_not_always_known(self) -> None:
        fields = {key: value for key, value in _FIELDS.items() if key not in ("name", "size")}
        greeting = Greeting.decode(json.dumps(fields).encode())
        assert isinstance(greeting, Greeting)
        self.assertIsNone(greeting.name)
        self.assertIsNone(greeting.size)

    def test_coding_is_agreed_on_by_nothing_but_true(self) -> None:
        for value in (None, False, 0, 1, "true", [True]):
            greeting = self.greeting(coding=value)
            assert isinstance(greeting, Greeting)
            self.assertIs(greeting.coding, False)
            fields = {"version": PROTOCOL_VERSION, "packets": 1, "coding": value}
            self.assertIs(Hello.decode(json.dumps(fields).encode()).coding, False)
        fields = {key: value for key, value in _FIELDS.items() if key != "coding"}
        self.assertEqual(Greeting.decode(json.dumps(fields).encode()), self.greeting(coding=False))

    def test_pieces_are_agreed_on_by_nothing_but_true(self) -> None:
        for value in (None, False, 1, "true"):
            greeting = self.greeting(pieces=value)
            assert isinstance(greeting, Greeting)
            self.assertIs(greeting.pieces, False)

    def test_a_control_key_is_one_or_none(self) -> None:
        self.assertIsInstance(self.greeting(control_key=""), Greeting)
        for value in (None, 7, "0" * 62, "0" * 66, "g" * 64):
            self.not_greeted("belongs", control_key=value)

    def test_every_other_key_must_be_there(self) -> None:
        for key in ("version", "salt", "group", "port", "mtu", "buffer_packets", "window"):
            fields = {name: value for name, value in _FIELDS.items() if name != key}
            self.refused(Greeting.decode, json.dumps(fields).encode(), key)

    def test_the_extremes_are_accepted(self) -> None:
        for key, value in (
            ("salt", 0),
            ("salt", 0xFFFFFFFF),
            ("port", 1),
            ("port", 65535),
            ("mtu", 144),
            ("mtu", 65535),
            ("buffer_packets", 1),
            ("buffer_packets", 65536),
            ("window", 1),
            ("window", 64),
            ("size", 0),
            ("group", "224.0.0.0"),
            ("group", "239.255.255.255"),
        ):
            greeting = self.greeting(**{key: value})
            self.assertEqual(getattr(greeting, key), value)

    def test_numbers_out_of_range(self) -> None:
        for key, value in (
            ("salt", -1),
            ("salt", 1 << 32),
            ("port", 0),
            ("port", 65536),
            ("mtu", -1),
            ("mtu", 67),
            ("mtu", 65536),
            ("buffer_packets", 0),
            ("buffer_packets", 1 << 40),
            ("window", 0),
            ("window", 65),
            ("size", -1),
            ("size", 10**40),
        ):
            self.not_greeted(key, **{key: value})

    def test_wrong_types(self) -> None:
        wrong: tuple[Any, ...] = (
            None,
            True,
            1.0,
            math.nan,
            math.inf,
            "1",
            "",
            [],
            [1],
            {},
            {"a": 1},
        )
        for key in ("salt", "port", "mtu", "buffer_packets", "window", "group", "version"):
            for value in wrong:
                self.not_greeted("", **{key: value})
        for key in ("session", "digest", "name"):
            for value in (True, 1, 1.5, [], {}):
                self.not_greeted("", **{key: value})
        for value in (True, 1.0, math.nan, "1", [], {}):
            self.not_greeted("size", size=value)

    def test_sources_that_are_none(self) -> None:
        for source in ("239.1.1.1", "0.0.0.0"):
            self.not_greeted("no host's address", source=source)
        others: tuple[Any, ...] = ("", "ff02::1", "10.0.0.1/8", "host", True, 1, [], {})
        for other in others:
            self.not_greeted("", source=other)
        greeting = self.greeting(source=None)
        assert isinstance(greeting, Greeting)
        self.assertIsNone(greeting.source)

    def test_groups_that_are_none(self) -> None:
        for group in ("10.0.0.1", "223.255.255.255", "240.0.0.0", "255.255.255.255", "0.0.0.0"):
            self.not_greeted("multicast", group=group)
        for group in ("", "ff02::1", "239.1.1", "239.1.1.1/24", "239.1.1.256", "239.1.1.1\n", "x"):
            self.not_greeted("group", group=group)

    def test_another_version_is_named(self) -> None:
        for version in (0, 1, 3, 10**9):
            self.not_greeted(f"speaks version {version}, this is version 2", version=version)
        for no_version in ("2", "\x1b[2J\n", [2], 10**3000, -(10**3000)):
            self.not_greeted("version", version=no_version)

    def test_names_become_one_printable_line(self) -> None:
        greeting = self.greeting(name="a\0b\n\x1b[31mc\u202e\ud800é" + "x" * 1000)
        assert isinstance(greeting, Greeting)
        assert greeting.name is not None
        self.assertTrue(greeting.name.startswith("a?b??[31mc??é"))
        self.assertTrue(greeting.name.isprintable())
        self.assertEqual(len(greeting.name), 200)
        greeting.name.encode()

    def test_any_name_of_a_file_gets_across(self) -> None:
        greeting = Greeting(**{**vars(GREETING), "name": "\udcff\n" * 127})
        decoded = Greeting.decode(greeting.encode()[8:])
        assert isinstance(decoded, Greeting)
        self.assertEqual(decoded.name, "?" * 200)

    def test_a_refusal_carries_its_reason(self) -> None:
        refusal = Refusal("all 3 clients are here already")
        message = refusal.encode()
        self.assertEqual(message[:4], MAGIC)
        self.assertEqual(Greeting.decode(message[8:]), refusal)

    def test_a_refusal_is_understood_whatever_its_version(self) -> None:
        data = json.dumps({"version": 99, "refused": "too\nold"}).encode()
        self.assertEqual(Greeting.decode(data), Refusal("too?old"))

    def test_a_refusal_that_gives_no_text(self) -> None:
        reasons: tuple[Any, ...] = (None, 1, [], {})
        for reason in reasons:
            self.refused(Greeting.decode, json.dumps({"refused": reason}).encode(), "text")

    def test_a_refusal_without_tls(self) -> None:
        refusal = Refusal("speak TLS", tls=True)
        self.assertEqual(Greeting.decode(refusal.encode()[8:]), refusal)


class Challenges(_Refused):
    """What comes before a greeting where both ends share a secret."""

    def test_there_and_back(self) -> None:
        challenge, response = Challenge("hmac-sha256", "00aa"), Response("ff", "0b" * 32)
        message = challenge.encode()
        self.assertEqual(
            json.loads(message[8:]), {"version": 2, "auth": "hmac-sha256", "nonce": "00aa"}
        )
        self.assertEqual(Greeting.decode(message[8:]), challenge)
        message = response.encode()
        self.assertEqual(json.loads(message[4:]), {"version": 2, "nonce": "ff", "proof": "0b" * 32})
        self.assertEqual(Response.decode(message[4:]), response)

    def test_what_is_none(self) -> None:
        challenge = {"version": 2, "auth": "hmac-sha256", "nonce": "00aa"}
        for changes in ({"version": 1}, {"auth": 1}, {"nonce": "é"}, {"nonce": 1}):
            self.refused(Greeting.decode, json.dumps({**challenge, **changes}).encode())
        response = {"version": 2, "nonce": "ff", "proof": "0b"}
        for key in response:
            fields = {name: value for name, value in response.items() if name != key}
            self.refused(Response.decode, json.dumps(fields).encode())
        self.refused(Response.decode, json.dumps({**response, "proof": "x"}).encode())


class Hellos(_Refused):
    def test_there_and_back(self) -> None:
        hello = Hello("node-17", 8192, coding=True, fetch=True, pull=True, kept=7, run="ab12")
        message = hello.encode()
        self.assertEqual(int.from_bytes(message[:4], "big"), len(message) - 4)
        self.assertEqual(
            json.loads(message[4:]),
            {
                "version": 2,
                "name": "node-17",
                "packets": 8192,
                "coding": True,
                "fetch": True,
                "pull": True,
                "late_join": False,
                "room": 0,
                "kept": 7,
                "run": "ab12",
            },
        )
        self.assertEqual(Hello.decode(message[4:]), hello)

    def test_unknown_keys_are_ignored_and_a_name_may_be_missing(self) -> None:
        data = b'{"version": 2, "packets": 1, "later": [1, {"a": null}]}'
        self.assertEqual(Hello.decode(data), Hello("", 1))

    def test_a_name_becomes_one_printable_line(self) -> None:
        fields = {"version": PROTOCOL_VERSION, "packets": 1, "name": "\x1b]0;x\x07\r\n\0"}
        data = json.dumps(fields).encode()
        self.assertEqual(Hello.decode(data).name, "?]0;x????")

    def test_nonsense(self) -> None:
        sense = {"version": PROTOCOL_VERSION, "packets": 1}
        for fields, pattern in (
            ({}, "version"),
            ({"version": PROTOCOL_VERSION}, "packets"),
            ({"packets": 1}, "version"),
            ({**sense, "packets": 0}, "packets"),
            ({**sense, "packets": -1}, "packets"),
            ({**sense, "packets": 1 << 40}, "packets"),
            ({**sense, "packets": 1e9}, "packets"),
            ({**sense, "packets": True}, "packets"),
            ({**sense, "room": -1}, "room"),
            ({**sense, "room": 65}, "room"),
            ({**sense, "room": "4"}, "room"),
            ({**sense, "kept": -1}, "kept"),
            ({**sense, "kept": 1 << 40}, "kept"),
            ({**sense, "name": ["x"]}, "text"),
            ({**sense, "name": None}, "text"),
        ):
            self.refused(Hello.decode, json.dumps(fields).encode(), pattern)

    def test_another_version_is_named(self) -> None:
        for version in (0, 1, 3):
            data = json.dumps({"version": version, "packets": 1}).encode()
            self.refused(Hello.decode, data, f"speaks version {version}, this is version 2")


class GroupInfos(_Refused):
    def test_there_and_back(self) -> None:
        info = GroupInfo("224.238.0.31", 18383)
        self.assertEqual(info.encode(), GROUP_INFO)
        self.assertEqual(GroupInfo.decode(GROUP_INFO), info)

    def test_the_last_eight_bytes_are_ignored(self) -> None:
        self.assertEqual(
            GroupInfo.decode(GROUP_INFO[:8] + b"\xff" * 8), GroupInfo("224.238.0.31", 18383)
        )

    def test_nonsense(self) -> None:
        address = GROUP_INFO[4:]
        for data, pattern in (
            (b"", "socket address"),
            (GROUP_INFO[:-1], "socket address"),
            (GROUP_INFO + b"\0", "socket address"),
            (b"\x0a\x00" + GROUP_INFO[2:], "socket address"),
            (b"\x02\x00\x00\x00" + address, "port"),
            (b"\x02\x00\x47\xcf\x0a\x00\x00\x01" + bytes(8), "10.0.0.1"),
            (b"\x02\x00\x47\xcf" + bytes(12), "multicast"),
        ):
            self.refused(GroupInfo.decode, data, pattern)


class Json(_Refused):
    def test_what_is_no_json_object(self) -> None:
        for data in (
            b"",
            b"{",
            b"[]",
            b"null",
            b"1",
            b'"x"',
            b"NaN",
            b"{}{}",
            b"\xff\xfe",
            b"\x00",
            b'{"a": "\xff"}',
            b'{"a": 1,}',
            b"1" * 60000,
            b'{"a": ' + b"1" * 60000 + b"z}",
        ):
            self.refused(decode_json, data)

    def test_64_kib_of_brackets(self) -> None:
        for bracket in (b"[", b'{"a":', b"[{}, ["):
            self.refused(decode_json, (bracket * MAX_JSON_SIZE)[:MAX_JSON_SIZE], "cannot be read")
        half = MAX_JSON_SIZE // 2
        self.refused(decode_json, b"[" * half + b"]" * half)

    def test_more_than_64_kib(self) -> None:
        padding = b" " * (MAX_JSON_SIZE - 2)
        self.assertEqual(decode_json(b"{}" + padding), {})
        self.refused(decode_json, b"{}" + padding + b" ", "65536 is the limit")

    @PROPERTY
    @given(
        st.dictionaries(
            st.text(max_size=5), st.integers() | st.text() | st.none() | st.booleans(), max_size=5
        )
    )
    def test_what_is_encoded_is_decoded(self, fields: dict[str, Any]) -> None:
        message = encode_json(fields)
        self.assertEqual(int.from_bytes(message[:4], "big"), len(message) - 4)
        self.assertEqual(decode_json(message[4:]), fields)

    @PROPERTY
    @given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
    def test_any_bytes_are_an_object_or_a_wire_error(self, data: bytes) -> None:
        for decode in (decode_json, Hello.decode, Greeting.decode, GroupInfo.decode):
            try:
                decode(data)
            except WireError as error:
                self.assertTrue(str(error).isprintable())

    @PROPERTY
    @given(
        st.sampled_from(sorted(_FIELDS)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
    def test_any_value_of_any_key_is_taken_or_a_wire_error(self, key: str, value: Any) -> None:
        data = json.dumps({**_FIELDS, key: value}).encode()
        try:
            greeting = Greeting.decode(data)
        except WireError as error:
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 300)
        else:
            self.assertIsInstance(greeting, Greeting)


class Texts(unittest.SynchronousTestCase):
    @PROPERTY
    @given(st.text(st.characters(), max_size=300))
    def test_any_text_is_one_printable_line_of_bounded_length(self, text: str) -> None:
        clean = clean_text(text)
        self.assertTrue(clean.isprintable())
        self.assertEqual(len(clean), min(len(text), 200))
        clean.encode()

    def test_what_is_no_text(self) -> None:
        for value in (None, 1, b"x", ["x"]):
            with self.assertRaises(WireError):
                clean_text(value)
