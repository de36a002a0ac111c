"""What is shown of a run, as values: its history, the page's events, JSON, metrics."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.outcome import Outcome, Status
from kollacast.server.cycle import Stage
from kollacast.server.snapshot import ClientEntry, HostState, Snapshot
from kollacast.status import board as board_module
from kollacast.status.board import Board
from kollacast.status.document import Moment, document
from kollacast.status.feed import COLUMNS, Picture, picture
from kollacast.status.history import History, Point
from kollacast.status.metrics import Metrics
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase
from tests.status_values import PACKETS, SIZE, host, run

_CHECKOUT = Path(__file__).resolve().parents[1]
_DOCS = _CHECKOUT / "docs"
_HOSTILE = '<img src=x onerror="alert(1)">\n\u2028"},{\\'


def _moment(now: Snapshot, outcome: Outcome | None = None) -> Moment:
    return Moment(now, History(), outcome)


def _point(seconds: float, bytes_done: int = 0) -> Point:
    return Point(seconds, bytes_done, 0, 0, 0, 0)


class HistoryTests(SynchronousTestCase):
    """Points in time."""

    def test_the_rate_is_that_of_the_last_seconds(self) -> None:
        history = History()
        self.assertEqual(history.rate(), 0.0)
        for second in range(20):
            history.add(_point(second, 1000 * second if second < 10 else 10_000))
        self.assertEqual(history.rate(), 0.0)
        history.add(_point(20, 16_000))
        self.assertEqual(history.rate(), 2000.0)

    def test_nothing_is_taken_down_twice(self) -> None:
        history = History()
        for _ in range(5):
            history.add(_point(0.0))
        self.assertEqual(history.rows(), [[0.0, 0, 0, 0, 0, 0]])

    def test_it_is_bounded_and_spans_all(self) -> None:
        history = History()
        for second in range(50_000):
            history.add(_point(second, second))
        rows = history.rows()
        self.assertLessEqual(len(rows), 602)
        self.assertGreater(len(rows), 200)
        seconds = [row[0] for row in rows]
        self.assertEqual(seconds, sorted(set(seconds)))
        self.assertEqual((seconds[0], seconds[-1]), (0, 49_999))
        self.assertLess(max(b - a for a, b in pairwise(seconds)), 300)

    def test_a_run_that_begins_anew(self) -> None:
        history = History()
        for seconds in (0.0, 5.0, 6.0, 1.0):
            history.add(_point(seconds))
        self.assertEqual([row[0] for row in history.rows()], [1.0])


def _data(event: bytes) -> tuple[str, dict[str, Any]]:
    """The name of a server-sent event, and what it says."""
    head, data, *rest = event.decode("ascii").split("\n")
    assert rest == ["", ""], "an event is two lines, and an empty one"
    return head.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def _applied(whole: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What the page makes of an event that follows another."""
    columns = {name: list(values) for name, values in whole["columns"].items()}
    for name, news in change["columns"].items():
        if isinstance(news, list):
            columns[name] = news
            continue
        values = columns[name]
        for at, to in zip(news["at"], news["to"], strict=True):
            values[at : at + 1] = [to]
    columns = {name: values[: change["hosts"]] for name, values in columns.items()}
    return {"run": {**whole["run"], **change["run"]}, "columns": columns}


