"""The way of the image over one connection: by multicast, by TCP, or by both.

A client in step with the others receives all of it by multicast, buffer by
buffer (:class:`Reception`).  One outside the barrier fetches it by TCP
(:class:`Pull`).  One that comes late does both: it receives what is announced
from now on, and fetches what was before.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client.terms import Terms
from kollacast.receiving.output import Output
from kollacast.receiving.pull import Pull
from kollacast.receiving.reception import Reception, Silence
from kollacast.transport.diagnosis import why_not_joined
from kollacast.transport.receiver import MulticastReceiver
from kollacast.wire.messages import BufferCtl, Detach, Done, Message, Packet, Repaired, Sent
from kollacast.wire.packets import PacketCodec
from kollacast.wire.structures import WireError

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

ReceiverFactory = Callable[[Any, MulticastReceiver, tuple[str, int], str, int], Any]


class Connection(Protocol):
    """The way to the server, and what is expected on it."""

    @property
    def local_ip(self) -> str:
        """This host's address on the way to the server."""

    @property
    def server_ip(self) -> str:
        """The server's address."""

    def send(self, message: bytes) -> None:
        """Send a message."""

    def expect_packets(self, count: int) -> None:
        """So many retransmissions are due."""

    def abort(self) -> None:
        """Close at once."""


