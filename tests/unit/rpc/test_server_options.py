"""What gRPC is told about how far a client may run ahead, and limits as they go over the wire."""

from typing import Any

import annotated_types
import pytest

from opsin.v1 import GetServerInfoRequest
from opsin_server.config import LimitSettings, ServerSettings, Settings
from opsin_server.models.status import ServerStatus
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.model import ModelService
from opsin_server.rpc.server import options

_INT32 = 2**31 - 1


class NoModels:
    """A catalog of nothing."""

    def list(self) -> tuple[()]:
        return ()

    def get(self, name: str) -> tuple[()]:
        return ()

    def server(self) -> ServerStatus:
        return ServerStatus((), "", "")


def largest(section: Any, name: str) -> int:
    """The largest value that a setting may have."""
    rules = section.model_fields[name].metadata
    return next(int(rule.le) for rule in rules if isinstance(rule, annotated_types.Le))


def test_a_client_may_run_ahead_of_what_is_read_by_so_much_and_grpc_may_not_raise_that() -> None:
    told = dict(options(Settings(server={"lookahead_bytes": 200_000})))  # type: ignore[arg-type]
    assert told["grpc.http2.lookahead_bytes"] == 200_000
    assert told["grpc.http2.bdp_probe"] == 0


def test_without_a_bound_grpc_chooses() -> None:
    told = dict(options(Settings(server={"lookahead_bytes": 0})))  # type: ignore[arg-type]
    assert not {"grpc.http2.lookahead_bytes", "grpc.http2.bdp_probe"} & told.keys()


@pytest.mark.parametrize("name", LimitSettings.model_fields)
async def test_the_largest_value_of_a_limit_can_still_be_told(name: str) -> None:
    value = largest(LimitSettings, name)
    limits = LimitSettings(**{name: value})  # type: ignore[arg-type]
    call = CallContext("GetServerInfo", "id", "peer", 0.0)
    info = await ModelService(NoModels(), limits, "1").get_server_info(GetServerInfoRequest(), call)
    assert getattr(info.limits, name) == value


@pytest.mark.parametrize("name", ["max_pending_calls", "lookahead_bytes"])
def test_the_largest_value_of_an_option_is_one_that_grpc_takes(name: str) -> None:
    settings = Settings(server={name: largest(ServerSettings, name)})  # type: ignore[arg-type]
    assert max(value for _, value in options(settings)) <= _INT32