class FeedTests(SynchronousTestCase):
    """The page's events."""

    def assert_follows(self, before: Snapshot, after: Snapshot) -> bytes:
        one, two = picture(_moment(before)), picture(_moment(after))
        event = two.since(one)
        name, change = _data(event)
        self.assertEqual(name, "change")
        applied = _applied(_data(one.whole())[1], change)
        self.assertEqual(applied, {"run": two.run, "columns": two.columns})
        return event

    def test_all_of_it(self) -> None:
        name, whole = _data(picture(_moment(run(host(1), host(2)))).whole())
        self.assertEqual(name, "whole")
        self.assertEqual(tuple(whole["columns"]), COLUMNS)
        self.assertEqual(whole["columns"]["name"], ["host-1", "host-2"])
        self.assertEqual([whole["states"][n] for n in whole["columns"]["state"]], ["receiving"] * 2)
        self.assertEqual(whole["run"]["total"], SIZE)

    def test_what_changes(self) -> None:
        hosts = [host(number) for number in range(9)]
        moved = [*hosts[:4], host(4, packets_done=PACKETS // 4), *hosts[5:]]
        event = self.assert_follows(run(*hosts), run(*moved, seconds=3.0))
        _, change = _data(event)
        self.assertEqual(change["columns"], {"done": {"at": [4], "to": [250]}})
        self.assertEqual(change["run"], {"seconds": 3.0})
        all_moved = [host(number, packets_done=PACKETS // 4) for number in range(9)]
        _, change = _data(self.assert_follows(run(*hosts), run(*all_moved)))
        self.assertEqual(change["columns"], {"done": [250] * 9})

    def test_hosts_come_and_go(self) -> None:
        one, two, three = host(1), host(2), host(3)
        self.assert_follows(run(), run(one))
        self.assert_follows(run(one), run(one, two, three))
        self.assert_follows(run(one, two, three), run(two, three))
        self.assert_follows(run(one, two), run())

    def test_a_text_is_a_text_and_bounded(self) -> None:
        entry = host(1, None, reason=_HOSTILE + "x" * 100_000)
        event = self.assert_follows(run(host(1)), run(entry))
        self.assertLess(len(event), 2000)
        _, whole = _data(picture(_moment(run(entry))).whole())
        self.assertTrue(whole["columns"]["reason"][0].startswith(_HOSTILE))

    def test_who_is_waited_for(self) -> None:
        late = host(2, owes="DONE", owed_s=2.34, answers_due=1)
        alone = host(3, "out of step", owes="FETCH", owed_s=9.0)
        _, whole = _data(picture(_moment(run(host(1), late, alone))).whole())
        self.assertEqual(whole["run"]["holding"], [[1, "DONE", 23]])
        self.assertEqual(whole["columns"]["owed"], [0, 23, 90])
        # An answer is always due, for a moment.
        prompt = host(2, owes="DONE", owed_s=0.3, answers_due=1)
        self.assertEqual(picture(_moment(run(prompt))).columns["owes"], [None])

    def test_a_pipe_has_no_end(self) -> None:
        entry = host(1, packets_done=PACKETS // 4)
        shown = picture(_moment(run(entry, size=None)))
        self.assertEqual((shown.run["total"], shown.columns["done"]), (None, [500]))
        self.assertIsNone(shown.run["left"])

    def test_the_end(self) -> None:
        line, report = "0 of 1 clients have the image", {"diagnosis": ["look at the switch"]}
        ended = _moment(run(host(1), stage=Stage.ENDED), Outcome(Status.FAILED, line, report))
        shown = picture(ended).run
        self.assertEqual((shown["status"], shown["message"]), (1, line))
        self.assertEqual(shown["diagnosis"], ["look at the switch"])
        self.assertEqual(shown["rate"], SIZE // 4)

    def test_a_thousand_hosts_that_all_move(self) -> None:
        """At most 50 KB for each viewer, once a second, whatever changes of everyone."""

        def hosts(step: int) -> list[ClientEntry]:
            return [
                host(
                    n,
                    packets_done=PACKETS // 2 + 10 * step + n % 7,
                    packets_sent=PACKETS,
                    packets_lost=(n * 37 + step * 11) % PACKETS,
                    packets_repaired=100_000 + n + step,
                    packets_fetched=1_000_000 + n * step,
                    packets_owed=(n + step) % 2,
                    owed_s=1.0 + step + n / 10_000,
                    owes=("DONE", "READY")[step % 2],
                    answers_due=1,
                )
                for n in range(1000)
            ]

        event = self.assert_follows(run(*hosts(1)), run(*hosts(2), seconds=3.0))
        self.assertLess(len(event), 50_000)
        usual = [host(n, packets_done=PACKETS // 4, packets_sent=100) for n in range(1000)]
        event = self.assert_follows(run(*(host(n) for n in range(1000))), run(*usual))
        self.assertLess(len(event), 15_000)


class BoardTests(SynchronousTestCase):
    """Looks."""

    def setUp(self) -> None:
        self.looks = 0
        self.board = Board(self.look)

    def look(self) -> Snapshot:
        self.looks += 1
        return run(host(1), seconds=float(self.looks))

    def test_one_look_for_all(self) -> None:
        self.board.look()
        for _ in range(5):
            self.board.whole()
            self.board.document()
            self.assertEqual(self.board.moment.now.seconds, 1.0)
        self.assertEqual(self.looks, 1)
        self.assertIs(self.board.whole(), self.board.whole())
        self.assertIs(self.board.document(), self.board.document())

    def test_what_nobody_asks_for_is_not_made(self) -> None:
        made: list[Moment] = []

        def make(moment: Moment) -> Picture:
            made.append(moment)
            return picture(moment)

        self.patch(board_module, "picture", make)
        for _ in range(3):
            self.board.look()
        self.assertEqual(made, [])
        self.board.whole()
        self.board.look()
        self.assertEqual(len(made), 2)
        self.assertEqual(_data(self.board.change())[0], "change")
        self.board.rest()
        self.board.look()
        self.assertEqual(len(made), 2)
        # Who comes now begins with all of it.
        self.assertEqual(_data(self.board.change())[0], "whole")


class DocumentTests(MemoryTestCase):
    """/status.json."""

    def setUp(self) -> None:
        super().setUp()
        self.schema = json.loads((_DOCS / "status.schema.json").read_text("utf-8"))
        Draft202012Validator.check_schema(self.schema)

    def assert_valid(self, moment: Moment) -> dict[str, Any]:
        made = json.loads(json.dumps(document(moment), allow_nan=False))
        Draft202012Validator(self.schema).validate(made)
        return dict(made)

    def test_a_run_from_its_start_to_its_end(self) -> None:
        network = Network()
        server = network.serve(bytes(20_000), clients=2)
        board = Board(lambda: server.snapshot)
        phases = []
        for step in range(4):
            board.look()
            phases.append(self.assert_valid(board.moment)["live"]["phase"])
            if step < 2:
                network.join()
                network.run_for(0.01)
        outcome = server.finish()
        board.look(outcome)
        ended = self.assert_valid(board.moment)
        self.assertEqual(phases[0], "waiting for clients")
        self.assertEqual(ended["exit_status"], 0)
        self.assertEqual(ended["live"]["states"]["verified"], 2)
        report = {"exit_status": 0, "message": outcome.line, **outcome.report}
        for client in ended["clients"]:
            self.assertEqual(client.pop("live")["state"], "verified")
        del ended["live"]
        self.assertEqual(ended, report)
        self.assertEqual(list(ended), list(report))

    def test_every_key_is_described(self) -> None:
        """The schema has what there is, and nothing else but other digests and what is to come."""
        made = document(_moment(run(host(1))))
        described = set(self.schema["properties"])
        self.assertLessEqual(set(made), described)
        self.assertLessEqual(described - set(made), {"blake3", "tree", "sha256", "diagnosis"})
        for part, shown in (("client", made["clients"][0]), ("live", made["live"])):
            self.assertEqual(set(self.schema["$defs"][part]["properties"]), set(shown), part)
        states = self.schema["$defs"]["state"]["enum"]
        self.assertEqual(states, [state.value for state in HostState])

    def test_nobody_is_here(self) -> None:
        self.assert_valid(_moment(run(seconds=0.0, bytes_done=0, rate_bps=None)))
        self.assert_valid(_moment(run(size=0, bytes_done=0)))
        self.assert_valid(_moment(run(host(1, None, reason=_HOSTILE), size=None)))
        self.assert_valid(_moment(run(), Outcome(Status.FAILED, "cannot listen", {})))


class MetricsTests(SynchronousTestCase):
    """/metrics."""

    def text(self, now: Snapshot, *, per_host: bool = False, outcome: Outcome | None = None) -> str:
        moment = _moment(now, outcome)
        return Metrics(lambda: moment, per_host=per_host).encoded("")[0].decode()

    def values(self, text: str) -> dict[tuple[str, ...], float]:
        """By name, and values of labels, which are sorted by their names."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def test_figures(self) -> None:
        hosts = (
            host(1, packets_sent=1000, packets_lost=0),
            host(2, packets_sent=1000, packets_lost=70, owes="DONE", owed_s=3.0, answers_due=1),
            host(3, None, reason="the connection was lost"),
            host(4, "out of step", packets_sent=1000, packets_lost=10, owes="FETCH", owed_s=9.0),
        )
        found = self.values(self.text(run(*hosts)))
        for key, value in {
            ("kollacast_sent_bytes_total", "multicast"): 7_400_000,
            ("kollacast_sent_bytes_total", "tcp"): 9000,
            ("kollacast_repair_packets_total", "multicast"): 3,
            ("kollacast_repair_packets_total", "tcp"): 5,
            ("kollacast_hosts", "receiving"): 2,
            ("kollacast_hosts", "detached"): 1,
            ("kollacast_hosts", "failed"): 1,
            ("kollacast_hosts", "verified"): 0,
            ("kollacast_expected_hosts",): 4,
            ("kollacast_awaited_packets_total",): 3000,
            ("kollacast_lost_packets_total",): 80,
            ("kollacast_loss_ratio_bucket", "0.0"): 1,
            ("kollacast_loss_ratio_bucket", "0.05"): 2,
            ("kollacast_loss_ratio_bucket", "+Inf"): 3,
            ("kollacast_loss_ratio_count",): 3,
            ("kollacast_barrier_wait_seconds",): 3.0,
            ("kollacast_phase", "sending"): 1,
            ("kollacast_phase", "verifying"): 0,
            ("kollacast_image_size_bytes",): SIZE,
            ("kollacast_rate_limit_bytes_per_second",): 1e9 / 8,
        }.items():
            self.assertEqual(found[key], value, key)
        self.assertNotIn(("kollacast_exit_status",), found)
        ended = self.values(self.text(run(*hosts), outcome=Outcome(Status.PARTIAL, "")))
        self.assertEqual(ended[("kollacast_exit_status",)], 4)

    def test_no_label_has_a_value_for_each_host(self) -> None:
        few, many = (self.text(run(*map(host, range(n)))) for n in (1, 1000))
        self.assertEqual(len(few.splitlines()), len(many.splitlines()))
        self.assertNotIn("host-1", many)

    def test_each_host_where_that_is_wanted(self) -> None:
        hosts = (host(1, packets_done=PACKETS // 2), host(1, verified=True), host(2))
        found = self.values(self.text(run(*hosts), per_host=True))
        one, other = "10.0.0.2", "10.0.0.3"
        self.assertEqual(found[("kollacast_host_done_ratio", one, "host-1")], 0.5)
        # Two may have the same name and address, and no two series may be alike.
        self.assertEqual(found[("kollacast_host_done_ratio", one, "host-1 #2")], 1.0)
        self.assertEqual(found[("kollacast_host_state", other, "host-2", "receiving")], 1)

    def test_hostile_names(self) -> None:
        text = self.text(run(host(1, name=_HOSTILE), name=_HOSTILE), per_host=True)
        found = self.values(text)
        self.assertIn(("kollacast_host_done_ratio", "10.0.0.2", _HOSTILE), found)
