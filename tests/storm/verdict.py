"""What must hold at the end of a session, whatever has happened in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kollacast.operator.outcome import Outcome, Status
from tests.simulation.runs import ClientRun, ServerRun
from tests.storm.session import ALL, Session, is_ok

_STRANGERS = {"wrong secret", "not allowed"}
#: Every reason that a client may end with, and what may have caused it.  Nothing else may be said,
#: and nothing that did not happen.
_REASONS: tuple[tuple[str, set[str]], ...] = (
    (r"interrupted", {"interrupted"}),
    (r"the server gave up: interrupted", {"server interrupted"}),
    (r"the server (gave up|refuses this client): cannot read the image: .+", {"bad input"}),
    (r"the server gave up: \d of \d clients came within \d+ s(: .+)?", {"missing", "late"}),
    (r"the server gave up: no (READY|DONE|REPORT|FETCH|room for more) for \d+ s", {"slow", "cut"}),
    (r"the server gave up: broke the protocol: .+", {"damaged stream"}),
    (
        r"the server gave up: (no client is left|the session has ended)",
        {"missing", "late", "server killed"},
    ),
    (
        r"the server gave up: .*(--spool|the spool holds .*)",
        {"no past"},
    ),
    (
        r"the server refuses this client: all (\d clients are here already|is fetched.*)",
        {"crowd", "counted twice"},
    ),
    (r"the image is proved by .*", {"damaged stream"}),
    (
        r"the server refuses this client: the session has (ended|begun without this client, .+)",
        # Who may not join is one too many, as well; and who reads slowly says hello too late.
        {"late", "cut", "slow", "server killed", "crowd", "counted twice", *_STRANGERS},
    ),
    (r"the server refuses this client: .+, and it cannot fetch", {"damaged stream"}),
    (
        r"the server refuses this client: it does not know the shared secret, or .+",
        {"wrong secret"},
    ),
    (r"the server refuses this client: it speaks TLS: give --token-file.+", {"wrong secret"}),
    (r"10\.0\.0\.1 port 18383: it speaks without TLS .+", {"wrong secret"}),
    (r"the server (asks for a|does not ask for the) shared secret.+", {"wrong secret"}),
    (
        r"the server refuses this client: a host of this name is here already",
        {"counted twice", "cut", "slow"},
    ),
    (
        r"the server refuses this client: this host is not among those that may join",
        {"not allowed"},
    ),
    (
        r"(the connection was lost, and )?no server at .+ within 100 s: .+",
        {
            "late",
            "cut",
            "slow",
            "crowd",
            "counted twice",
            "damaged stream",
            "server killed",
            "server interrupted",
            *_STRANGERS,
        },
    ),
    (
        r"the server closed the connection before the image was complete",
        {
            "bad input",
            "crowd",
            "cut",
            "late",
            "missing",
            "server interrupted",
            "server killed",
            "slow",
        },
    ),
    (r"what answers at .+ is no kollacast server: it has not greeted.+", {"cut", "slow"}),
    (r"what answers at .+ has not said a word within .+", {"cut", "slow"}),
    (r"the server has another image now, and a part .+ already", {"server killed"}),
    (r"the image is not the server's: .+", {"bad part", "damaged stream"}),
    (r"cannot write the image: No space left on device", {"full disk"}),
    (r"10\.0\.0\.1 port 18383: .+", {"damaged stream"}),
    # A hello, a greeting or a text that says something else.
    (r"the server (refuses this client:|gave up:|asks for a proof by) .+", {"damaged stream"}),
)


def faults(session: Session) -> list[str]:
    """What is not as it must be; empty when all is well."""
    return list(_faults(session))


def _faults(session: Session) -> Iterator[str]:
    for run in session.running():
        if run.outcome is None:
            yield f"{_name(run)} has not ended: it is {run.phase}"
    for client in session.clients:
        yield from _faults_of_client(session, client)
    for server in session.servers:
        if server.outcome is not None:
            yield from _faults_of_server(session, server, server.outcome)
    yield from session.growth
    if all(run.outcome is not None for run in session.running()):
        yield from (f"left behind: {leftover}" for leftover in session.network.leftovers())


def _faults_of_client(session: Session, client: ClientRun) -> Iterator[str]:
    outcome, sink, name = client.outcome, client.sink, _name(client)
    if sink.is_committed and sink.data != session.image:
        yield f"{name} has committed something else"
    if outcome is None:
        return
    if is_ok(client) != sink.is_committed:
        yield f"{name} says {_say(outcome)}, committed: {sink.is_committed}"
    if is_ok(client):
        if session.causes[name] & _STRANGERS:
            yield f"{name} has the image and may not"
        return
    if not sink.is_abandoned:
        yield f"{name} has not abandoned its sink"
    if outcome.status is not Status.FAILED:
        yield f"{name} ends with {outcome.status.name}"
    causes = session.causes[name] | session.causes[ALL]
    explained = [why for reason, why in _REASONS if re.fullmatch(reason, outcome.line)]
    if not any(why & causes for why in explained):
        yield f"{name} says {_say(outcome)}, and there was only {sorted(causes)}"


def _faults_of_server(session: Session, server: ServerRun, outcome: Outcome) -> Iterator[str]:
    entries = outcome.report["clients"]
    verified = sum(entry["verified"] for entry in entries)
    expected = Status.PARTIAL if verified else Status.FAILED
    if verified >= session.clients_expected:
        expected = Status.OK
    if outcome.status is not expected:
        yield f"{verified} clients are verified, and the server says {_say(outcome)}"
    if "program" in outcome.line:
        yield f"the server says {_say(outcome)}"
    for entry in entries:
        if not entry["verified"] and not (entry["reason"] or outcome.report["reason"]):
            yield f"the server does not say why {entry['name']} has not got the image"
    if server is session.server:
        for client in session.clients:
            yield from _faults_of_entry(session, client, _entry(session, entries, client))


def _entry(
    session: Session, entries: list[dict[str, Any]], client: ClientRun
) -> dict[str, Any] | None:
    """What the last server's report says of a client, whichever of its runs that was."""
    key, value = "name", client.config.name
    if session.is_jasmine:
        key, value = "address", client.host.address
    return next((entry for entry in entries if entry[key] == value), None)


def _faults_of_entry(
    session: Session, client: ClientRun, entry: dict[str, Any] | None
) -> Iterator[str]:
    name = _name(client)
    later = [run for run in session.clients if run.number == client.number][-1]
    if entry is None or client is not later:
        return
    if client.outcome is not None and client.outcome.report["dialect"] is None:
        # It has met no server any more: the report is of a run before.
        return
    if session.causes[name] & _STRANGERS:
        yield f"{name} may not join and is in the server's report"
    if entry["verified"] and client.outcome is not None and not is_ok(client):
        yield f"{name} counts as verified and says {_say(client.outcome)}"
    # Whoever has the image says so, unless there is nobody to hear it, or it has said already that
    # it is interrupted, and its commit was quicker.
    unheard = {"cut", "server interrupted", "server killed", "slow", "damaged stream", "bad input"}
    unheard.add("interrupted")
    if is_ok(client) and not entry["verified"]:
        if not (session.causes[name] | session.causes[ALL]) & unheard:
            yield f"{name} has the image, and the server says: {entry['reason']}"


def _name(run: ServerRun | ClientRun) -> str:
    return run.config.name if isinstance(run, ClientRun) else "the server"


def _say(outcome: Outcome) -> str:
    return f"{outcome.status.name}: {outcome.line}"