class Route:
    """Brings an image on ``terms`` to ``output``, beginning with one of three calls.

    :attr:`ended` fires when all of it is kept.  It fails with OSError when the sink
    does, and with InconsistentBuffer.
    """

    def __init__(
        self,
        reactor: Any,
        connection: Connection,
        terms: Terms,
        codec: PacketCodec,
        output: Output,
        local_ip: str,
        open_port: ReceiverFactory,
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        #: How far the image is, for people.
        self.phase = "waiting for the others"
        #: Whether the server has said anything of the image.
        self.has_begun = False
        #: Whether no multicast has ever reached this host.
        self.is_unreached = False
        #: What has come, and how: of interest when all is over.
        self.receptions: list[Reception] = []
        self.pulls: list[Pull] = []
        self._reactor = reactor
        self._connection = connection
        self._terms = terms
        self._codec = codec
        self._output = output
        self._local_ip = local_ip
        self._open_port = open_port
        # None also where the group cannot be joined.
        self._port: Any = None
        self._port_closed: Deferred[Any] = succeed(None)
        self._reception: Reception | None = None
        self._pull: Pull | None = None
        # The first packet that comes by multicast, while a pull brings those before it.
        self._first: int | None = 0
        self._stopped = False

    # How to begin.

    def receive(self) -> None:
        """All by multicast, in step with the others."""
        self._join_group(self._output.keep, 0)

    def receive_late(self) -> None:
        """By multicast what is announced from now on, by TCP what was before."""
        self._first = None
        self._join_group(self._output.keep_tail, None)

    def fetch(self) -> None:
        """By TCP all that the output has not got."""
        self._fetch(None)

    def stop(self) -> Deferred[Any]:
        """Nothing comes this way any more; fires when the group is left."""
        self._stopped = True
        if self._pull is not None:
            self._pull.stop()
        self._leave_group()
        return self._port_closed

    @property
    def over(self) -> bool:
        """Whether the server has come to the end of the image: the digest may follow."""
        if self._reception is not None:
            return self._reception.over
        return self._pull is not None and self._pull.over

    # What the server says.

    def received(self, message: Message) -> None:
        """A message of the image.  Raises WireError when it is out of turn."""
        self.has_begun = True
        reception, pull = self._reception, self._pull
        if isinstance(message, Detach):
            if reception is not None:
                if not self._terms.fetch:
                    raise WireError("the server speaks out of turn")
                self._go_alone()
        elif isinstance(message, Packet) and pull is not None and self._is_before(message.seq):
            pull.packet(message)
        elif reception is not None:
            self._of_reception(reception, message)
        elif pull is not None and isinstance(message, BufferCtl):
            pull.end(message)
        else:
            raise WireError("the server speaks out of turn")

    def _is_before(self, seq: int) -> bool:
        """Whether the packet ``seq`` is one that is fetched."""
        return self._reception is None or (self._first is not None and seq < self._first)

    def _of_reception(self, reception: Reception, message: Message) -> None:
        if isinstance(message, BufferCtl):
            if self._first is None:
                self._join_late(message)
            elif self._pull is None:
                self.phase = "receiving"
            reception.buffer(message)
        elif isinstance(message, Sent):
            reception.sent()
        elif isinstance(message, Repaired):
            reception.repaired(message.buffer_id)
        elif isinstance(message, Packet):
            reception.packet(message)
        else:
            raise WireError("the server speaks out of turn")

    # By multicast.

    def _join_group(self, keep: Callable[..., Deferred[None]], first: int | None) -> None:
        terms = self._terms
        reception = Reception(
            self._connection,
            terms.dialect,
            self._codec,
            capacity=terms.capacity,
            buffer_packets=terms.buffer_packets,
            window=terms.window,
            keep=keep,
            first=first,
        )
        reception.ended.addCallbacks(lambda _: self._received_all(reception), self._failed)
        self.receptions.append(reception)
        self._reception = reception
        try:
            self._open_at_an_address(reception)
        except (CannotListenError, OSError) as error:
            self._cannot_join(error)
            return
        reception.silent = self._nothing_heard
        reception.renew = self._port.rejoin
        reception.heard = self._heard_again

    def _open_at_an_address(self, reception: Reception) -> None:
        """Open the port where that was asked for, or at the address that this host has instead."""
        here = self._connection.local_ip
        try:
            self._open(reception)
        except OSError as error:
            if error.errno not in _NO_ADDRESS or here == self._local_ip:
                raise
            _log.warn(
                "no interface has the address {local_ip} any more: receiving at {here}",
                local_ip=self._local_ip,
                here=here,
            )
            self._local_ip = here
            self._open(reception)

    def _open(self, reception: Reception) -> None:
        receiver = MulticastReceiver(self._reactor, reception.intake, reception.arrived)
        terms = self._terms
        self._port = self._open_port(
            self._reactor, receiver, terms.group, self._local_ip, terms.unread
        )
        reception.drain = receiver.drain

    def _cannot_join(self, error: Exception) -> None:
        """This host gets no multicast over this connection: TCP brings all."""
        cause = error.socketError if isinstance(error, CannotListenError) else error
        group, port = self._terms.group
        _log.warn(
            "cannot receive group {group} port {port} at {local_ip}: {why}. Going on by TCP",
            group=group,
            port=port,
            local_ip=self._local_ip,
            why=why_not_joined(cause, self._local_ip) if isinstance(cause, OSError) else str(cause),
        )
        self._ask_to_leave()

    def _ask_to_leave(self) -> None:
        """Ask to go on outside the barrier.  Where the past is not held, repairs are all."""
        if self._terms.fetch:
            self._connection.send(Detach().encode(self._terms.dialect))

    def _leave_group(self) -> None:
        if self._reception is not None:
            self._reception.stop()
            self._reception = None
        self._output.drop_tail()
        if self._port is not None:
            self._port_closed = maybeDeferred(self._port.stopListening)
            self._port = None

    def _join_late(self, ctl: BufferCtl) -> None:
        """The first announcement says where multicast goes on."""
        self._first = ctl.packet_id_base
        if not ctl.is_end:
            self._output.begin_tail(self._first * self._terms.capacity)
        self._fetch(self._first)

    def _nothing_heard(self, silence: Silence) -> None:
        """Multicast passes this host by."""
        group, port = self._terms.group
        found = self._port.why_unreached(self._connection.server_ip, self._terms.mtu)
        _log.warn(
            "{what}: {packets} packets were sent to group {group} port {port} and none came in by"
            " {local_ip}{why}{then}",
            what=f"multicast has stopped reaching this host, since buffer {silence.since}"
            if silence.is_new
            else "no multicast reaches this host",
            packets=silence.packets,
            group=group,
            port=port,
            local_ip=self._local_ip,
            why=f". {found}" if found else _STOPPED if silence.is_new else _UNREACHED,
            then=". Going on by TCP" if self._terms.fetch else "",
        )
        self.is_unreached = not silence.is_new
        self._ask_to_leave()

    def _heard_again(self) -> None:
        _log.info("multicast reaches this host again")

    # By TCP.

    def _go_alone(self) -> None:
        """The others go on without this client."""
        _log.info("going on by TCP, at this host's own pace")
        self._leave_group()
        pull = self._pull
        if pull is not None and not pull.ended.called:
            pull.lift_limit()
            return
        self._pull = None

        def settled(_: None) -> None:
            if not self._stopped:
                self._fetch(None)

        self._output.settled().addCallback(settled).addErrback(self._failed)

    def _fetch(self, limit: int | None) -> None:
        """Fetch from where the output stands to the packet ``limit``."""
        pull = Pull(
            self._connection,
            self._terms.dialect,
            self._codec,
            self._terms.capacity,
            self._output,
            limit,
        )
        self._pull = pull
        self.pulls.append(pull)
        self.phase = "fetching"
        pull.ended.addCallbacks(lambda _: self._fetched_all(pull), self._failed)
        pull.start()

    # The end.

    def _received_all(self, reception: Reception) -> None:
        if self._terms.dialect.proves:
            self._connection.send(Done().encode(self._terms.dialect))
        if self._pull is None or self._pull.ended.called:
            self._end()

    def _fetched_all(self, pull: Pull) -> None:
        if self._reception is None or self._reception.ended.called:
            self._end()
        else:
            self.phase = "receiving"

    def _end(self) -> None:
        self.phase = "verifying"
        # A DETACH that has crossed the last DONE leads to the end a second time.
        if not self.ended.called:
            self.ended.callback(None)

    def _failed(self, failure: Failure) -> None:
        if not self.ended.called:
            self.ended.errback(failure)
