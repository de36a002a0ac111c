"""The way of the image over one connection: by multicast, by TCP, or by both.

A client in step with the others receives all of it by multicast, buffer by
buffer (:class:`Reception`).  One that is fetching reads it by TCP (:class:`Fetcher`).
One that comes late does both: it receives what is announced from now on, and
fetches what was before.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.events.reactor import IReactor
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.control import ControlReader
from kollacast.receiving.fetching import Fetcher
from kollacast.receiving.hearing import Silence
from kollacast.receiving.output import Output
from kollacast.receiving.reception import Reception
from kollacast.receiving.shape import Shape, Way
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.transport.diagnosis import why_not_joined
from kollacast.transport.receiver import MulticastReceiver
from kollacast.wire.messages import (
    BufferCtl,
    Control,
    Detach,
    Message,
    Notice,
    Packet,
    Repaired,
    Sent,
)
from kollacast.wire.packets import PacketCodec
from kollacast.wire.pieces import Pieces
from kollacast.wire.recipes import PIECES_BASE
from kollacast.wire.structures import SEQ_LIMIT, WireError

_log = Logger()

#: An interface that has this address is what these ask for in vain.
_NO_ADDRESS = (errno.ENODEV, errno.EADDRNOTAVAIL)
#: What to check where this host finds nothing wrong with itself.
_UNREACHED = (
    "; check that this is the right interface and VLAN, that no firewall drops UDP to the group,"
    " and that a switch which snoops on IGMP has a querier"
)
_STOPPED = (
    "; a switch that snoops on IGMP and has no querier forgets its hosts after some minutes, or a"
    " firewall drops UDP to the group now"
)


#: How often datagrams are looked for while one buffer is sent.
_LOOKS_A_BUFFER = 8


class ReceivePort(Protocol):
    """The open port of a multicast group that this host has joined."""

    held_bytes: int  #: that the kernel holds of what is not read yet

    def dropped(self) -> int:
        """How many datagrams it had no room for."""

    def rejoin(self) -> None:
        """Join the group anew."""

    def why_unreached(self, source: str, mtu: int) -> str | None:
        """What on this host keeps multicast of ``mtu`` bytes from ``source`` out, if it is here."""

    def stopListening(self) -> Deferred[None] | None:
        """Close the port; fires once it is closed."""


#: Joins a multicast group as :func:`kollacast.transport.receiver.open_receiver` does.
OpenReceiver = Callable[
    [IReactor, MulticastReceiver, tuple[str, int], str, int, str | None], ReceivePort
]


class Route:
    """Brings an image of this ``shape`` to ``output``.

    :attr:`ended` fires when all of it is kept.  What goes wrong is told to ``guard``.
    """

    def __init__(
        self,
        reactor: IReactor,
        connection: ServerConnection,
        shape: Shape,
        codec: PacketCodec,
        output: Output,
        tally: Tally,
        local_ip: str,
        open_port: OpenReceiver,
        guard: Guard,
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        #: How far the image is, for people.
        self.phase = "waiting for the others"
        #: Whether no multicast has ever reached this host.
        self.is_unreached = False
        self._reactor = reactor
        self._connection = connection
        self._shape = shape
        self._group = "group {} port {}".format(*shape.group)
        self._stream = (connection, shape, codec, output, tally, guard)
        self._signatures = Signatures(reactor, shape.verifier, tally)
        self._output = output
        self._tally = tally
        self._local_ip = local_ip
        self._open_port = open_port
        self._guard = guard
        # None also where the group cannot be joined.
        self._port: ReceivePort | None = None
        self._port_closed: Deferred[None] = succeed(None)
        self._reception: Reception | None = None
        self._receiver: MulticastReceiver | None = None
        self._control = ControlReader(
            reactor, connection, shape.dialect, self._signatures, self._notice, guard
        )
        self._sent_at = reactor.seconds()
        # Whether datagrams wait for the first word of the control stream: the hello has granted
        # room for the first buffers, and these may come before it.
        self._is_held = False
        self._fetching: Fetcher | None = None
        # The first packet that comes by multicast, while those before it are fetched.
        self._first: int | None = 0
        self._stopped = False

    def begin(self, way: Way) -> None:
        """Bring what the output has not got; to be called once."""
        if way is Way.FETCHING:
            self._fetch(SEQ_LIMIT)
        else:
            self._first = 0 if way is Way.IN_STEP else None
            self._join_group()

    def stop(self) -> Deferred[None]:
        """Nothing comes this way any more; fires when the group is left."""
        self._stopped = True
        if self._fetching is not None:
            self._fetching.stop()
        self._leave_group()
        return self._port_closed

    # What the server says.

    def received(self, message: Message) -> None:
        """A message of the image.  Raises WireError when it is out of turn."""
        reception, fetching = self._reception, self._fetching
        if isinstance(message, Packet) and fetching is not None and self._is_before(message.seq):
            fetching.packet(message)
        elif isinstance(message, Packet) and reception is not None:
            reception.packet(message)
        elif isinstance(message, Control) and reception is not None:
            self._hear_by_tcp(message)
            reception.arrived()
        elif isinstance(message, Pieces) and reception is not None:
            reception.pieces(message)
            reception.arrived()
        elif isinstance(message, Sent) and reception is not None:
            self._read_all()
            reception.sent(message)
            reception.arrived()
        elif isinstance(message, BufferCtl) and reception is not None and not self._is_numbered:
            self._announced(reception, message)
        elif isinstance(message, BufferCtl) and fetching is not None:
            fetching.end(message)
        elif isinstance(message, Detach) and (reception is None or self._shape.can_fetch):
            self._leave_step()
        else:
            raise WireError("the server speaks out of turn")

    @property
    def _is_numbered(self) -> bool:
        """Whether buffers are announced in the control stream."""
        return self._shape.dialect.multicasts_control

    def _hear_by_tcp(self, control: Control) -> None:
        if not self._is_held:
            self._read_all()
            self._control.by_tcp(control)
            return
        # From now on it is known what the datagrams are.
        self._is_held = False
        self._control.by_tcp(control)
        if self._receiver is not None:
            self._receiver.go_on()

    def _notice(self, notice: Notice) -> None:
        """The next of the control stream."""
        reception = self._reception
        if reception is None:
            return
        if isinstance(notice, BufferCtl):
            self._announced(reception, notice)
        elif isinstance(notice, Sent):
            reception.sent(notice)
            self._pace_looks()
        elif isinstance(notice, Repaired):
            reception.repaired(notice)

    def _signed(self, seq: int, data: bytes) -> None:
        """A packet beside the image's, of somebody who says to be the server."""
        if seq < PIECES_BASE:
            self._control.by_multicast(seq, data)
        elif self._reception is not None:
            self._reception.pieces_by_multicast(seq, data)

    def _is_before(self, seq: int) -> bool:
        """Whether the packet ``seq`` is one that is fetched."""
        return self._reception is None or (self._first is not None and seq < self._first)

    def _announced(self, reception: Reception, ctl: BufferCtl) -> None:
        if self._first is None:
            # The first announcement says where multicast goes on.
            self._first = ctl.packet_id_base
            self._fetch(self._first)
        elif self._fetching is None:
            self.phase = "receiving"
        reception.buffer(ctl)

    # By multicast.

    def _read_all(self) -> None:
        """What comes by TCP may have overtaken datagrams that wait in the socket."""
        if self._receiver is not None:
            self._receiver.drain()

    def _pace_looks(self) -> None:
        """A buffer is sent: look so often that the next word of one is not found late."""
        now = self._reactor.seconds()
        since, self._sent_at = self._sent_at, now
        if self._receiver is not None:
            self._receiver.look_every((now - since) / _LOOKS_A_BUFFER)

    def _join_group(self) -> None:
        reception = self._reception = Reception(
            self._reactor, *self._stream, self._signatures, self._first
        )
        reception.intake.control = self._signed
        reception.ended.addCallback(self._received_all).addErrback(self._guard.failed)
        try:
            port = self._port = self._open_at_an_address(reception)
        except (CannotListenError, OSError) as error:
            self._cannot_join(error)
            return
        self._tally.held_bytes = port.held_bytes
        self._tally.wanted_bytes = self._shape.unread_bytes
        reception.hearing.silent = self._nothing_heard
        reception.hearing.renew = port.rejoin
        if self._is_numbered and self._receiver is not None:
            self._is_held = True
            self._receiver.hold()

    def _open_at_an_address(self, reception: Reception) -> ReceivePort:
        """Open the port where that was asked for, or at the address that this host has instead."""
        here = str(self._connection.transport.getHost().host)
        try:
            return self._open(reception)
        except OSError as error:
            if error.errno not in _NO_ADDRESS or here == self._local_ip:
                raise
            _log.warn(
                "no interface has the address {local_ip} any more: receiving at {here}",
                event="address-moved",
                local_ip=self._local_ip,
                here=here,
            )
            self._local_ip = here
            return self._open(reception)

    def _open(self, reception: Reception) -> ReceivePort:
        reactor, shape = self._reactor, self._shape
        receiver = MulticastReceiver(reactor, reception.intake, reception.arrived, self._guard)
        port = self._open_port(
            reactor, receiver, shape.group, self._local_ip, shape.unread_bytes, shape.source
        )
        self._receiver = receiver
        return port

    def _cannot_join(self, error: Exception) -> None:
        """This host gets no multicast over this connection: TCP brings all."""
        cause = error.socketError if isinstance(error, CannotListenError) else error
        _log.warn(
            "cannot receive {group} at {local_ip}: {why}. Going on by TCP",
            event="group-not-joined",
            group=self._group,
            local_ip=self._local_ip,
            why=why_not_joined(cause, self._local_ip) if isinstance(cause, OSError) else str(cause),
        )
        self._ask_to_leave()

    def _ask_to_leave(self) -> None:
        """Ask to fetch the rest.  Where the server does not hold the past, repairs are all."""
        if self._shape.can_fetch:
            self._connection.send(Detach().encode(self._shape.dialect))

    def _leave_group(self) -> None:
        self._control.stop()
        self._receiver = None
        if self._reception is not None:
            self._reception.stop()
            self._reception = None
        if self._port is not None:
            self._tally.dropped += self._port.dropped()
            self._port_closed = self._port.stopListening() or succeed(None)
            self._port = None

    def _nothing_heard(self, silence: Silence) -> None:
        """Multicast passes this host by."""
        assert self._port is not None
        source = self._shape.source
        server_ip = source or str(self._connection.transport.getPeer().host)
        found = self._port.why_unreached(server_ip, self._shape.mtu)
        _log.warn(
            "{what}: {packets} packets were sent to {group} and none came in by"
            " {local_ip}{source}{why}{then}",
            event="host-unreached",
            buffer=silence.since,
            what=f"multicast has stopped reaching this host, since buffer {silence.since}"
            if silence.is_new
            else "no multicast reaches this host",
            packets=silence.packets,
            group=self._group,
            local_ip=self._local_ip,
            source=f" from {source}, the only sender taken (--any-source takes all)"
            if source
            else "",
            why=f". {found}" if found else _STOPPED if silence.is_new else _UNREACHED,
            then=". Going on by TCP" if self._shape.can_fetch else "",
        )
        self.is_unreached = not silence.is_new
        self._ask_to_leave()

    # By TCP.

    def _leave_step(self) -> None:
        """The others go on without this client, which fetches the rest."""
        if self._reception is None:
            return
        _log.info("going on by TCP, at this host's own pace", event="host-detached")
        self._leave_group()
        fetching = self._fetching
        if fetching is not None and not fetching.ended.called:
            fetching.lift_limit()
            return
        self._fetching = None
        self._output.settled().addCallback(self._fetch_rest).addErrback(self._guard.failed)

    def _fetch_rest(self, _: None) -> None:
        if not self._stopped:
            self._fetch(SEQ_LIMIT)

    def _fetch(self, limit: int) -> None:
        """Fetch from where the output stands to the packet ``limit``."""
        fetching = self._fetching = Fetcher(*self._stream, limit)
        self.phase = "fetching"
        fetching.ended.addCallback(self._fetched_all).addErrback(self._guard.failed)
        fetching.start()

    # The end.

    def _received_all(self, _: None) -> None:
        self._control.stop()
        if self._fetching is None or self._fetching.ended.called:
            self._end()

    def _fetched_all(self, _: None) -> None:
        if self._reception is None or self._reception.ended.called:
            self._end()
        else:
            self.phase = "receiving"

    def _end(self) -> None:
        self.phase = "verifying"
        # A DETACH that has crossed the last DONE leads to the end a second time.
        if not self.ended.called:
            self.ended.callback(None)
