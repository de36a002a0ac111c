"""``python -m kollacast.authority``: it makes what ``--tls-dir`` takes, and says what it cannot."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from unittest import mock

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from kollacast.authority.__main__ import main
from kollacast.authority.certificates import name_of
from kollacast.command.streams import console
from kollacast.operator.config import Certificates
from kollacast.transport.tls import BadCertificates, prove
from tests.identities import Authority


class ProgramTests(SynchronousTestCase):
    """The two commands, and their mistakes."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.lines: list[str] = []
        patched = mock.patch.object(console, "write_line", self.lines.append)
        patched.start()
        self.addCleanup(patched.stop)

    def run_well(self, *words: str) -> None:
        self.assertEqual((main(words), self.lines), (0, []))

    def assert_refused(self, status: int, text: str, *words: str) -> None:
        self.lines.clear()
        self.assertEqual(main(words), status)
        [line] = self.lines
        self.assertIn(text, line)

    def read(self, name: str) -> Certificates:
        folder = self.folder / name
        files = [(folder / part).read_bytes() for part in ("ca.pem", "cert.pem", "key.pem")]
        return Certificates(*files)

    def test_certificates_that_both_ends_take(self) -> None:
        self.run_well("create", str(self.folder))
        self.run_well("issue", str(self.folder), "installer", "--address", "10.0.0.1")
        self.run_well("issue", str(self.folder), "host-1", "host_2.example")
        for name in ("installer", "host-1", "host_2.example"):
            certificates = self.read(name)
            prove(certificates)
            self.assertEqual(name_of(x509.load_pem_x509_certificate(certificates.chain)), name)

    def test_secrets_are_the_owner_s(self) -> None:
        self.run_well("create", str(self.folder))
        self.run_well("issue", str(self.folder), "host-1")
        keys = [self.folder / "ca-key.pem", self.folder / "host-1" / "key.pem"]
        for path in keys:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        for folder in (self.folder, self.folder / "host-1"):
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)
        self.assertNotIn("ca-key.pem", [path.name for path in (self.folder / "host-1").iterdir()])

    def test_what_is_there_stays_unless_it_is_to_be_replaced(self) -> None:
        self.run_well("create", str(self.folder))
        self.run_well("issue", str(self.folder), "host-1")
        before = self.read("host-1")
        self.assert_refused(1, "host-1: exists already", "issue", str(self.folder), "host-1")
        self.assert_refused(1, "exists already", "create", str(self.folder))
        self.assertEqual(self.read("host-1"), before)
        self.lines.clear()
        self.run_well("issue", str(self.folder), "host-1", "--replace")
        self.assertNotEqual(self.read("host-1").key, before.key)
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()), ["ca-key.pem", "ca.pem", "host-1"]
        )

    def test_mistakes(self) -> None:
        self.run_well("create", str(self.folder), "--days", "1")
        folder = str(self.folder)
        for name in ("../up", "", ".", "a b", "é", "-x" * 40):
            self.assert_refused(2, "must be 1 to 64 letters", "issue", folder, "--", name)
        self.assert_refused(2, "must be 1 to 64", "issue", folder, "a", "--address", "1.2.3.4/5")
        self.assert_refused(2, "--days '0'", "issue", folder, "a", "--days", "0")
        words = ("issue", folder, "a", "b", "--address", "10.0.0.1")
        self.assert_refused(2, "there are several names", *words)
        self.assert_refused(1, "No such file", "issue", str(self.folder / "absent"), "a")
        (self.folder / "ca.pem").write_bytes(b"nonsense")
        self.assert_refused(1, "holds no authority", "issue", folder, "a")
        self.assert_refused(1, "No such file", "create", str(self.folder / "absent" / "deep"))
        self.assert_refused(2, "required: COMMAND")

    def test_certificates_for_one_transfer(self) -> None:
        with mock.patch("sys.stdout", io.StringIO()) as printed:
            self.run_well("once", "--address", "10.0.0.1", "server", "host-1", "10.0.0.7")
        made = json.loads(printed.getvalue())
        self.assertEqual(list(made), ["server", "host-1", "10.0.0.7"])
        for files in made.values():
            names = ("ca.pem", "cert.pem", "key.pem")
            self.assertEqual(tuple(files), names)
            prove(Certificates(*(files[name].encode() for name in names)))
        words = ("once", "--address", "10.0.0.1", "server", "server")
        self.assert_refused(2, "is named twice", *words)
        self.assert_refused(2, "required: --address", "once", "server", "a")

    def test_nothing_outlives_its_authority(self) -> None:
        self.run_well("create", str(self.folder), "--days", "1")
        self.run_well("issue", str(self.folder), "a", "--days", "900")
        authority, issued = (
            x509.load_pem_x509_certificate((self.folder / path).read_bytes())
            for path in ("ca.pem", "a/cert.pem")
        )
        self.assertEqual(issued.not_valid_after_utc, authority.not_valid_after_utc)


class ProveTests(SynchronousTestCase):
    """What is told of certificates by which this end could not prove itself."""

    def test_what_is_wrong(self) -> None:
        authority, other = Authority(), Authority()
        good, another = (authority.certificates(name) for name in ("a", "b"))
        for certificates, why in (
            (Certificates(b"", good.chain, good.key), "ca.pem: holds no certificate"),
            (Certificates(good.authorities, b"x", good.key), "cert.pem: holds no certificate"),
            (Certificates(good.authorities, good.chain, b"x"), "key.pem: is no private key"),
            (
                Certificates(good.authorities, good.chain, another.key),
                "key.pem: is not the key of cert.pem",
            ),
            (
                Certificates(other.certificates("a").authorities, good.chain, good.key),
                "cert.pem: is not from the authority in ca.pem",
            ),
            (authority.certificates("a", age_days=11), "cert.pem: has expired"),
            (authority.certificates("a", age_days=-3), "cert.pem: is not valid yet"),
        ):
            error = self.assertRaises(BadCertificates, prove, certificates)
            self.assertIn(why, str(error))
