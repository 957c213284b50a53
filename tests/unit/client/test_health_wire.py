"""Health by hand speaks the same bytes as the official stubs."""

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from hypothesis import given
from hypothesis import strategies as st

import opsin
from opsin import _health


@given(service=st.text(max_size=300))
def test_a_request_is_what_the_official_stub_writes(service: str) -> None:
    assert _health.request(service) == HealthCheckRequest(service=service).SerializeToString()


@pytest.mark.parametrize(("name", "number"), HealthCheckResponse.ServingStatus.items())
def test_a_response_is_read_as_the_official_stub_means_it(name: str, number: int) -> None:
    assert _health.health(HealthCheckResponse(status=number).SerializeToString()) is opsin.Health[name]


@given(noise=st.binary(max_size=20))
def test_no_bytes_make_it_raise(noise: bytes) -> None:
    assert isinstance(_health.health(noise), opsin.Health)


def test_only_serving_is_ok() -> None:
    assert [health for health in opsin.Health if health.ok] == [opsin.Health.SERVING]
