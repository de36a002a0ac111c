"""The benchmark tells the truth: a wrong copy, a failed tool and a missed goal are said so."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from bench.ballast import Ballast
from bench.contenders import CONTENDERS, sweep
from bench.crew import Crew, Side, TransferError
from bench.crowd.__main__ import setting_of as crowd_setting
from bench.image import make_image
from bench.results import (
    has_failed,
    judge,
    judge_cost,
    load,
    save,
    settled_port_loss,
)
from bench.rows import MIB, SCALE_ROWS, SWEEP_ROWS, by_name, some_by_name
from bench.runner import has_turn
from bench.scaling import filled, judge_scale
from bench.table import markdown
from lab import Host


class _HereHost(Host):
    """A host that is this very machine."""

    def command(self, argv: Any) -> list[str]:
        return list(argv)


_HERE = _HereHost("", "127.0.0.1", "")


def _transfer(seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "wall_s": seconds,
        "data_s": seconds,
        "sender_cpu_s": 1.0,
        "receivers_cpu_s": 1.0,
        "machine_cpu_s": 1.0,
        "sender_peak_bytes": MIB,
        "receiver_peak_bytes": MIB,
        **more,
    }


def _record(size: int, **contenders: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """A row's record from the transfers of each contender by number of hosts."""
    machine = dict.fromkeys(
        ("kernel", "processor", "cores", "memory_gib", "python", "load_before"), 1
    )
    return {
        "measured": "2020-01-01T00:00:00+00:00",
        "machine": machine,
        "network": "a network",
        "size": size,
        "repetitions": 3,
        "contenders": {
            name: {
                "version": "1",
                "options": f"--for {name}",
                "hosts": {str(n): {"transfers": some} for n, some in by_hosts.items()},
            }
            for name, by_hosts in contenders.items()
        },
    }


class GoalTests(TestCase):
    """A goal is judged by the median, against what was measured in the same row."""

    def test_ratio_to_the_fastest_other_multicast_tool(self) -> None:
        record = _record(
            MIB,
            kollacast={4: [_transfer(1.0), _transfer(2.0), _transfer(100.0)]},
            udpcast={4: [_transfer(11.0)]},
            uftp={4: [_transfer(30.0)]},
            unicast={4: [_transfer(0.1)]},
        )
        verdict = judge(by_name("raw-4"), record)
        self.assertEqual((verdict.measured, verdict.is_reached), ("5.50 x", True))
        record["contenders"]["uftp"] = {"hosts": {"4": {"transfers": [_transfer(9.0)]}}}
        verdict = judge(by_name("raw-4"), record)
        self.assertEqual((verdict.measured, verdict.is_reached), ("4.50 x", False))

    def test_share_of_the_links_payload_limit(self) -> None:
        # 1460/1514 of 1 Gbit/s is 120,541,611 bytes/s.
        for seconds, text, is_reached in ((10.0, "100.0%", True), (10.4, "96.2%", False)):
            record = _record(1205416116, kollacast={4: [_transfer(seconds)]})
            verdict = judge(by_name("link"), record)
            self.assertEqual((verdict.measured, verdict.is_reached), (text, is_reached))

    def test_a_slow_port_is_judged_by_its_loss_too(self) -> None:
        # 300 of 1000 lost in the first quarter, then 1 of 100, then 3 of 100.
        port = [[0.0, 0, 0], [1.0, 700, 300], [2.5, 800, 350], [6.0, 899, 351], [9.9, 996, 354]]
        record = _record(241083223, kollacast={4: [_transfer(10.0, port=port)]})
        self.assertEqual(settled_port_loss(record, "kollacast", 4), 4 / 200)
        verdict = judge(by_name("slow-port"), record)
        self.assertEqual((verdict.measured, verdict.is_reached), ("100.0%, loss 2.00%", False))
        port[-1] = [9.9, 997, 353]
        self.assertIs(judge(by_name("slow-port"), record).is_reached, True)

    def test_growth_with_the_number_of_hosts(self) -> None:
        for seconds, text, is_reached in ((10.2, "+2.0%", True), (10.4, "+4.0%", False)):
            some = {1: [_transfer(10.0)], 32: [_transfer(20.0, data_s=seconds)]}
            verdict = judge(by_name("hosts"), _record(MIB, kollacast=some))
            self.assertEqual(verdict.measured, f"{text} data time, +100.0% wall time")
            self.assertIs(verdict.is_reached, is_reached)

    def test_what_those_who_watch_cost(self) -> None:
        def watched(seconds: float, sent: int) -> dict[str, Any]:
            return _transfer(seconds, report={"viewer": {"bytes": sent, "seconds": 2.0}})

        for seconds, sent, text, is_reached in (
            (10.2, 100_000, "+2.0%, 50.0 kB/s", True),
            (10.3, 100_000, "+3.0%, 50.0 kB/s", False),
            (9.9, 100_002, "-1.0%, 50.0 kB/s", False),
        ):
            record = _record(MIB, kollacast={4: [_transfer(10.0)]})
            with_them = {"hosts": {"4": {"transfers": [watched(seconds, sent)]}}}
            record["contenders"]["kollacast-watched"] = with_them
            verdict = judge(by_name("watched"), record)
            self.assertEqual((verdict.measured, verdict.is_reached), (text, is_reached))
        record["contenders"]["kollacast-watched"] = {"hosts": {}}
        self.assertIsNone(judge(by_name("watched"), record).is_reached)

    def test_memory(self) -> None:
        record = _record(MIB, kollacast={4: [_transfer(1.0)]})
        self.assertIs(judge_cost(record, 4).is_reached, True)
        heavy = _transfer(1.0, receiver_peak_bytes=128 * MIB)
        record["contenders"]["kollacast"]["hosts"]["4"]["transfers"].append(heavy)
        self.assertIs(judge_cost(record, 4).is_reached, False)

    def test_nothing_measured_is_no_goal_reached(self) -> None:
        failed = _record(MIB, kollacast={4: [{"error": "no"}]}, udpcast={4: [_transfer(1.0)]})
        for name in ("raw-4", "link", "slow-port", "hosts"):
            self.assertIsNone(judge(by_name(name), failed).is_reached)
        self.assertIsNone(judge_cost(failed, 4).is_reached)


