"""The tally of a node's resolvers as figures, read when somebody asks for them."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.dns.core.health import State
from services.dns.core.ranking import Rank
from services.dns.core.servers import Server
from services.dns.core.tally import OUTCOMES, SECONDS, Tally


class Figures(Collector):
    """`servers` gives those of all Pods."""

    def __init__(
        self,
        registry: CollectorRegistry,
        tally: Tally,
        servers: Callable[[], Iterator[Server]],
    ) -> None:
        self._tally = tally
        self._servers = servers
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield self._queries()
        yield self._answers()
        trouble = CounterMetricFamily(
            "nsm_dns_trouble", "Packets dropped, sockets that failed, limits met", labels=["what"]
        )
        for what, count in self._tally.trouble.items():
            trouble.add_metric([what], count)
        yield trouble
        yield self._seconds()
        yield self._health()

    def _queries(self) -> Metric:
        found = CounterMetricFamily(
            "nsm_dns_queries",
            "Queries of Pods by transport and by what they got",
            labels=["transport", "outcome"],
        )
        for transport, counts in (("udp", self._tally.datagrams), ("tcp", self._tally.streams)):
            for outcome, count in zip(OUTCOMES, counts, strict=True):
                found.add_metric([transport, outcome], count)
        return found

    def _answers(self) -> Metric:
        found = CounterMetricFamily(
            "nsm_dns_answers",
            "Answers of upstreams (cluster, service) by what they said",
            labels=["upstream", "rank"],
        )
        for kind, counts in self._tally.answers.items():
            for rank in Rank:
                found.add_metric([kind, rank.name.lower()], counts[rank])
        return found

    def _seconds(self) -> Metric:
        found = HistogramMetricFamily("nsm_dns_seconds", "From a Pod's query to its answer")
        buckets, sum_ = [], 0
        for bound, count in zip((*SECONDS, "+Inf"), self._tally.seconds, strict=True):
            sum_ += count
            buckets.append((str(bound), sum_))
        found.add_metric([], buckets=buckets, sum_value=self._tally.seconds_sum)
        return found

    def _health(self) -> Metric:
        found = GaugeMetricFamily(
            "nsm_dns_upstreams",
            "Servers that Pods ask, counted per Pod, by what they are thought to be",
            labels=["upstream", "state"],
        )
        counts: dict[tuple[str, str], int] = {
            (kind, state.value): 0 for kind in self._tally.answers for state in State
        }
        for server in self._servers():
            counts[server.kind, server.health.state.value] += 1
        for (kind, state), count in counts.items():
            found.add_metric([kind, state], count)
        return found
