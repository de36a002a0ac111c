"""Who may stay of those who have not said who they are."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.operator.outcome import Status
from kollacast.server.lobby import Lobby
from kollacast.wire.greeting import Greeting
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase
from tests.vectors import PROPERTY


@dataclass(frozen=True)
class _Guest:
    number: int
    address: str


class LobbyTests(unittest.SynchronousTestCase):
    def test_there_is_room_up_to_the_limit(self) -> None:
        lobby: Lobby[_Guest] = Lobby(3)
        guests = [_Guest(number, "a") for number in range(4)]
        self.assertEqual([lobby.enter(guest) for guest in guests], [None] * 3 + [guests[0]])

    def test_who_has_left_makes_room(self) -> None:
        lobby: Lobby[_Guest] = Lobby(1)
        for number in range(3):
            guest = _Guest(number, "a")
            self.assertIsNone(lobby.enter(guest))
            lobby.leave(guest)
            lobby.leave(guest)

    def test_a_host_loses_its_own(self) -> None:
        lobby: Lobby[_Guest] = Lobby(3)
        honest = _Guest(0, "honest")
        crowd = [_Guest(number, "crowd") for number in range(1, 6)]
        lobby.enter(honest)
        self.assertEqual([lobby.enter(guest) for guest in crowd], [None, None, *crowd[:3]])

    @PROPERTY
    @given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
    def test_any_coming_and_going(self, limit: int, events: list[tuple[str, bool]]) -> None:
        """Against a plain list of who is there."""
        lobby: Lobby[_Guest] = Lobby(limit)
        here: OrderedDict[_Guest, None] = OrderedDict()
        for number, (address, comes) in enumerate(events):
            if comes:
                guest = _Guest(number, address)
                here[guest] = None
                gone = lobby.enter(guest)
                self.assertEqual(gone is not None, len(here) > limit)
                if gone is not None:
                    most = [sum(g.address == a for g in here) for a in "abc"]
                    mates = [g for g in here if g.address == gone.address]
                    self.assertEqual(len(mates), max(most))
                    self.assertEqual(gone, mates[0])
                    del here[gone]
            elif here:
                guest = next(reversed(here))
                del here[guest]
                lobby.leave(guest)


class ServerTests(MemoryTestCase):
    """What the server makes of it."""

    def test_who_has_introduced_itself_is_not_turned_away(self) -> None:
        network = Network()
        server = network.serve(b"image", clients=2, max_connections=6)
        members = [network.join()]
        network.settle()
        silent = [network.raw_client() for _ in range(3)]
        self.assertEqual([client.lost is None for client in silent], [False, True, True])
        # Not a word: who means well tries again, and is not told to give up.
        self.assertEqual([type(message) for message in silent[0].heard], [Greeting])
        members.append(network.join())
        self.assertEqual(server.finish().status, Status.OK)
        for member in members:
            self.assertEqual(member.finish().status, Status.OK)
        self.assertIsNotNone(silent[1].lost)
