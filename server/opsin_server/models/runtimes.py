"""Saying in the log how a model is run, and what else was tried."""

import structlog

from opsin_detectors.api import ModelInfo

__all__ = ["log_runtime"]

log = structlog.get_logger(__name__)


def log_runtime(key: str, info: ModelInfo) -> None:
    """One line for a model that was loaded, with the milliseconds that each way took at each batch size."""
    tried = {
        f"{trial.runtime} {trial.dtype}": " ".join(
            [*(f"{seconds * 1e3:.1f} ms at {size}" for size, seconds in trial.seconds), f"({trial.verdict})"]
        )
        for trial in info.trials
    }
    log.info("model_runtime", model=key, runtime=info.runtime, dtype=info.dtype, tried=tried or None)
