"""TLS 1.3 around a connection: Twisted's own, with who may be at the other end, and what failed.

With certificates each end is proved by an authority's, and a server by its address as well.
Without, the server's certificate is one that nobody knows: then only who listens is kept out, and
both ends have to prove themselves by :attr:`Secured.binding`, which a relay has in common with
neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.abstract import isIPAddress
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from kollacast.authority.certificates import make_unknown, name_of
from kollacast.operator.config import Certificates

#: The first one that both have is taken. AES-128 is the fastest where processors have AES.
_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
#: What both ends of a connection, and nobody else, can derive from it (RFC 9266).
_EXPORTER, _EXPORTED_BYTES = b"EXPORTER-Channel-Binding", 32
#: By these a record of TLS begins that comes first: an alert, a handshake.
_RECORDS = (0x15, 0x16)

#: What OpenSSL says of a certificate, by number (x509_vfy.h), and what an operator has to know.
_OBJECTIONS = {
    9: "is not valid yet: see the clocks of both hosts",
    10: "has expired",
    18: "is not from the authority in --tls-dir",
    19: "is not from the authority in --tls-dir",
    20: "is not from the authority in --tls-dir",
    21: "is not from the authority in --tls-dir",
    26: "is not for this end of a connection: a server's is issued with --address",
}
#: What the other end's alerts mean, by their names in RFC 8446.
_ALERTS = {
    "unknown ca": "is not from the authority in its --tls-dir",
    "certificate expired": "has expired",
    "bad certificate": "is not valid yet, or is damaged",
    "unsupported certificate": "is not for this end of a connection",
    "certificate required": "is missing: give --tls-dir",
}


class BadCertificates(ValueError):
    """These certificates cannot be used; the text begins with the file's name."""


class Above(Protocol):
    """The protocol that what TLS carries is for; it is an `IHandshakeListener` as well.

    Before it hears of the handshake, nobody is proved.
    """

    def spoke_plainly(self, data: bytes) -> None:
        """The other end has not begun TLS, but said this."""


class Secured(BufferingTLSTransport):
    """TLS over a connection, which hands on what it carries to :class:`Above`."""

    def __init__(self, factory: _Factory, wrapped: Any, _connect: bool = True) -> None:
        super().__init__(factory, wrapped, _connect)
        #: Whether anything has come.
        self.has_heard = False
        self._is_plain = False
        self._host = factory.host

    @property
    def binding(self) -> bytes:
        """32 bytes that the two ends of this very connection have in common, and nobody else.

        They are known once the handshake is completed.
        """
        return self._tlsConnection.export_keying_material(_EXPORTER, _EXPORTED_BYTES, b"")

    @property
    def peer_name(self) -> str | None:
        """What the other end's certificate calls its host; None where it has shown none."""
        certificate = self._tlsConnection.get_peer_certificate()
        return None if certificate is None else name_of(certificate.to_cryptography())

    def judge(self) -> str | None:
        """What is wrong with the other end, once the handshake is completed; None for nothing."""
        certificate = self._tlsConnection.get_peer_certificate()
        if self._host is None or certificate is None:
            return None
        if _is_for(certificate.to_cryptography(), self._host):
            return None
        return "its certificate is not for the address or name that this host was told to call"

    def speak_plainly(self) -> None:
        """What is sent from now on is for somebody who does not speak TLS."""
        self._is_plain = True
        self.write = self._below.write  # type: ignore[method-assign]

    def why_lost(self, reason: Failure) -> str | None:
        """Why TLS has failed, in a few words; None where the connection was lost without that."""
        error = reason.value
        if not isinstance(error, SSL.Error) or not error.args or not error.args[0]:
            return None
        words = str(error.args[0][-1][-1])
        if "certificate verify failed" in words:
            return f"its certificate {_objection(self._tlsConnection)}"
        return _in_words(words)

    @property
    def _above(self) -> Above:
        return cast(Above, self.wrappedProtocol)

    @property
    def _below(self) -> Any:
        return self.transport

    # The transport, as the protocol above sees it.

    def getHandle(self) -> Any:
        """The socket below, as a TCP transport has it."""
        return self._below.getHandle()

    def loseConnection(self) -> None:
        if self._is_plain:
            self._below.loseConnection()
        else:
            super().loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if not self.has_heard:
            self.has_heard = True
            self._is_plain = self._is_plain or data[0] not in _RECORDS
        if not self._is_plain:
            super().dataReceived(data)
        elif not self.disconnecting:
            self._above.spoke_plainly(data)


class _Factory(TLSMemoryBIOFactory):
    """Twisted's, for a factory below that may want no connection."""

    protocol = Secured
    #: Whose certificate the other end has to have; None where that does not matter.
    host: str | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)


