"""What a ticket is told when it cannot be answered."""

import uuid

import structlog

from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.batch import WrongLengthError, out_of_memory
from opsin_server.scheduling.policy import Dead

__all__ = ["lane_lost", "not_loaded", "of_dead", "of_one", "owner_lost", "passed"]

log = structlog.get_logger(__name__)


def passed() -> Failure:
    """Its deadline passed before it ran."""
    return Failure(Reason.DEADLINE_PASSED, "the deadline passed while the input waited", never_retry=True)


def of_dead(dead: Dead) -> Failure:
    """The policy gave it up."""
    if dead.why == "expired":
        return passed()
    # A retry would run under the same deadline, so it would be in vain, however idle the server.
    message = "the deadline cannot be met any more: the queue moved slower than expected"
    return Failure(Reason.DEADLINE_UNMEETABLE, message, never_retry=True)


def of_one(model: str, error: BaseException) -> Failure:
    """It failed alone. The traceback stays in the log, under an id that the caller is given."""
    if out_of_memory(error):
        message = f"the device has no memory to run model “{model}” on this input, even alone"
        return Failure(Reason.DEVICE_MEMORY, message, metadata={"model": model}, never_retry=True)
    error_id = uuid.uuid4().hex[:12]
    log.error("detector_failed", model=model, error_id=error_id, exc_info=error)
    broken = isinstance(error, WrongLengthError)
    return Failure(
        Reason.DETECTOR_BROKEN if broken else Reason.DETECTOR_FAILED,
        f"model “{model}” failed on this input; the server's log has the details under {error_id}",
        metadata={"model": model, "error_id": error_id},
    )


def lane_lost(model: str) -> Failure:
    """The lane that it ran on is gone; it is not run again, as it may be the cause."""
    return Failure(
        Reason.LANE_LOST,
        f"the worker that ran this input on model “{model}” was lost; the input may be the cause",
        metadata={"model": model},
        never_retry=True,
    )


def not_loaded(model: str) -> Failure:
    """Its model is not there, or not any more."""
    return Failure(
        Reason.MODEL_NOT_READY, f"model “{model}” is not loaded", metadata={"model": model}, retry_after=1.0
    )


def owner_lost(error: BaseException | None) -> Failure:
    """The scheduler itself is closed, or broke on `error`."""
    if error is None:
        return Failure(Reason.DRAINING, "the server is shutting down", retry_after=1.0)
    return Failure(Reason.LANE_LOST, f"the scheduler stopped: {error}", never_retry=True)
