"""Saying in the log how a model is run, what decodes its pictures, what else was tried, how long it took."""

import structlog

from opsin_detectors.api import ModelInfo
from opsin_server.models.decoding import Choice

__all__ = ["log_decoder", "log_ready", "log_runtime"]

log = structlog.get_logger(__name__)


def log_runtime(key: str, info: ModelInfo) -> None:
    """One line for a model that was loaded, with the milliseconds that each way took at each batch size."""
    tried = {
        " ".join(filter(None, (trial.runtime, trial.dtype, trial.lane_kind))): " ".join(
            [*(f"{seconds * 1e3:.1f} ms at {size}" for size, seconds in trial.seconds), f"({trial.verdict})"]
        )
        for trial in info.trials
    }
    log.info(
        "model_runtime",
        model=key,
        runtime=info.runtime,
        dtype=info.dtype,
        lane_kind=info.lane_kind or None,
        tried=tried or None,
    )


def log_decoder(key: str, choice: Choice) -> None:
    """One line for a model that can take pictures from its device, with why they come from where they do."""
    log.info("model_decoder", model=key, decoder=choice.name, why=choice.why, tried=choice.tried or None)


def log_ready(key: str, *, loading: float, warming: float) -> None:
    """One line for a model that is up: the seconds until it was loaded, and those until it was warm."""
    log.info("model_ready", model=key, loading_s=round(loading, 2), warming_s=round(warming, 2))
