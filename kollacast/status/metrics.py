"""The run as Prometheus reads it, by its own client library.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kollacast import __version__
from kollacast.server.snapshot import PHASES, Snapshot
from kollacast.status.document import Moment
from kollacast.status.history import point_of

#: Upper bounds of the shares of packets that hosts have lost.
_LOSS_BOUNDS = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics(Collector):
    """Makes metrics of a moment; of each host, too, where that is wanted."""

    def __init__(self, look: Callable[[], Moment], *, per_host: bool) -> None:
        self._look = look
        self._per_host = per_host
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def encoded(self, accept: str) -> tuple[bytes, str]:
        """The metrics of the last look, and their content type, as the reader accepts it."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing: a moment is looked at when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        moment = self._look()
        yield from _of_the_run(moment)
        yield from _of_all_hosts(moment)
        if self._per_host:
            yield from _of_each_host(moment.now)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"kollacast_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"kollacast_{name}", text, value=value)


def _of_the_run(moment: Moment) -> Iterator[Metric]:
    now = moment.now
    about = {"version": __version__, "dialect": now.plan.dialect.name, "image": now.name or ""}
    yield InfoMetricFamily("kollacast_run", "What runs, and what it sends.", value=about)
    current = now.progress().phase
    phase = GaugeMetricFamily(
        "kollacast_phase", "1 for the phase that the run is in, 0 for the others.", labels=["phase"]
    )
    for name in dict.fromkeys(PHASES.values()):
        phase.add_metric([name], int(name == current))
    yield phase
    yield _gauge("run_seconds", "Seconds since the first buffer, up to the end.", now.seconds)
    if now.plan.size is not None:
        yield _gauge("image_size_bytes", "Bytes of the image.", now.plan.size)
    yield _gauge("image_done_bytes", "Bytes of the image that were sent.", now.bytes_done)
    sent = CounterMetricFamily(
        "kollacast_sent_bytes",
        "Bytes that left, repairs too, by the way they took.",
        labels=["way"],
    )
    sent.add_metric(["multicast"], now.bytes_multicast)
    sent.add_metric(["tcp"], now.bytes_tcp)
    yield sent
    yield _counter("sent_packets", "Packets that were multicast.", now.packets_multicast)
    repairs = CounterMetricFamily(
        "kollacast_repair_packets",
        "Packets sent to mend losses: combined by multicast, or by TCP.",
        labels=["way"],
    )
    repairs.add_metric(["multicast"], now.packets_coded)
    repairs.add_metric(["tcp"], now.packets_resent)
    yield repairs
    if now.rate_bps is not None:
        yield _gauge(
            "rate_limit_bytes_per_second",
            "How fast multicast may leave, headers included.",
            now.rate_bps / 8,
        )
    if moment.outcome is not None:
        status = int(moment.outcome.status)
        yield _gauge("exit_status", "How the run has ended; absent before.", status)


def _of_all_hosts(moment: Moment) -> Iterator[Metric]:
    now = moment.now
    hosts = GaugeMetricFamily("kollacast_hosts", "Hosts in each state.", labels=["state"])
    for state, count in moment.counts.items():
        hosts.add_metric([state], count)
    yield hosts
    yield _gauge("expected_hosts", "Hosts that are to get the image.", now.config.clients)
    sums = point_of(now)
    yield _counter(
        "awaited_packets",
        "Packets that were multicast, once for each host that was to hear them.",
        sums.packets_sent,
    )
    yield _counter("lost_packets", "Those of them that did not come.", sums.packets_lost)
    losses = [c.account.loss for c in now.clients if c.account.loss is not None]
    yield HistogramMetricFamily(
        "kollacast_loss_ratio",
        "Hosts by the share of packets multicast to them that they have lost so far.",
        buckets=_buckets(losses),
        sum_value=sum(losses),
    )
    waits = max([c.owed_s for c in now.clients if c.holds_up], default=0.0)
    yield _gauge(
        "barrier_wait_seconds", "For how long all have waited for the slowest answer.", waits
    )


def _buckets(losses: list[float]) -> list[tuple[str, float]]:
    within = Counter(next((b for b in _LOSS_BOUNDS if loss <= b), None) for loss in losses)
    counts = accumulate(within[bound] for bound in _LOSS_BOUNDS)
    named = [(str(bound), count) for bound, count in zip(_LOSS_BOUNDS, counts, strict=True)]
    return [*named, ("+Inf", len(losses))]


def _of_each_host(now: Snapshot) -> Iterator[Metric]:
    labels = ["host", "address"]
    state = GaugeMetricFamily(
        "kollacast_host_state", "1: the host is so.", labels=[*labels, "state"]
    )
    done = GaugeMetricFamily(
        "kollacast_host_done_ratio", "How much of the image the host has.", labels=labels
    )
    loss = GaugeMetricFamily(
        "kollacast_host_loss_ratio",
        "The share of packets multicast to the host that it has lost so far.",
        labels=labels,
    )
    waits = GaugeMetricFamily(
        "kollacast_host_barrier_wait_seconds",
        "For how long the others have waited for the host.",
        labels=labels,
    )
    total = now.bytes_done if now.plan.size is None else now.plan.size
    seen: Counter[tuple[str, str]] = Counter()
    for entry in now.clients:
        account = entry.account
        key = (account.name, account.address)
        seen[key] += 1
        # Prometheus takes nothing at all where two series have the same labels.
        name = account.name if seen[key] == 1 else f"{account.name} #{seen[key]}"
        values = [name, account.address]
        state.add_metric([*values, now.state(entry).value], 1)
        done.add_metric(values, now.bytes_of(entry) / total if total else 0.0)
        waits.add_metric(values, entry.owed_s if entry.holds_up else 0.0)
        if account.loss is not None:
            loss.add_metric(values, account.loss)
    yield from (state, done, loss, waits)
