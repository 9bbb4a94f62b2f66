"""How each kind of metrics server counts what happened in a window, and where each log store keeps a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SERVICE = "job"
ENVIRONMENT = "deployment_environment_name"
DATABASE = "db_namespace"
ENDPOINT = "confiture_webhook_endpoint"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of metrics server: its folder, its name, and how it counts.

    *whole* and *part* count how much a counter of whole numbers, and one of seconds, grew in a window. *along* is
    the window of a graph's interval, *shortest* the interval below which a graph's counts are not right.
    """

    folder: str
    name: str
    whole: str
    part: str
    along: str = "$__interval"
    shortest: str = "1m"

    def grown(self, selector: str, window: str = "$__range", *, is_whole: bool = True) -> str:
        """How much each series of *selector* grew in *window*."""
        form = self.whole if is_whole else self.part
        return form.replace("SELECTOR", selector).replace("WINDOW", window)

    def count(self, selector: str, window: str = "$__range", by: str = "") -> str:
        """How much all of *selector* grew in *window*, by the labels *by*."""
        return f"{_summed(by)}({self.grown(selector, window)})"

    def seconds(self, selector: str, window: str = "$__range", by: str = "") -> str:
        """The same of a counter of seconds."""
        return f"{_summed(by)}({self.grown(selector, window, is_whole=False)})"

    def quantile(self, percent: int, selector: str, window: str, by: str = "") -> str:
        """A percentile of a histogram's growth in *window*."""
        labels = f"le, {by}" if by else "le"
        return f"histogram_quantile(0.{percent}, {self.count(selector, window, labels)})"


def _summed(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"


DIALECTS = (
    Dialect(
        "prometheus",
        "Prometheus 3.16 or newer",
        "increase(SELECTOR[WINDOW] anchored)",
        "increase(SELECTOR[WINDOW] anchored)",
    ),
    Dialect(
        "compatible",
        "Prometheus 3.5, Mimir, Grafana Cloud, Thanos",
        "round(increase(SELECTOR[WINDOW]))",
        "increase(SELECTOR[WINDOW])",
        along="$__rate_interval",  # $__interval loses what happened between two windows
        shortest="5m",
    ),
    Dialect(
        "victoriametrics",
        "VictoriaMetrics",
        "increase(SELECTOR[WINDOW])",
        "increase(SELECTOR[WINDOW])",
    ),
)


@dataclass(frozen=True, slots=True)
class LogStore:
    """One kind of log store: its data source in Grafana, and how it is asked."""

    name: str
    source: str
    query_type: str

    def lines(self, events: Sequence[str], where: Sequence[str] = (), pipe: str = "") -> str:
        """The log records named *events* of the chosen services and environments, narrowed by variables."""
        if self.name == "loki":
            found = '{service_name=~"$service", deployment_environment_name=~"$environment"}'
            found += f' | event_name=~"{"|".join(events)}"'
            return found + "".join(f' | {name}=~"${name}"' for name in where)
        # A backslash that Grafana puts before a dot is an error between double quotes.
        found = "{service.name=~`${service:regex}`} "
        found += "deployment.environment.name:~`^(${environment:regex})$`"
        found += f' event_name:~"^({"|".join(events)})$"'
        return found + "".join(f" {name}:~`^(${{{name}:regex}})$`" for name in where) + pipe

    def field(self, name: str) -> str:
        """The name of a field in this store."""
        return name.replace(".", "_") if self.name == "loki" else name


LOG_STORES = (
    LogStore("victorialogs", "victoriametrics-logs-datasource", "instant"),
    LogStore("loki", "loki", "range"),
)
