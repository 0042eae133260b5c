"""What is told: taken from the runtime at each scrape, so that nothing is counted on the data path.

Names follow Prometheus's conventions (base units, `_total` for what only grows). docs/operator.md explains each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from addons.live import LiveSession
    from addons.runtime import Runtime

_OF_SESSIONS = ("resource", "protocol")


class Ended:
    """Sums over the sessions that are over."""

    def __init__(self) -> None:
        self.sessions: Counter[tuple[str, str]] = Counter()
        self.commands: Counter[tuple[str, str]] = Counter()
        self.denied: Counter[tuple[str, str]] = Counter()

    def add(self, live: LiveSession) -> None:
        """Once, at its end."""
        where = live.resource.name, live.resource.protocol
        self.sessions[where] += 1
        self.commands[where] += live.commands
        self.denied[where] += live.denials


class Figures(Collector):
    """For one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """The figures as they are now, in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._sessions()
        yield from self._guard()

    def _process(self) -> Iterator[Metric]:
        runtime = self._runtime
        info = {"version": version("sluicegate"), "gateway": runtime.name, "policy": runtime.policies.version}
        yield InfoMetricFamily("sluicegate", "this gateway", info)
        yield _gauge("start_time_seconds", "when it started, since the epoch", runtime.started_at)
        yield _gauge("stopped", "1 while nothing passes; `status` says why", bool(runtime.stopped))
        lag = runtime.look.take_longest_delay()
        yield _gauge("event_loop_delay_seconds", "longest delay of a timer since the last scrape", lag)

    def _sessions(self) -> Iterator[Metric]:
        runtime, ended = self._runtime, self._runtime.ended
        live: Counter[tuple[str, str]] = Counter()
        commands, denied = Counter(ended.commands), Counter(ended.denied)
        for session in runtime.sessions.values():
            where = session.resource.name, session.resource.protocol
            live[where] += 1
            commands[where] += session.commands
            denied[where] += session.denials
        known: set[tuple[str, str]] = {(one.name, one.protocol) for one in runtime.config.resources}
        yield _gauge("connections", "client connections, logged in or not", runtime.connections)
        yield _gauge("connections_limit", "limits.max_connections", runtime.config.limits.max_connections)
        yield _labelled(GaugeMetricFamily, "sessions", "live sessions", known, live)
        for name, help_, counts in (
            ("sessions_started", "sessions that began", live + ended.sessions),
            ("commands", "commands on record, whatever became of them", commands),
            ("commands_denied", "commands that a policy or the gateway refused", denied),
        ):
            yield _labelled(CounterMetricFamily, name, help_, known, counts)
        refused = CounterMetricFamily(
            "sluicegate_refused", "clients turned away before a session began", labels=("listener", "kind")
        )
        for (listener, kind), count in sorted(runtime.refusals.totals.items()):
            refused.add_metric((listener, kind), count)
        yield refused

    def _guard(self) -> Iterator[Metric]:
        runtime = self._runtime
        yield _gauge("approvals_waiting", "commands that wait for people", runtime.approvals.waiting)
        yield _gauge("contained_subjects", "who is kept out", len(runtime.blocklist.contained))
        records = CounterMetricFamily("sluicegate_journal_records", "records in the journal, over all its lives")
        records.add_metric((), runtime.recorder.position().seq)
        yield records
        yield _gauge(
            "journal_failed", "1 while nothing can be recorded, so nothing passes", bool(runtime.recorder.failed)
        )
        catalogs = GaugeMetricFamily(
            "sluicegate_catalog_fresh", "per database; 0: statements on it are unknown, and denied", labels=("catalog",)
        )
        for keeper in runtime.upstreams.keepers.values():
            catalogs.add_metric((keeper.name,), not keeper.error)
        yield catalogs
        usable = GaugeMetricFamily(
            "sluicegate_issuer_keys_usable_until_seconds",
            "since the epoch; from then on its tokens are refused. 0: its keys were never read",
            labels=("issuer",),
        )
        failing = GaugeMetricFamily("sluicegate_issuer_failing", "1: its keys cannot be read now", labels=("issuer",))
        for issuer in runtime.verifier.status():
            usable.add_metric((issuer["issuer"],), issuer["usable_until"] or 0)
            failing.add_metric((issuer["issuer"],), issuer["error"] is not None)
        yield usable
        yield failing


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sluicegate_{name}", help_, value=value)


def _labelled(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    help_: str,
    known: set[tuple[str, str]],
    counts: Counter[tuple[str, str]],
) -> Metric:
    """Every configured resource has its line from the start: a counter that appears late hides its first steps."""
    metric = family(f"sluicegate_{name}", help_, labels=_OF_SESSIONS)
    for where in sorted(known | counts.keys()):
        metric.add_metric(where, counts[where])
    return metric
