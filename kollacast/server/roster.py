"""Who takes part: the clients that are in, those that may come back, and the record of each."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

from twisted.internet.interfaces import IReactorTime

from kollacast.events.state import state_of
from kollacast.sending.member import Member
from kollacast.sending.plan import Plan
from kollacast.server.conversation import Departure
from kollacast.server.participant import Participant
from kollacast.server.record import ClientRecord
from kollacast.server.snapshot import ClientEntry
from kollacast.wire.greeting import Hello

#: Who can hold less than these parts of what most can is not kept to by all: what the others lose
#: by less room stays small, but where such a client could not be served apart.
_ENOUGH = 1 / 2
_ENOUGH_TO_STAY = 1 / 8


#: Of those that have gone without the image, so many are remembered for each that is expected, and
#: some beside; and so many addresses from which any have come.
_GONE = 4
_GONE_BESIDE = 64
_MOST_KNOWN = 65536


#: So many times a client may lose its connection in the end until it has fetched so many packets.
_MOST_LOSSES = 16
_PIECE_PACKETS = 1024


class Roster:
    """The clients of a session that expects so many.

    With ``has_names``, one name is one client, wherever and however often it comes.  Where they
    ``are_meant``, nobody else can be in.
    """

    def __init__(
        self,
        clock: IReactorTime,
        expected: int,
        *,
        has_names: bool = False,
        are_meant: bool = False,
    ) -> None:
        #: Those that are in, in the order in which they came, each by its name and address then.
        self.clients: dict[Participant, tuple[str, str]] = {}
        #: Of all that have ever been in, but for those that left before the start, or that never
        #: said who they were.
        self.records: list[ClientRecord] = []
        self._clock = clock
        self._expected = expected
        self._has_names = has_names
        self._are_meant = are_meant or has_names
        # When clients were lost that may come back.
        self._absent: dict[int, float] = {}
        # The run of each client that has one: a host's address may change, and this does not.
        self._runs: dict[str, ClientRecord] = {}
        # The same of those that are in; and how many of them have a name and address.
        self._here: dict[str, Participant] = {}
        self._known_as: Counter[tuple[str, str]] = Counter()
        # How many of those that are in have an address; and from where any has come.
        self._from: Counter[str] = Counter()
        self._addresses: set[str] = set()
        # How much each had fetched when its losses of connections were counted anew, and how many.
        self._losses: dict[int, tuple[int, int]] = {}
        #: Of those that have given up before the start, and have not come again.
        self.given_up: list[ClientRecord] = []

    def __len__(self) -> int:
        """How many clients are in."""
        return len(self.clients)

    @property
    def members(self) -> list[Member]:
        """Those that are in step."""
        return [client.member for client in self.clients if client.member is not None]

    @property
    def present(self) -> int:
        """How many are here, or have the image."""
        gone = sum([record.verified for record in self.records])
        return gone + sum([not client.record.verified for client in self.clients])

    @property
    def verified(self) -> int:
        """How many have the image, here or gone."""
        return sum([record.verified for record in self.records])

    @property
    def packets_repaired(self) -> int:
        """How many packets clients lacked, and got."""
        return sum([record.packets_repaired for record in self.records])

    def entries(self) -> tuple[ClientEntry, ...]:
        """What there is to say of each, at this moment."""
        here = {id(client.record): client for client in self.clients}
        return tuple(_entry(record, here.get(id(record))) for record in self.records)

    def holding_too_little(self, offer: Plan, *, may_go: bool) -> dict[Participant, str]:
        """Those in step who hold far fewer packets than most of them, each with that in words.

        Where nobody ``may_go`` on by itself, it takes more to be one: it is that one's end.
        """
        holds = {c: c.hello.packets for c in self.clients if c.member and c.hello}
        if not holds:
            return {}
        # Of two it is the larger one.
        usual = min(sorted(holds.values())[len(holds) // 2], offer.max_request)
        least = usual * (_ENOUGH if may_go else _ENOUGH_TO_STAY)
        return {
            client: f"it holds {packets} packets, and {least:.0f} are the least"
            for client, packets in holds.items()
            if packets < least
        }

    def agree(self, offer: Plan) -> Plan:
        """As much of it as all can hold, without what all have."""
        packets = [c.hello.packets if c.hello else None for c in self.clients if c.member]
        kept = min((c.hello.kept if c.hello else 0 for c in self.clients), default=0)
        return offer.agreed(packets, kept)

    def has_room(self, client: Participant) -> bool:
        """Whether ``client`` may come in, maybe once more, or in the place of another one."""
        return not self._is_full_for(client) or self._crowding(client) is not None

    def may_be_back(self, client: Participant) -> bool:
        """Whether one that is in may be the same as ``client``, with a broken connection."""
        return self._known_as[self._key(client.record)] > 0

    def is_name_taken(self, client: Participant) -> bool:
        """Whether one that is in has the name of ``client`` and is of another run."""
        same = self._same(client.hello)
        return self._has_names and self.may_be_back(client) and same is None

    def knows(self, address: str) -> bool:
        """Whether a client has come from there."""
        return address in self._addresses

    def join(self, client: Participant) -> None:
        """``client`` is in, in the place of its earlier connection if it has one."""
        same = self._same(client.hello)
        if same is not None:
            reason = "it has come back on another connection"
            same.talk.drop(reason, Departure.LOST)
        elif self._is_full_for(client):
            crowding = self._crowding(client)
            if crowding is not None:
                address = crowding.record.address
                reason = (
                    f"{self._from[address]} have come from {address}, and another host has come"
                )
                crowding.drop(reason)
        self._remember(client)
        key = self.clients[client] = self._key(client.record)
        self._known_as[key] += 1
        self._from[client.record.address] += 1
        if len(self._addresses) < _MOST_KNOWN:
            self._addresses.add(client.record.address)
        run = self._run(client.hello)
        if run:
            self._here[run] = client

    def leave(self, client: Participant, *, is_awaited: bool) -> None:
        """``client`` is out; if it ``is_awaited``, it may come back."""
        if client not in self.clients:
            return  # an error has kept it from coming in
        self._remove(client)
        if is_awaited:
            self._absent[id(client.record)] = self._clock.seconds()

    def gets_on(self, client: Participant) -> bool:
        """Whether ``client``, of whom all others are rid, is worth waiting for once more.

        It may lose its connection a few times for each piece of the image that it fetches.
        """
        fetched = client.record.packets_fetched
        mark, times = self._losses.get(id(client.record), (fetched, 0))
        if fetched >= mark + _PIECE_PACKETS:
            mark, times = fetched, 0
        self._losses[id(client.record)] = mark, times + 1
        return times < _MOST_LOSSES

    def forget(self, client: Participant) -> None:
        """``client`` is out, as if it had never come: nothing has begun, or it was no client."""
        self._remove(client)
        self.records.remove(client.record)

    def begin(self) -> None:
        """Who has given up, and has not been made good for, is without the image now."""
        lacking = self._expected - len(self.clients)
        if lacking > 0:
            self.records += self.given_up[-lacking:]
        self.given_up.clear()

    def awaited_s(self, patience_s: float) -> float:
        """Seconds for which somebody is still waited for who may come back; 0 for nobody."""
        if not self._absent:
            return 0.0
        return max(patience_s - (self._clock.seconds() - max(self._absent.values())), 0.0)

    def await_no_more(self) -> None:
        """Nobody has come back in time."""
        self._absent.clear()

    def names(self, most: int) -> str:
        """Who has been in, for people; no more than ``most`` by name."""
        names = [f"{record.name} ({record.address})" for record in self.records]
        if len(names) > most:
            names[most:] = [f"and {len(names) - most} more"]
        return ", ".join(names)

    def _same(self, hello: Hello | None) -> Participant | None:
        """The client that is in and of the same run as ``hello``."""
        return self._here.get(self._run(hello))

    def _is_full_for(self, client: Participant) -> bool:
        """Whether there is no place, neither a free one nor its own."""
        if len(self.clients) < self._expected:
            return False
        same = self._same(client.hello)
        others = [c for c in self.clients if not (c.record.verified or c is same)]
        return len(others) >= self._expected

    def _crowding(self, client: Participant) -> Participant | None:
        """Who has to go for ``client``, if anybody: the last one of whose address have most.

        Where nobody says who is meant, it goes by where they come from.
        """
        if client.hello is None or self._are_meant or not self._from:
            return None
        address, most = max(self._from.items(), key=itemgetter(1))
        if most < max(self._from[client.record.address] + 2, 2):
            return None
        here = [c for c in self.clients if c.record.address == address and not c.record.verified]
        return here[-1] if here else None

    def _remove(self, client: Participant) -> None:
        self._known_as[self.clients.pop(client)] -= 1
        self._from[client.record.address] -= 1
        run = self._run(client.hello)
        if self._here.get(run) is client:
            del self._here[run]

    def _remember(self, client: Participant) -> None:
        """Give a client that has been here before its record again."""
        new = client.record
        self.given_up = [record for record in self.given_up if not self._are_alike(record, new)]
        run = self._run(client.hello)
        record = self._earlier(run, new)
        if record is None:
            self._forget_the_oldest()
            self.records.append(new)
        else:
            record.address = new.address
            record.verified = False
            record.reason = None
            record.connections += 1
            client.record = record
            self._absent.pop(id(record), None)
        if run:
            self._runs[run] = client.record

    def _forget_the_oldest(self) -> None:
        """Keep the records of those that have gone without the image to a number."""
        if len(self.records) < len(self.clients) + _GONE * self._expected + _GONE_BESIDE:
            return
        here = {id(client.record) for client in self.clients}
        gone = (r for r in self.records if id(r) not in here and not r.verified)
        oldest = next(gone, None)
        if oldest is not None:
            self.records = [record for record in self.records if record is not oldest]
            self._runs = {run: r for run, r in self._runs.items() if r is not oldest}
            self._absent.pop(id(oldest), None)

    def _earlier(self, run: str, new: ClientRecord) -> ClientRecord | None:
        """The record of the same run, or else of one with the same name and address."""
        if len(self.records) == len(self.clients):
            return None  # all that have ever been in are
        here = {id(other.record) for other in self.clients}
        free = [record for record in self.records if id(record) not in here]
        same = self._runs.get(run)
        if any(record is same for record in free):
            return same
        return next((record for record in free if self._are_alike(record, new)), None)

    def _key(self, record: ClientRecord) -> tuple[str, str]:
        return record.name, "" if self._has_names else record.address

    def _are_alike(self, one: ClientRecord, other: ClientRecord) -> bool:
        """Whether these may be of one client; two on one host may have the same name."""
        return self._key(one) == self._key(other)

    def _run(self, hello: Hello | None) -> str:
        """Which run a client is of, as far as it says so; nobody is of another one's."""
        if hello is None or not hello.run:
            return ""
        return f"{hello.name} {hello.run}" if self._has_names else hello.run


def _entry(record: ClientRecord, client: Participant | None) -> ClientEntry:
    if client is None:
        return ClientEntry(record.copy(), None, packets_done=record.packets_done)
    member = client.member
    account = record.copy()
    account.packets_done = client.packets_done
    if member is not None:
        account.seconds_answering = round(account.seconds_answering + member.answering_s, 3)
    return ClientEntry(
        account,
        state_of(client.talk),
        packets_done=account.packets_done,
        owes=client.owes,
        owed_s=client.owed_s(),
        packets_owed=0 if member is None else member.packets_owed,
        answers_due=0 if member is None else member.answers_due,
        messages_queued=len(client.connection.outgoing.queue),
    )
