"""One session: what a seed draws before anything happens, and how it then runs to its end."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from random import Random
from typing import Any

from kollacast.files.spool import Spool
from kollacast.operator.config import Certificates
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status
from tests.identities import EvenAuthority
from tests.simulation.image import MemorySink, MemorySource
from tests.simulation.links import Weather
from tests.simulation.network import Network
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import SERVER_IP

#: Clients of the session; whoever may not join is elsewhere.
HOSTS, OTHER_HOSTS = "10.0.1", "10.0.8"
SECRET, OTHER_SECRET = b"0123456789abcdef", b"fedcba9876543210"
_AUTHORITY = EvenAuthority()
#: Seconds within which every run has ended, the longest of all timeouts and more.
LIMIT_S = 4000.0
#: Seconds after which nothing may be left of a run that has ended.
_GONE_S = 40.0
#: Turns between looks at what waits in memory.
_LOOK_TURNS = 50
#: To everyone, where a cause is noted.
ALL = ""


class Session:
    """A server, its clients, and what has been done to them.

    ``causes`` says of what may be the reason of a failure, and whose: the
    name of a client, or ``ALL``.  ``growth`` is what was found to wait in
    memory beyond its bound.
    """

    def __init__(self, seed: int, folder: str) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.folder = folder
        self.causes: defaultdict[str, set[str]] = defaultdict(set)
        self.growth: list[str] = []
        self.servers: list[ServerRun] = []
        self.clients: list[ClientRun] = []
        self._to_come = 0
        self.is_jasmine = random.random() < 0.15
        # Drawn apart, so that a seed's other draws are what they were.
        self.has_certificates = not self.is_jasmine and Random(f"trust {seed}").random() < 0.2
        self.network = self._draw_network()
        self._draw_image()
        self._draw_server()
        # Some clients may wait for the server, some come later, some have no business here.
        self.late = self._draw_late()
        early = self.clients_expected - self.late if random.random() < 0.3 else 0
        for _ in range(early):
            self.join()
        if early:
            self.pass_time(random.choice((0.0, random.random(), 3.0)))
        self.serve()
        for _ in range(self.clients_expected - self.late - early):
            self.join()
        for _ in range(self.late):
            self.later(random.expovariate(1 / random.choice((0.1, 5.0))), self.join_late)
        self._draw_strangers()

    # What a seed draws.

    def _draw_network(self) -> Network:
        random = self.random
        weather = Weather(
            loss=random.choice((0.0, 0.0, 0.01, 0.1, 0.3, 0.7)),
            duplicate=random.choice((0.0, 0.1)),
            # Jasmine's sum does not cover a seq; UDP's own, which is not here, does.
            damage=0.0 if self.is_jasmine else random.choice((0.0, 0.1)),
            overtaking=random.choice((1, 2, 10, 100)),
            no_room=random.choice((0.0, 0.3)),
            socket_packets=random.choice((3, 20, 1_000_000)),
            tick_s=random.choice((0.0, 0.0001, 0.001)),
        )
        network = Network(self.seed, weather)
        network.wire_bytes = random.choice((50, 1000, 65536))
        return network

    def _draw_image(self) -> None:
        random = self.random
        self.mtu = random.choice((144, 200, 300))
        self.buffer_packets = random.choice((1, 2, 5, 16, 40, 64))
        buffers = random.choice((0, 1, 2, 3, 7))
        capacity = self.mtu - 40
        size = capacity * self.buffer_packets * buffers + random.choice((0, -1, 1, 5))
        self.image = random.randbytes(min(max(size, 0), 20_000))
        # A file, a pipe, or a pipe with a spool that is large enough, or is not.
        self.input = random.choice(("file", "file", "file", "pipe", "spool", "small spool"))
        if self.is_jasmine:
            self.input = "pipe"
        self.fails_at = random.randrange(len(self.image) + 1) if random.random() < 0.04 else None
        if self.fails_at is not None:
            self.causes[ALL].add("bad input")
        if self.input in ("pipe", "small spool"):
            self.causes[ALL].add("no past")

    def _draw_server(self) -> None:
        random = self.random
        self.clients_expected = random.choice((1, 2, 2, 3, 5))
        self.secret = SECRET if random.random() < 0.2 and not self.is_jasmine else None
        self.options: dict[str, Any] = {
            "clients": self.clients_expected,
            "dialect_name": "jasmine" if self.is_jasmine else "kollacast",
            "mtu": self.mtu,
            "buffer_packets": self.buffer_packets,
            "window": random.choice((1, 2, 3, 8)),
            "group_size": random.choice((1, 2, 64)),
            "expectation": Expectation(allow_empty=True),
            "client_timeout_s": random.choice((20.0, 60.0)),
            "patience_s": random.choice((1.0, 5.0, 20.0)),
            "accept_timeout_s": random.choice((10.0, 60.0, 300.0)),
            "min_clients": random.choice((None, 1, self.clients_expected)),
            "unicast": (
                not self.is_jasmine
                and self.input not in ("pipe", "small spool")
                and random.random() < 0.1
            ),
            "secret": self.secret,
            "certificates": self._certificates("installer", SERVER_IP),
            "allowed": (IPv4Network(f"{HOSTS}.0/24"),) if random.random() < 0.2 else None,
        }

    def _certificates(self, name: str, *addresses: str) -> Certificates | None:
        return _AUTHORITY.certificates(name, *addresses) if self.has_certificates else None

    def _draw_late(self) -> int:
        if self.random.random() < 0.7:
            return 0
        late = self.random.randint(1, self.clients_expected)
        self.causes[ALL].add("late")
        return late

    def _draw_strangers(self) -> None:
        """Hosts that may not join, but try to."""
        random = self.random
        if self.is_jasmine:
            return
        if random.random() < 0.2:
            wrong = OTHER_SECRET if self.secret is None else random.choice((OTHER_SECRET, None))
            self.causes[self.join(secret=wrong).config.name].add("wrong secret")
        if self.options["allowed"] is not None:
            options = self._client_options(certificates=self._certificates("stranger"))
            stranger = self.network.join(hosts=OTHER_HOSTS, **options)
            self.clients.append(stranger)
            self.causes[stranger.config.name].add("not allowed")

    # Programs that begin.

    def serve(self) -> ServerRun:
        """A server begins: the first one, or the one that follows on it."""
        random = self.random
        host = self.network.host(SERVER_IP)
        host.segments = random.random() < 0.8
        source = MemorySource(
            self.image,
            size=len(self.image) if self.input == "file" else None,
            read_bytes=random.choice((None, 7, 1000)),
            fails_at=self.fails_at,
            identity="file" if self.input == "file" else None,
        )
        spool = None
        if "spool" in self.input:
            room = 1 << 20 if self.input == "spool" else random.randrange(len(self.image) + 1)
            spool = Spool(self.folder, room)
        server = self.network.serve(
            source, threads=random.random() < 0.5, spool=spool, **self.options
        )
        self.servers.append(server)
        return server

    @property
    def server(self) -> ServerRun | None:
        """The one that began last."""
        return self.servers[-1] if self.servers else None

    def _client_options(self, **options: Any) -> dict[str, Any]:
        random = self.random
        return {
            "threads": random.random() < 0.5,
            "reads": random.choice(("coalesced", "frames", "plain")),
            "connect_timeout_s": 100.0,
            "secret": self.secret,
            **options,
        }

    def join(self, **options: Any) -> ClientRun:
        """A client begins on a host of its own, which may be one that no multicast reaches."""
        random = self.random
        sink = MemorySink()
        sink.is_stream = random.random() < 0.2
        is_full = random.random() < 0.03
        if is_full:
            sink = MemorySink(room=random.randrange(len(self.image) + 1))
        name = f"host{self.network.next_client}"
        options.setdefault("certificates", self._certificates(name))
        client = self.network.join(sink=sink, **self._client_options(**options))
        client.host.hears_multicast = random.random() < 0.9
        if is_full:
            # Who has no room for the image is out before it begins, and the others miss it.
            self.note(client, "full disk")
            self.causes[ALL].add("missing")
        self.clients.append(client)
        return client

    def join_late(self) -> None:
        self.note(self.join(), "late")

    def join_again(self, before: ClientRun) -> None:
        """A client begins where another one was killed."""
        # Both count until the connection of the first one is known to be broken.
        self.causes[ALL].add("counted twice")
        hears = before.host.hears_multicast
        secret, hosts = before.config.secret, before.host.address.rpartition(".")[0]
        certificates = before.config.certificates
        options = self._client_options(secret=secret, certificates=certificates, hosts=hosts)
        again = self.network.join_again(before, **options)
        again.host.hears_multicast = hears
        self.clients.append(again)

    def note(self, client: ClientRun, cause: str) -> None:
        self.causes[client.config.name].add(cause)

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        """The storm goes on until all that it does later is done."""
        self._to_come += 1

        def now() -> None:
            self._to_come -= 1
            then()

        self.network.clock.callLater(seconds, now)

    # How it runs.

    def pass_turns(self, turns: int) -> None:
        for turn in range(turns):
            if not self.network.turn():
                self.pass_time(self.random.choice((0.01, 1.0)))
                return
            if turn % _LOOK_TURNS == 0:
                self.look()

    def pass_time(self, seconds: float) -> None:
        self.network.run_for(seconds)
        self.look()

    def finish(self) -> None:
        """Let all runs end, in whatever time they take, and what they had go away."""
        looks = itertools.count()

        def over() -> bool:
            if next(looks) % _LOOK_TURNS == 0:
                self.look()
            return not self._to_come and all(run.outcome is not None for run in self.running())

        try:
            self.network.run_until(over, LIMIT_S)
        except AssertionError:
            return  # the verdict names those that have not ended
        self.network.run_for(_GONE_S)

    def running(self) -> list[ServerRun | ClientRun]:
        """All runs that have not been killed."""
        runs: list[ServerRun | ClientRun] = [*self.servers, *self.clients]
        return [run for run in runs if not run.host.is_gone]

    # What waits in memory.

    def look(self) -> None:
        self.growth += itertools.islice(self._too_much(), 3)

    def _too_much(self) -> Iterator[str]:
        if len(self.growth) > 10:
            return
        run = self.server
        if run is None or run.host.is_gone or run.outcome is not None:
            return
        now = run.snapshot
        window = now.plan.window
        if now.buffers_in_flight > window:
            yield f"{now.buffers_in_flight} buffers in flight in a window of {window}"
        ends = run.host.connections()
        if now.connections > len(ends):
            yield f"{now.connections} clients on {len(ends)} connections"
        if now.reads_waiting > now.connections:
            yield f"{now.reads_waiting} reads wait for {now.connections} clients"
        for entry in now.clients:
            name = entry.account.name
            if entry.packets_owed > now.plan.max_owed:
                yield f"{entry.packets_owed} packets are owed to {name}"
            if entry.answers_due > 2 * window:
                yield f"{name} owes more than two answers a buffer"
            if entry.messages_queued > 4 * window + 8:
                yield f"{entry.messages_queued} messages wait for {name}"


def is_ok(run: ServerRun | ClientRun) -> bool:
    return run.outcome is not None and run.outcome.status is Status.OK