def server_side(
    certificates: Certificates | None, factory: IProtocolFactory, clock: IReactorTime
) -> TLSMemoryBIOFactory:
    """A factory of connections that clients open, each below one of ``factory``'s.

    Without ``certificates`` nobody is proved by this.
    """
    context = _context(certificates)
    # Nobody comes back in less time than a new handshake takes.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    if certificates is None:
        unknown = make_unknown()
        _use_chain(context, [unknown.certificate], unknown.key)
    return _Factory(_Creator(context), False, factory, clock)


def client_side(
    certificates: Certificates | None, host: str, clock: IReactorTime
) -> Callable[[IProtocolFactory], IProtocolFactory]:
    """Makes of a factory one of connections to the server at ``host``, each below one of its own.

    With ``certificates`` the server's has to be for that address or name; without, nobody is
    proved by this.
    """
    context = _context(certificates)

    def secured(factory: IProtocolFactory) -> IProtocolFactory:
        made = _Factory(_Creator(context), True, factory, clock)
        made.host = None if certificates is None else host
        return made

    return secured


def prove(certificates: Certificates) -> None:
    """Raise :class:`BadCertificates` where this end could not prove itself by these."""
    authorities = _load("ca.pem", certificates.authorities)
    chain = _load("cert.pem", certificates.chain)
    store = crypto.X509Store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    try:
        key = serialization.load_pem_private_key(certificates.key, None)
    except (ValueError, TypeError):
        raise BadCertificates("key.pem: is no private key in PEM without a password") from None
    if key.public_key() != chain[0].public_key():
        raise BadCertificates("key.pem: is not the key of cert.pem")
    if name_of(chain[0]) is None:
        raise BadCertificates("cert.pem: names nobody")
    mine, *between = map(crypto.X509.from_cryptography, chain)
    try:
        crypto.X509StoreContext(store, mine, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        why = _OBJECTIONS.get(error.errors[0], f"cannot be verified: {error}")
        raise BadCertificates(f"cert.pem: {why.replace('--tls-dir', 'ca.pem')}") from None


# Contexts.


def _context(certificates: Certificates | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_CIPHERS)
    # A thousand connections are silent for most of the time.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if certificates is None:
        context.set_verify(SSL.VERIFY_NONE)
        return context
    key = serialization.load_pem_private_key(certificates.key, None)
    _use_chain(context, _load("cert.pem", certificates.chain), key)
    store = context.get_cert_store()
    assert store is not None
    for authority in _load("ca.pem", certificates.authorities):
        store.add_cert(crypto.X509.from_cryptography(authority))

    # Without a callback, which would need memory that can be written to and executed: services that
    # are hardened have none.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def _objection(connection: Any) -> str:
    """Why OpenSSL does not accept the other end's certificate."""
    # There is no public word for it, and what it says is for people alone.
    ask = getattr(getattr(SSL, "_lib", None), "SSL_get_verify_result", None)
    number = 0 if ask is None else ask(connection._ssl)
    return _OBJECTIONS.get(number, f"is refused: error {number} of OpenSSL")


def _use_chain(context: SSL.Context, chain: list[x509.Certificate], key: Any) -> None:
    context.use_certificate(chain[0])
    for between in chain[1:]:
        context.add_extra_chain_cert(between)
    context.use_privatekey(key)


def _load(name: str, pem: bytes) -> list[x509.Certificate]:
    """The certificates in a file of this name, one or more."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BadCertificates(f"{name}: holds no certificate in PEM") from None


def _is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a server with this certificate is at ``host``."""
    verify = verify_certificate_ip_address if isIPAddress(host) else verify_certificate_hostname
    try:
        verify(certificate, host)
    except (VerificationError, ValueError):
        return False
    return True


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class _Creator:
    """Makes the connections of one end, from one context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return self._connection(tlsProtocol, SSL.Connection.set_connect_state)

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return self._connection(tlsProtocol, SSL.Connection.set_accept_state)

    def _connection(
        self, secured: Secured, take_side: Callable[[SSL.Connection], None]
    ) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(secured)
        take_side(connection)
        return connection


def _in_words(reason: str) -> str:
    """What OpenSSL means, for an operator."""
    reason = reason.casefold()
    if "did not return a certificate" in reason:
        return "it shows no certificate: it has not --tls-dir"
    if "version" in reason or "protocol" in reason:
        return "it does not speak TLS 1.3"
    alert = re.search(r"alert (.*)", reason)
    if alert is None:
        return f"TLS has failed: {reason}"
    why = _ALERTS.get(alert[1])
    return f"it says that the certificate here {why}" if why else f"it ends TLS: {alert[1]}"
