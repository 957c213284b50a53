"""What gRPC is told about how far a client may run ahead."""

from opsin_server.config import Settings
from opsin_server.rpc.server import options


def test_a_client_may_run_ahead_of_what_is_read_by_so_much_and_grpc_may_not_raise_that() -> None:
    told = dict(options(Settings(server={"lookahead_bytes": 200_000})))  # type: ignore[arg-type]
    assert told["grpc.http2.lookahead_bytes"] == 200_000
    assert told["grpc.http2.bdp_probe"] == 0


def test_without_a_bound_grpc_chooses() -> None:
    told = dict(options(Settings(server={"lookahead_bytes": 0})))  # type: ignore[arg-type]
    assert not {"grpc.http2.lookahead_bytes", "grpc.http2.bdp_probe"} & told.keys()
