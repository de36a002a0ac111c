"""What goes wrong in a session, and to whom; each accident notes what it may cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from kollacast.wire.dialect import JASMINE
from tests.simulation.forger import Forger
from tests.simulation.raw_ends import RawClient
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import GROUP, PORT, SERVER_IP
from tests.storm.session import ALL, Session

Accident = Callable[[Session, ClientRun], None]


def happen(session: Session) -> None:
    """Run the session, with accidents at any time, until all has ended."""
    random = session.random
    for _ in range(random.choice((0, 0, 1, 1, 2, 3, 5))):
        session.pass_turns(int(random.expovariate(1 / random.choice((30, 300)))))
        if random.random() < 0.2:
            session.pass_time(random.expovariate(1 / 5.0))
        accident = random.choice(_ACCIDENTS)
        if session.clients:
            accident(session, random.choice(session.clients))
    session.finish()


def _lose_a_client(session: Session) -> None:
    """Whoever is still waited for may now not come."""
    session.causes[ALL].add("missing")


def _is_here(run: ServerRun | ClientRun) -> bool:
    return run.outcome is None and not run.host.is_gone


def _later(session: Session, mean_s: float, then: Callable[[], None]) -> None:
    session.later(session.random.expovariate(1 / mean_s), then)


# Somebody goes.


def _interrupt_client(session: Session, client: ClientRun) -> None:
    if _is_here(client):
        session.note(client, "interrupted")
        _lose_a_client(session)
        client.client.interrupt("interrupted")


def _interrupt_server(session: Session, _: ClientRun) -> None:
    server = session.server
    if server is not None and _is_here(server):
        session.causes[ALL].add("server interrupted")
        server.server.interrupt("interrupted")
        if session.random.random() < 0.5:
            _later(session, 10.0, lambda: _follow(session, server))


def _follow(session: Session, server: ServerRun) -> None:
    """Another server begins, for those who still look for one."""
    if session.server is server and server.outcome is not None and not server.host.is_gone:
        session.causes[ALL] |= {"late", "missing"}
        session.serve()


def _start_now(session: Session, _: ClientRun) -> None:
    """An operator has had enough of waiting for all."""
    server = session.server
    if server is not None and _is_here(server):
        if server.phase == "waiting for clients":
            session.causes[ALL] |= {"late", "missing"}
        server.server.start_now()


def _kill_client(session: Session, client: ClientRun) -> None:
    """SIGKILL; it may be started again, and finds what it has written."""
    if not _is_here(client):
        return
    session.note(client, "cut")
    _lose_a_client(session)
    client.host.kill()
    if session.random.random() < 0.7:
        session.note(client, "late")
        _later(session, 5.0, lambda: session.join_again(client))


def _kill_half(session: Session, _: ClientRun) -> None:
    for client in session.clients[::2]:
        _kill_client(session, client)


def _power_cut(session: Session, client: ClientRun) -> None:
    """The host is gone without a word; it may come back, with a part of what it has written."""
    if not _is_here(client):
        return
    session.note(client, "cut")
    _lose_a_client(session)
    client.host.vanish()
    if session.random.random() < 0.5:

        def boot() -> None:
            sink, random = client.sink, session.random
            kept = random.randint(0, len(sink.data))
            zeros = random.choice((0, len(sink.data) - kept))
            if not sink.is_committed:
                sink.data = sink.data[:kept] + bytes(zeros)
                if zeros:
                    session.note(client, "bad part")
            client.host.boot()
            session.join_again(client)

        session.note(client, "late")
        session.later(15.0 + 30.0 * session.random.random(), boot)


def _kill_server(session: Session, _: ClientRun) -> None:
    """SIGKILL; it may be started again on the same image."""
    if session.server is None or not _is_here(session.server):
        return
    session.causes[ALL] |= {"server killed", "missing"}
    session.server.host.kill()
    if session.random.random() < 0.8:
        _later(session, 10.0, lambda: _serve_again(session))


def _serve_again(session: Session) -> None:
    if session.server is None or session.server.host.is_gone:
        session.serve()


# The network.


def _cut_connection(session: Session, client: ClientRun) -> None:
    ends = client.host.connections()
    if ends:
        session.note(client, "cut")
        _lose_a_client(session)
        end = session.random.choice((ends[-1], ends[-1].peer))
        session.random.choice((end.reset, end.loseConnection))()


def _damage_stream(session: Session, client: ClientRun) -> None:
    """A bit of what TCP carries is turned over, and its checksum has not noticed."""
    if session.is_jasmine:
        return  # where nothing proves the image
    ends = client.host.connections()
    if ends:
        end = session.random.choice((ends[-1], ends[-1].peer, ends[-1].peer))
        if end.damage(session.random.getrandbits(40)):
            session.note(client, "damaged stream")
            _lose_a_client(session)


def _cut_off_client(session: Session, client: ClientRun) -> None:
    """A link is down for a while."""
    host = client.host
    if host.is_gone or host.is_cut_off:
        return
    host.cut_off()
    # A blink costs nobody anything.
    seconds = session.random.choice((1.0, 5.0, 60.0))
    session.note(client, "blink" if seconds < 2.0 else "cut")
    if seconds > 2.0:
        _lose_a_client(session)
    session.later(seconds, host.heal)


def _cut_off_server(session: Session, _: ClientRun) -> None:
    host = session.network.host(SERVER_IP)
    if host.is_gone or host.is_cut_off:
        return
    host.cut_off()
    seconds = session.random.choice((1.0, 5.0, 60.0))
    session.causes[ALL] |= {"blink"} if seconds < 2.0 else {"cut", "missing"}
    session.later(seconds, host.heal)


def _deafen(session: Session, client: ClientRun) -> None:
    """The switch forgets who has joined."""
    client.host.hears_multicast = not client.host.hears_multicast


# Somebody is slow.


def _hold_up_client(session: Session, client: ClientRun) -> None:
    """SIGSTOP, as far as the disk goes."""
    session.note(client, "slow")
    _lose_a_client(session)
    _hold_up(session, client)


def _hold_up_server(session: Session, _: ClientRun) -> None:
    if session.server is not None:
        session.causes[ALL].add("server slow")
        _hold_up(session, session.server)


def _hold_up(session: Session, run: ServerRun | ClientRun) -> None:
    seconds = session.random.choice((3.0, 8.0, 100.0))
    for thread in run.threads.values():
        if session.random.random() < 0.7:
            thread.held = True
            session.later(seconds, thread.release)


def _stop_reading(session: Session, client: ClientRun) -> None:
    """It leaves in its socket what the server sends it, for a while."""
    ends = client.host.connections()
    if ends:
        session.note(client, "slow")
        _lose_a_client(session)
        ends[-1].pauseProducing()
        seconds = session.random.choice((3.0, 8.0, 100.0))
        session.later(seconds, ends[-1].resumeProducing)


# Somebody comes.


def _come_too_many(session: Session, _: ClientRun) -> None:
    """A client more than were expected."""
    session.causes[ALL].add("crowd")
    session.note(session.join(), "late")


def _stranger(session: Session, _: ClientRun) -> None:
    """Somebody who speaks nonsense; where there are no hellos, a client too many."""
    if session.is_jasmine:
        session.causes[ALL] |= {"crowd", "missing"}
    stranger = RawClient(session.network.new_host("10.0.7"), JASMINE)
    noise = session.random.randbytes(session.random.randrange(40))
    session.later(session.random.random(), lambda: stranger.mumble(noise))


def _foreign_packets(session: Session, _: ClientRun) -> None:
    """Packets of another session on the same group, or of nobody."""
    if session.is_jasmine:
        return  # whose packets do not say which session they are of
    random: Random = session.random
    for _packet in range(random.randrange(1, 20)):
        seq = random.choice((random.randrange(200), random.getrandbits(32)))
        size = random.choice((session.mtu - 40, random.randrange(session.mtu)))
        header = seq.to_bytes(4, "big") + random.randbytes(4) + size.to_bytes(4, "big")
        session.network.multicast((GROUP, PORT), header + random.randbytes(size))


def _adversary(session: Session, _: ClientRun) -> None:
    """Somebody on the group forges, repeats, reorders and injects, with a CRC that is right.

    That is the reason of no failure: TCP reaches everybody.
    """
    if session.is_jasmine or session.server is None:
        return  # whose packets nothing proves
    random = session.random
    forger = Forger(session.server.snapshot.plan.salt, Random(random.getrandbits(32)))
    often, swaps = random.choice((0.02, 0.3, 0.9)), random.random() < 0.3

    def meddle(datagram: bytes, copies: Sequence[bytes]) -> Sequence[bytes]:
        forger.hears(datagram)
        found = list(copies)
        while random.random() < often and len(found) < 20:
            found.insert(random.randint(0, len(found)), forger.forge(datagram))
        if swaps:
            random.shuffle(found)
        return found

    session.network.stranger = meddle
    if random.random() < 0.5:
        _later(session, 5.0, lambda: _leave_alone(session))


def _leave_alone(session: Session) -> None:
    session.network.stranger = None


_ACCIDENTS: tuple[Accident, ...] = (
    _interrupt_client,
    _interrupt_server,
    _start_now,
    _kill_client,
    _kill_client,
    _kill_half,
    _power_cut,
    _kill_server,
    _kill_server,
    _cut_connection,
    _cut_connection,
    _cut_connection,
    _damage_stream,
    _cut_off_client,
    _cut_off_client,
    _cut_off_server,
    _deafen,
    _hold_up_client,
    _hold_up_client,
    _hold_up_server,
    _stop_reading,
    _come_too_many,
    _stranger,
    _foreign_packets,
    _adversary,
    _adversary,
)
