"""What happens to the processes of one transfer of the soak, and what may come of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

from soak_transfer import Condition, Process, Transfer

from lab import Host

#: Waits for conditions by yielding them, and does its harm in between. It sets the exit statuses
#: that it permits; where it sets none, all processes have to end with 0.
Fault = Callable[[Transfer], Iterator[Condition]]


def _none(transfer: Transfer) -> Iterator[Condition]:
    transfer.happened = True
    yield from ()


def _client_killed(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    if transfer.kill(transfer.clients[transfer.victim]):
        transfer.server.permitted = {4}


def _half_killed(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    number = transfer.plan.clients
    for step in range(number // 2):
        if transfer.kill(transfer.clients[(transfer.victim + step) % number]):
            transfer.server.permitted = {4}


def _client_terminated(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    if transfer.kill(transfer.clients[transfer.victim], signal.SIGTERM):
        # It may have become complete in the last moment.
        transfer.server.permitted = {0, 4}


def _client_restarted(transfer: Transfer) -> Iterator[Condition]:
    client = transfer.clients[transfer.victim]
    yield transfer.arrived(transfer.victim)
    if transfer.kill(client):
        yield transfer.ended(client)
        transfer.clients[transfer.victim] = transfer.start_client(transfer.victim)


def _client_stopped(transfer: Transfer) -> Iterator[Condition]:
    client = transfer.clients[transfer.victim]
    yield transfer.arrived(transfer.victim)
    yield from _stopped(transfer, client)


def _server_stopped(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _stopped(transfer, transfer.server)


def _stopped(transfer: Transfer, process: Process) -> Iterator[Condition]:
    if process.status is None:
        process.popen.send_signal(signal.SIGSTOP)
        transfer.happened = True
        yield transfer.after(transfer.plan.seconds)
        process.popen.send_signal(signal.SIGCONT)


def _server_killed(transfer: Transfer) -> Iterator[Condition]:
    """For good: every client says so, or names the failsafe registry."""
    yield transfer.arrived(transfer.victim)
    waiting = [client for client in transfer.clients if client.status is None]
    if transfer.kill(transfer.server):
        for client in waiting:
            # Zero: it had everything, the digest included, and was about to end.
            client.permitted = {75 if transfer.plan.failsafe else 1, 0}


def _server_restarted(transfer: Transfer) -> Iterator[Condition]:
    first = transfer.server
    yield transfer.arrived(transfer.victim)
    if transfer.kill(first):
        yield transfer.ended(first)
        transfer.start_server()
        if any(client.status is not None for client in transfer.clients):
            # Those have the image, and the second server does not hear of it.
            transfer.server.permitted = {0, 4}


def _cable_pulled(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _unplugged(transfer, transfer.lab.clients[transfer.victim])


def _server_cable_pulled(transfer: Transfer) -> Iterator[Condition]:
    yield transfer.arrived(transfer.victim)
    yield from _unplugged(transfer, transfer.lab.server)


def _unplugged(transfer: Transfer, host: Host) -> Iterator[Condition]:
    transfer.lab.set_link(host, up=False)
    transfer.happened = True
    yield transfer.after(transfer.plan.seconds)
    transfer.lab.set_link(host, up=True)


def _late_joiner(transfer: Transfer) -> Iterator[Condition]:
    others = [i for i in range(transfer.plan.clients) if i != transfer.victim]
    yield lambda: any(transfer.arrived(i)() for i in others)
    transfer.clients.append(transfer.start_client(transfer.victim))
    transfer.happened = True


def _multicast_blocked(transfer: Transfer) -> Iterator[Condition]:
    """A firewall on one host, from before the start."""
    transfer.lab.block_multicast(transfer.lab.clients[transfer.victim])
    transfer.happened = True
    yield from ()


def _stranger(transfer: Transfer) -> Iterator[Condition]:
    """Someone without the secret comes with the others, from a host of his own."""
    stranger = transfer.start_client(transfer.plan.clients, token="wrong")
    stranger.permitted = {75 if transfer.plan.failsafe else 1}
    transfer.happened = True
    yield from ()


FAULTS: dict[str, Fault] = {
    "none": _none,
    "client killed": _client_killed,
    "half of the clients killed": _half_killed,
    "client terminated": _client_terminated,
    "client restarted": _client_restarted,
    "client stopped": _client_stopped,
    "server stopped": _server_stopped,
    "server killed": _server_killed,
    "server restarted": _server_restarted,
    "cable pulled": _cable_pulled,
    "server's cable pulled": _server_cable_pulled,
    "late joiner": _late_joiner,
    "multicast blocked": _multicast_blocked,
    "stranger": _stranger,
}
