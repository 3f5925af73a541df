from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from doors.link_metrics import LinkMetrics
from param_server.breaker import BreakerLimits
from param_server.link import Link


def exposed(registry: CollectorRegistry) -> set[str]:
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if not line.startswith("#")}


async def test_what_a_link_does_is_told_by_server() -> None:
    registry = CollectorRegistry()
    metrics = LinkMetrics(registry)
    assert exposed(registry) == set()
    tables = Link("redis://tables", 1, 0.1, BreakerLimits(failures=1))
    metrics.watch("tables", lambda: [tables])
    streams = Link("redis://streams", 1, 0.1, BreakerLimits())
    metrics.watch("streams", lambda: [streams])
    assert 'repcenter_breaker_state{server="tables",state="closed"} 1.0' in exposed(registry)
    tables.breaker.failed(tables.breaker.begin(), OSError("gone"))
    tables.counts.retries, tables.counts.wait_s = 3, 0.5
    found = exposed(registry)
    assert {
        'repcenter_breaker_state{server="tables",state="closed"} 0.0',
        'repcenter_breaker_state{server="tables",state="open"} 1.0',
        'repcenter_breaker_state{server="streams",state="closed"} 1.0',
        'repcenter_breaker_opened_total{server="tables"} 1.0',
        'repcenter_redis_retries_total{server="tables"} 3.0',
        'repcenter_pool_wait_seconds_total{server="tables"} 0.5',
        'repcenter_pool_busy_total{server="streams"} 0.0',
    } <= found
    assert "redis://" not in "".join(found)
