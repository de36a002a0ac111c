"""The ways in which a kernel delivers datagrams to an intake.

None of them may make a difference to what is received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kollacast.packets.intake import BATCH, RUN, Intake
from kollacast.wire.structures import PACKET_HEADER_SIZE

Delivery = Callable[[Intake, Sequence[bytes]], None]


def coalesced(intake: Intake, datagrams: Sequence[bytes]) -> None:
    """One read of a run that the kernel has kept together: all but the last of one length."""
    segment = len(datagrams[0])
    assert all(len(datagram) == segment for datagram in datagrams[:-1])
    assert len(datagrams[-1]) <= segment
    landing = intake.landing()
    data = b"".join(datagrams)
    rest = memoryview(data)
    for view in intake.vector(landing, min(65536 // intake.stride + 1, BATCH)):
        count = min(len(view), len(rest))
        view[:count] = rest[:count]
        rest = rest[count:]
    assert not rest
    intake.coalesced(landing, len(data), segment)


def coalesced_runs(intake: Intake, datagrams: Sequence[bytes]) -> None:
    """The same for any datagrams, cut into runs that a kernel could have kept."""
    run: list[bytes] = []
    length = 0
    for datagram in datagrams:
        segment = len(run[0]) if run else len(datagram)
        ended = bool(run) and len(run[-1]) < segment
        full = len(run) == BATCH or length + len(datagram) > intake.stride * BATCH
        if run and (ended or full or len(datagram) > segment or not datagram):
            coalesced(intake, run)
            run, length = [], 0
        if datagram:
            run.append(datagram)
            length += len(datagram)
    if run:
        coalesced(intake, run)


def several_runs(intake: Intake, datagrams: Sequence[bytes]) -> None:
    """The same in runs of 7, which land behind each other as long as they belong there."""
    left = [datagram for datagram in datagrams if datagram]
    while left:
        landing = intake.landing(RUN)
        count = 0
        while left and count < landing.room and len(left[0]) == intake.stride:
            slot = landing.slot + count
            header, payload = landing.buffer.vector(slot, 1)
            header[:], payload[:] = left[0][:PACKET_HEADER_SIZE], left[0][PACKET_HEADER_SIZE:]
            if count % 7 == 0 and not intake.is_expected(landing, slot):
                break
            del left[0]
            count += 1
        if count:
            intake.landed(landing, count)
        else:
            coalesced(intake, [left.pop(0)])


def frames(intake: Intake, datagrams: Sequence[bytes]) -> None:
    """Reads of single datagrams, each into a slot of its own, cut off where it is longer."""
    left = list(datagrams)
    while left:
        landing = intake.landing()
        batch = left[: landing.room or BATCH]
        del left[: len(batch)]
        for number, datagram in enumerate(batch):
            header, payload = landing.buffer.vector(landing.slot + number, 1)
            header[: len(datagram[:PACKET_HEADER_SIZE])] = datagram[:PACKET_HEADER_SIZE]
            body = datagram[PACKET_HEADER_SIZE : PACKET_HEADER_SIZE + len(payload)]
            payload[: len(body)] = body
        intake.frames(landing, [min(len(datagram), intake.stride) for datagram in batch])


def single(intake: Intake, datagrams: Iterable[bytes]) -> None:
    """One by one, through memory of the program's own."""
    for datagram in datagrams:
        intake.datagram(datagram)


WAYS: tuple[Delivery, ...] = (coalesced_runs, several_runs, frames, single)
