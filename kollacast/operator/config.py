"""What an operator asked for, as two frozen values that hold only what has been checked.

The two command lines become these, and the two programs know nothing of an operator but these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network

from kollacast.operator.expectation import Expectation

#: How progress may be shown.
PROGRESS_MODES = ("auto", "bar", "plain", "none")


@dataclass(frozen=True)
class Certificates:
    """How one end proves who it is, and by whom it lets others do so; each is PEM."""

    authorities: bytes = field(repr=False)  #: whose word counts, one certificate or more
    chain: bytes = field(repr=False)  #: this end's certificate, and those between
    key: bytes = field(repr=False)  #: of this end's certificate


@dataclass(frozen=True, kw_only=True)
class Config:
    """What both programs may be asked for."""

    secret: bytes | None = field(default=None, repr=False)  #: that both ends have to share
    certificates: Certificates | None = None  #: by which both ends have to prove who they are
    failsafe: str | None = None  #: registry that clients turn to when all else fails, host:port
    report_path: str | None = None  #: file for the report; None for no report
    progress_mode: str = "none"  #: one of :data:`PROGRESS_MODES`
    is_daemon: bool = False  #: whether the process is to run without standard streams
    #: what the image must be, or nobody gets it
    expectation: Expectation = field(default_factory=Expectation)

    @property
    def is_secure(self) -> bool:
        """Whether connections are TLS, and both ends prove something on them."""
        return self.secret is not None or self.certificates is not None


@dataclass(frozen=True)
class ServerConfig(Config):
    """One run of the server."""

    local_ip: str  #: IPv4 address of the interface that multicast leaves by
    clients: int  #: how many clients to wait for, at least 1
    port: int  #: for UDP and TCP, 1 to 65535
    group: str  #: IPv4 multicast address
    ttl: int  #: of multicast datagrams, 0 to 255
    mtu: int  #: bytes of one datagram with its IP and UDP headers
    buffer_packets: int | None = None  #: packets a buffer; None lets the server choose
    window: int | None = None  #: buffers in flight; None lets the server choose
    #: IPv4 address at which clients are heard, 0.0.0.0 for all of this host's; None for local_ip
    listen_ip: str | None = None
    dialect_name: str = "kollacast"  #: "kollacast" or "jasmine"
    group_size: int = 64  #: clients a TCP group, at least 1
    accept_timeout_s: float = 0.0  #: to wait for all clients; 0 waits for ever
    client_timeout_s: float = 60.0  #: of silence after which a client is given up
    #: who may join; None for everyone
    allowed: tuple[IPv4Network, ...] | None = None
    #: what the clients are called that are expected; None for whoever comes
    expected_names: frozenset[str] | None = None
    min_clients: int | None = None  #: enough to start when the time to wait is over
    encrypt: bool = False  #: whether what is multicast is sealed
    unicast: bool = False  #: no multicast: every client fetches by TCP
    patience_s: float = 5.0  #: for which one client may hold up the others, or stay away
    rate_bps: int | None = None  #: bits a second on the wire; None lets the server find it
    #: who takes fewer bits a second is served apart; None for a part of what the others take
    min_rate_bps: int | None = None
    digest: str = "sha256"  #: name of the digest that proves the whole image
    input_path: str | None = None  #: file that holds the image; None for standard input
    spool_path: str | None = None  #: folder for a copy of what a pipe brings; None for no copy
    spool_bytes: int = 0  #: the most bytes of that copy
    status_at: tuple[str, int] | None = None  #: address and port of the status page; None for none
    status_linger_s: float = 0.0  #: for which it stays after the end
    metrics_per_host: bool = False  #: whether its metrics have each host

    @property
    def has_names(self) -> bool:
        """Whether a name is one host's alone: it is proved, or expected."""
        return self.certificates is not None or self.expected_names is not None


@dataclass(frozen=True)
class ClientConfig(Config):
    """One run of the client."""

    local_ip: str  #: IPv4 address of the interface that multicast enters by
    server_ip: str  #: IPv4 address or host name of the server
    port: int  #: of the server's TCP port, 1 to 65535
    connect_timeout_s: float  #: to keep trying until the server is up
    name: str  #: what this host is called in the server's report
    any_source: bool = False  #: whether multicast is taken from everybody, not the server alone
    output_path: str | None = None  #: file for the image
    #: folder for the image, unpacked; standard output takes it where this and the file are None
    registry_root: str | None = None
    reserve: float = 0.05  #: share of the file system that stays free