class RecordTests(TestCase):
    """What was measured is kept, shown and answered for."""

    def test_rows_of_several_runs_make_one_file(self) -> None:
        path = Path(self.mktemp()) / "results.json"
        first = _record(MIB, kollacast={4: [_transfer(1.0)]}, udpcast={4: [_transfer(2.0)]})
        save(path, {**load(path), "raw-4": first})
        save(path, {**load(path), "link": _record(MIB, kollacast={4: [_transfer(3.0)]})})
        again = _record(MIB, kollacast={4: [_transfer(4.0)]})
        save(path, {**load(path), "raw-4": again})
        records = load(path)
        self.assertEqual(list(records), ["raw-4", "link"])
        self.assertEqual(list(records["raw-4"]["contenders"]), ["kollacast"])

    def test_the_table_names_failures_and_what_is_missing(self) -> None:
        record = _record(
            MIB, kollacast={4: [_transfer(1.0)]}, uftp={4: [{"error": "not done after 180 s"}]}
        )
        record["contenders"]["udpcast"] = {
            "missing": "not installed: udp-sender",
            "options": "",
            "hosts": {},
        }
        page = markdown({"raw-4": record})
        self.assertIn("not installed: udp-sender", page)
        self.assertIn("- raw-4, 4 hosts, uftp, transfer 1: not done after 180 s", page)
        self.assertIn("`--for kollacast`", page)

    def test_the_table_says_which_digest_a_row_used_and_what_the_other_one_costs(self) -> None:
        some = {4: [_transfer(1.0)]}
        record = _record(50 * MIB, kollacast=some, udpcast={4: [_transfer(10.0)]})
        record["contenders"]["kollacast"].update(is_subject=True, digest="blake3")
        self.assertNotIn("by digest", markdown({"raw-4": record}))
        variant = {"version": "1", "options": "", "is_subject": True, "digest": "sha256"}
        hosts = {"4": {"transfers": 3 * [_transfer(2.0)]}}
        record["contenders"]["kollacast-sha256"] = {**variant, "hosts": hosts}
        page = markdown({"raw-4": record})
        self.assertIn("| **raw-4** | no limit | 50 MiB | 4 | blake3 | 52.4, 1 transfer |", page)
        self.assertIn("| raw-4 | blake3 | 52.4, 1 transfer | 10.00 x |", page)
        self.assertIn("| raw-4 | sha256 | 26.2 | 5.00 x |", page)

    def test_the_sweep_stands_in_a_table_of_its_own(self) -> None:
        row = SWEEP_ROWS[0]
        record = _record(10_000_000, **{c.name: {4: 3 * [_transfer(2.0)]} for c in sweep()})
        for contender in sweep():
            record["contenders"][contender.name].update(contender.facts(row))
        best = record["contenders"]["window 4, 2048 packets"]
        best["hosts"]["4"]["transfers"] = 3 * [_transfer(1.0)]
        page = markdown({row.name: record})
        self.assertIn(
            "| 3.0 MB (2048 packets) | 5.0 (1) | 5.0 (1) | 10.0 (1) | 5.0 (1) |",
            page,
        )
        self.assertIn("**Defaults: 5.0 (1)**, 50% of the best above", page)
        path = Path(self.mktemp()) / "results.json"
        save(path, {row.name: record})
        self.assertEqual(list(load(path)), [row.name])

    def test_simulated_hosts_keep_no_copies(self) -> None:
        self.assertEqual(by_name("scale-1000").copies(1000), 0)
        self.assertEqual(by_name("link").copies(4), 4)
        self.assertEqual(some_by_name("scale"), SCALE_ROWS)

    def test_what_makes_the_command_fail(self) -> None:
        wrong = {"error": "copy-1 differs", "is_wrong": True}
        record = _record(
            MIB,
            kollacast={4: [{"error": "not done after 180 s"}]},
            udpcast={4: [wrong]},
            uftp={4: [{"error": "gave up"}]},
        )
        self.assertEqual(
            has_failed(record),
            ["kollacast, 4 hosts: not done after 180 s", "udpcast, 4 hosts: copy-1 differs"],
        )

    def test_copies_are_compared_with_the_image(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        image = make_image(folder, 3_000_001)
        whole = image.path.read_bytes()
        self.assertEqual(len(whole), 3_000_001)
        flipped = bytes([whole[0] ^ 1]) + whole[1:]
        contents = {"same": whole, "short": whole[:-1], "flipped": flipped}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        copies = [folder / name for name in (*contents, "absent")]
        self.assertEqual(
            image.differing(copies),
            [
                "short has 3000000 bytes instead of 3000001",
                "flipped differs",
                "absent is missing",
            ],
        )


class ScaleTests(TestCase):
    """What simulated hosts show: beside one host, and held to goals of their own."""

    def _measured(self, seconds: float, cpu_s: float, **more: Any) -> dict[str, Any]:
        crowd = {"buffers": 100, "tcp_bytes": 400_000, "control_bytes": 100_000}
        crowd |= {"detached": 2, "asks": 7}
        report = {"packets_multicast": 7192, "crowd": crowd}  # 10,500,320 bytes
        return _transfer(seconds, sender_cpu_s=cpu_s, report=report, **more)

    def setUp(self) -> None:
        one = _record(10_000_000, kollacast={1: 3 * [self._measured(5.0, 2.0)]})
        quick, slow = self._measured(4.0, 1.0), self._measured(6.0, 8.0)
        many = _record(10_000_000, kollacast={1000: [quick, slow, slow]})
        self.records = {"scale-1": one, "scale-1-loss": one, "scale-1000": many}

    def test_they_stand_in_tables_of_their_own(self) -> None:
        page = markdown(self.records)
        # 7.0 s to one are 6.0 s more for 999 others and 100 buffers.
        self.assertIn("| 1000 | 6.00 | 1.20 | 8.00 | 80 | 60 | 1 | 1.100 | 2 | 7 | 1.00 |", page)
        self.assertIn("| 1 | 5.00 | n/a | 2.00 | 20000 | n/a | 1 | 1.100 | 2 | 7 | 1.00 |", page)
        self.assertNotIn("sweep", page)
        failed = markdown({"scale-1000": _record(MIB, kollacast={1000: [{"error": "no"}]})})
        self.assertIn("| 1000 | failed: no |" + 9 * " n/a |", failed)
        self.assertIn("| scale-1000 | time at most 1.05 x that of scale-1 | n/a | not kn", failed)

    def test_goals(self) -> None:
        self.records["scale-1000-loss"] = self.records["scale-1000"]
        self.records["scale-1000-killed"] = self.records["scale-1000"]
        verdicts = {
            name: [
                (verdict.measured, verdict.is_reached)
                for verdict in judge_scale(by_name(name), self.records)
            ]
            for name in self.records
        }
        peak = ("1 MiB", True)
        self.assertEqual(verdicts["scale-1"], [peak])
        self.assertEqual(verdicts["scale-1000"], [("1.200 x", False), ("60 µs", False), peak])
        self.assertEqual(
            verdicts["scale-1000-loss"], [("1.200 x", False), ("1.100 x", False), peak]
        )
        self.assertEqual(verdicts["scale-1000-killed"], [("1.200 x", False), peak])

    def test_reached(self) -> None:
        good = self._measured(5.25, 2.0 + 999 * 100 * 40e-6, sender_peak_bytes=256 * MIB)
        self.records["scale-1000"] = _record(10_000_000, kollacast={1000: 3 * [good]})
        verdicts = judge_scale(by_name("scale-1000"), self.records)
        self.assertEqual([verdict.is_reached for verdict in verdicts], 3 * [True])

    def test_one_host_of_another_image_is_nothing_to_compare_with(self) -> None:
        self.records["scale-1"]["size"] = MIB
        time, cpu, _ = judge_scale(by_name("scale-1000"), self.records)
        self.assertEqual((time.is_reached, cpu.is_reached), (None, None))

    def test_the_page(self) -> None:
        page = "# Title\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nend\n"
        empty = filled(page, {}, "picture.png")
        self.assertEqual(empty, page.replace("old", "Not measured yet."))
        full = filled(empty, self.records, "picture.png")
        self.assertIn("**scale-1000**", full)
        self.assertIn("](picture.png)\n<!-- measured: end -->\nend\n", full)
        self.assertEqual(filled(full, {}, "picture.png"), empty)

    def test_what_is_asked_for_is_a_crowd_that_can_be(self) -> None:
        for row in SCALE_ROWS:
            words = ["here", "there", str(row.hosts[-1]), "--loss", str(row.loss)]
            disturbance = crowd_setting([*words, *row.disturbance]).disturbance
            self.assertEqual(bool(row.disturbance), disturbance.hosts > 0)
            self.assertEqual(row.kills, disturbance.killed > 0)
            assert row.scale_goals is not None
            self.assertEqual(by_name(row.scale_goals.one).size, row.size)


class TurnTests(TestCase):
    """kollacast runs as often as the row says; what decides nothing does not take its time."""

    def _turns(self, row: str, contender: str, seconds: float, *, hosts: int = 4) -> int:
        taken: list[float] = []
        while len(taken) < 3 and has_turn(by_name(row), CONTENDERS[contender], hosts, taken, None):
            taken.append(seconds)
        return len(taken)

    def test_turns(self) -> None:
        self.assertEqual(self._turns("link", "kollacast", 100.0), 3)
        self.assertEqual(self._turns("raw-4", "udpcast", 20.0), 3)
        self.assertEqual(self._turns("raw-4", "udpcast", 25.0), 2)
        self.assertEqual(self._turns("raw-4", "udpcast", 90.0), 1)
        self.assertEqual(self._turns("link", "udpcast", 1.0), 1)
        self.assertEqual(self._turns("raw-4", "unicast", 1.0), 1)

    def test_other_tools_leave_out_some_numbers_of_hosts(self) -> None:
        self.assertEqual(self._turns("hosts", "unicast", 1.0, hosts=32), 1)
        self.assertEqual(self._turns("hosts", "unicast", 1.0, hosts=16), 0)
        self.assertEqual(self._turns("hosts", "kollacast", 1.0, hosts=16), 3)

    def test_asked_for_repetitions_are_made(self) -> None:
        self.assertTrue(has_turn(by_name("link"), CONTENDERS["udpcast"], 4, [500.0], 2))


class BallastTests(TestCase):
    """Memory is held, exchanged for that of the copies, and given back when it is needed."""

    def test_memory_is_held_until_it_is_needed(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        ballast = Ballast(folder / "ballast", 3 * MIB)
        ballast.fill()
        self.assertEqual(self._bytes_in(folder), 3 * MIB)
        ballast.release(MIB)
        self.assertEqual(self._bytes_in(folder), 0)
        copies = [folder / "copy-0", folder / "copy-1"]
        copies[0].write_bytes(bytes(2 * MIB))
        ballast.take(copies)
        self.assertFalse(copies[0].exists())
        ballast.fill()
        self.assertEqual((ballast.held, self._bytes_in(folder)), (3 * MIB, 3 * MIB))

    def test_no_more_is_held_than_was_asked_for(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        ballast = Ballast(folder / "ballast", MIB)
        for number in range(3):
            copy = folder / f"copy-{number}"
            copy.write_bytes(bytes(MIB))
            ballast.take([copy])
        self.assertEqual(self._bytes_in(folder), MIB)

    def _bytes_in(self, folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class CrewTests(TestCase):
    """Processes are waited for, paid for, and never left behind."""

    def _python(self, crew: Crew, program: str) -> Any:
        return crew.start(_HERE, Side.RECEIVER, [sys.executable, "-c", program])

    def test_a_process_that_fails_is_named_with_its_last_words(self) -> None:
        with Crew(Path(self.mktemp()).absolute(), limit_s=30) as crew:
            process = self._python(crew, "import sys; sys.exit('no such interface')")
            error = self.assertRaises(TransferError, crew.wait, [process])
        self.assertEqual(str(error), "receiver-0 ended with status 1: no such interface")
        self.assertFalse(error.is_too_slow)

    def test_a_process_may_have_to_fail(self) -> None:
        with Crew(Path(self.mktemp()).absolute(), limit_s=30) as crew:
            for status in (4, 0):
                argv = [sys.executable, "-c", f"import sys; sys.exit({status})"]
                process = crew.start(_HERE, Side.SENDER, argv, statuses=(4,))
                if status:
                    crew.wait([process])
                else:
                    error = self.assertRaises(TransferError, crew.wait, [process])
        self.assertIn("ended with status 0", str(error))

    def test_over_the_limit(self) -> None:
        with Crew(Path(self.mktemp()).absolute(), limit_s=0.2) as crew:
            process = self._python(crew, "import time; time.sleep(600)")
            error = self.assertRaises(TransferError, crew.wait, [process])
            self.assertTrue(error.is_too_slow)
        self.assertIsNotNone(process.status)

    def test_a_copy_is_complete_before_its_receiver_ends(self) -> None:
        folder = Path(self.mktemp()).absolute()
        program = "import os; open('part', 'w').close(); os.rename('part', 'copy')"
        with Crew(folder, limit_s=60) as crew:
            crew.began = time.monotonic()
            process = self._python(crew, f"{program}; import time; time.sleep(0.5)")
            crew.finish([folder / "copy"], crew.wait([process]))
        assert crew.completed is not None
        assert crew.finished is not None
        self.assertGreater(crew.finished - crew.completed, 0.4)
        self.assertGreater(crew.completed, crew.began)

    def test_waiting_until_receivers_are_idle_outlasts_their_start(self) -> None:
        program = """
import pathlib, time
end = time.process_time() + 0.5
while time.process_time() < end: pass
pathlib.Path("started").touch()
time.sleep(600)
"""
        folder = Path(self.mktemp()).absolute()
        with Crew(folder, limit_s=60) as crew:
            process = self._python(crew, program)
            crew.wait_until_idle([process])
            self.assertTrue((folder / "started").exists())
        self.assertGreater(process.cpu_s, 0.5)

    def test_peak_memory_is_the_processes_own(self) -> None:
        own = bytearray(192 * MIB)  # The benchmark itself may be the larger process.
        own[::4096] = b"x" * len(own[::4096])
        program = "import time; b = bytearray(b'x') * (64 << 20); del b; time.sleep(0.5)"
        with Crew(Path(self.mktemp()).absolute(), limit_s=60) as crew:
            process = self._python(crew, program)
            crew.wait([process])
        self.assertGreater(process.peak_bytes, 64 * MIB)
        self.assertLess(process.peak_bytes, 128 * MIB)
