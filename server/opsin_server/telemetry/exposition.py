"""The HTTP endpoint that Prometheus scrapes: GET /metrics.

Runs in threads of its own, so that a slow or hanging scraper never holds up the event loop. Knows nothing of
what is in the registry.
"""

from prometheus_client import CollectorRegistry, start_http_server

__all__ = ["MetricsEndpoint"]


class MetricsEndpoint:
    """Listens from construction until `close`."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """port 0 takes any free one. Raises OSError when the address cannot be had."""
        self._server, self._thread = start_http_server(port, host, registry)
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop listening. Blocks for at most half a second, the time the listener takes to look up."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
