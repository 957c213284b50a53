"""What callers may have loaded while the server runs: from where, how much at a time, and whose code. Pure.

A request comes from whoever reaches the port, the settings come from whoever runs the server. So what the
settings name is loaded as it stands, and only requests are held against these rules.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from opsin_server.config import LoadingSettings
from opsin_server.errors import Failure, Reason, quote

__all__ = ["BUILT_IN", "MOST_LABELS", "check_labels", "check_room", "check_settings", "check_source"]

BUILT_IN = "builtin"
MOST_PENDING = 64
"""Versions that are being loaded. They are loaded one after the other, so more would only wait."""
MOST_VERSIONS = 1000
"""Versions in all, failed ones included: each takes its place in every list and in the metrics."""
MOST_LABELS = 100
"""Labels of one name."""
TRUST = ("trust_remote_code", "allow_pickle")
"""Settings by which a checkpoint's own code runs in the server."""
FILES = ("description",)
"""Settings that name a file."""


def check_source(source: str, detector: str, allowed: LoadingSettings, detectors: Collection[str]) -> None:
    """Raise Failure OPTION_INVALID for a source that requests may not load from. Reads links of files."""
    by_name = source in ("", BUILT_IN) or (source in detectors and not detector)
    if not by_name:
        _check_path("source", source, allowed)


def check_settings(settings: Mapping[str, str], allowed: LoadingSettings) -> None:
    """Raise Failure OPTION_INVALID for a setting that requests may not make.

    That is one by which somebody else's code would run, or a file outside the folders for models be read.
    """
    for key in FILES:
        if key in settings:
            _check_path(f"settings.{key}", settings[key], allowed)
    for key in TRUST if not allowed.trust else ():
        if settings.get(key, "false").lower() != "false":
            raise Failure(
                Reason.OPTION_INVALID,
                f"settings.{key}: this server runs no checkpoint's own code on request (loading.trust); "
                "whoever runs it can name the model in its settings",
                field=f"settings.{key}",
            )


def check_room(pending: int, versions: int) -> None:
    """Raise Failure QUEUE_FULL when no more may be loaded now."""
    if pending >= MOST_PENDING:
        raise Failure(
            Reason.QUEUE_FULL,
            f"{pending} versions are being loaded already; no more may wait",
            metadata={"limit": str(MOST_PENDING)},
            retry_after=1.0,
        )
    if versions >= MOST_VERSIONS:
        raise Failure(
            Reason.QUEUE_FULL,
            f"this server has {versions} versions of models already; unload some, failed ones too",
            metadata={"limit": str(MOST_VERSIONS)},
            never_retry=True,
        )


def check_labels(labels: Collection[str]) -> None:
    """Raise Failure OPTION_INVALID for more labels than a name may have."""
    if len(labels) > MOST_LABELS:
        raise Failure(
            Reason.OPTION_INVALID,
            f"labels: these would be {len(labels)}, and a name has {MOST_LABELS} at most",
            field="labels",
            metadata={"limit": str(MOST_LABELS)},
        )


def _check_path(field: str, written: str, allowed: LoadingSettings) -> None:
    if not allowed.dirs:
        return
    path = Path(written).expanduser().resolve()
    if not any(path.is_relative_to(folder.expanduser().resolve()) for folder in allowed.dirs):
        raise Failure(
            Reason.OPTION_INVALID,
            f"{field}: {quote(written)} is in none of the folders that models are loaded from (loading.dirs)",
            field=field,
        )
