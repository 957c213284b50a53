"""Every status code and every reason of the contract has its exception, with all that the server said."""

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import opsin
from opsin._errors import Code, error_class, known_reasons
from opsin._status import error_from_call, error_from_status
from opsin_server.rpc.errors import RULES


class Failed:
    """A call that ended badly, as grpc shows it."""

    def __init__(
        self, code: grpc.StatusCode, details: str = "", trailers: tuple[tuple[str, Any], ...] = ()
    ) -> None:
        self._answers = (code, details, trailers)

    def code(self) -> grpc.StatusCode:
        return self._answers[0]

    def details(self) -> str:
        return self._answers[1]

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._answers[2]


def error_of(code: grpc.StatusCode, details: str = "", trailers: Any = ()) -> opsin.OpsinError:
    return error_from_call(Failed(code, details, trailers), target="there:1", timeout=2.0)


def status(code: Code, reason: str, *details: Any, **metadata: str) -> Status:
    made = Status(code=code, message="a sentence")
    for detail in (ErrorInfo(domain="opsin", reason=reason, metadata=metadata), *details):
        packed = Packed()
        packed.Pack(detail)
        made.details.append(packed)
    return made


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_code_of_grpc_has_an_exception(code: grpc.StatusCode) -> None:
    error = error_of(code, "why")
    assert isinstance(error, opsin.OpsinError)
    assert error.code.name == code.name
    assert error.code == code.value[0]
    assert type(error) is not opsin.OpsinError or code is grpc.StatusCode.OK


@pytest.mark.parametrize("reason", list(RULES))
def test_every_reason_that_the_server_gives_is_in_the_clients_table(reason: Any) -> None:
    code = Code[RULES[reason].code.name]
    assert (code, str(reason)) in known_reasons()


def test_the_clients_table_names_no_reason_that_the_server_never_gives() -> None:
    assert {reason for _, reason in known_reasons()} == {str(reason) for reason in RULES}


def test_an_unknown_reason_falls_back_to_its_code_and_an_unknown_code_to_unknown() -> None:
    assert error_class(Code.RESOURCE_EXHAUSTED, "MADE_UP_LATER") is opsin.Overloaded
    assert error_from_status(Status(code=99, message="?")).code is Code.UNKNOWN


def test_a_reason_under_another_code_than_ours_does_not_decide() -> None:
    assert error_class(Code.INTERNAL, "MODEL_NOT_FOUND") is opsin.ServerFailed


def test_all_that_the_server_said_is_on_the_exception() -> None:
    bad = BadRequest(
        field_violations=[BadRequest.FieldViolation(field="options.min_score", description="too high")]
    )
    retry = RetryInfo(retry_delay=Duration(nanos=250_000_000))
    told = status(Code.INVALID_ARGUMENT, "OPTION_INVALID", bad, retry, value="7")
    trailers = (("grpc-status-details-bin", told.SerializeToString()), ("opsin-request-id", "r1"))
    error = error_of(grpc.StatusCode.INVALID_ARGUMENT, "a sentence", trailers)
    assert isinstance(error, opsin.InvalidInput)
    assert isinstance(error, ValueError)
    assert (error.message, str(error), error.reason) == ("a sentence", "a sentence", "OPTION_INVALID")
    assert error.metadata == {"value": "7"}
    assert error.violations == (opsin.FieldViolation("options.min_score", "too high"),)
    assert error.retry_after == 0.25
    assert error.request_id == "r1"
    assert error.to_dict()["violations"] == [{"field": "options.min_score", "description": "too high"}]


def test_names_that_look_alike_come_along() -> None:
    error = error_from_status(status(Code.NOT_FOUND, "MODEL_NOT_FOUND", nearest="nanodet, nsfw"))
    assert isinstance(error, opsin.ModelNotFound)
    assert error.nearest == ("nanodet", "nsfw")
    unsupported = error_from_status(status(Code.FAILED_PRECONDITION, "TASK_UNSUPPORTED", tasks="detect"))
    assert isinstance(unsupported, opsin.TaskUnsupported)
    assert unsupported.tasks == ("detect",)


def test_a_reason_of_a_foreign_domain_is_not_ours() -> None:
    made = Status(code=Code.UNAVAILABLE, message="upstream")
    packed = Packed()
    packed.Pack(ErrorInfo(domain="googleapis.com", reason="DRAINING"))
    made.details.append(packed)
    assert type(error_from_status(made)) is opsin.Unavailable


@pytest.mark.parametrize(
    ("pushback", "after", "never"), [("1500", 1.5, False), ("-1", None, True), ("soon", None, True)]
)
def test_pushback_becomes_a_time_to_wait_or_never(pushback: str, after: float | None, never: bool) -> None:
    error = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("grpc-retry-pushback-ms", pushback),))
    assert (error.retry_after, error.never_retry) == (after, never)


@pytest.mark.parametrize(
    ("code", "details", "kind", "said"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", opsin.Unreachable, "there:1"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", opsin.DeadlineExceeded, "within 2 s"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 4)",
            opsin.MessageTooLarge,
            "limit",
        ),
        (grpc.StatusCode.CANCELLED, "Locally cancelled", opsin.Cancelled, "cancelled"),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", opsin.Unimplemented, "Method"),
    ],
)
def test_what_grpc_itself_reports_is_told_clearly(
    code: grpc.StatusCode, details: str, kind: type, said: str
) -> None:
    error = error_of(code, details)
    assert type(error) is kind
    assert said in str(error)


def test_details_that_cannot_be_read_do_not_hide_the_error() -> None:
    error = error_of(grpc.StatusCode.INTERNAL, "broken", (("grpc-status-details-bin", b"\xff\xff\xff"),))
    assert isinstance(error, opsin.ServerFailed)
    assert error.message == "broken"


def test_the_standard_librarys_own_kinds_catch_ours() -> None:
    assert issubclass(opsin.DeadlineExceeded, TimeoutError)
    assert issubclass(opsin.Unreachable, ConnectionError)
    assert issubclass(opsin.MissingExtra, ImportError)
