"""How a client reaches a server: address, encryption, identity, limits, retries. Shared by both clients.

Calls are retried by gRPC itself, by the service config below; the server's `grpc-retry-pushback-ms` is obeyed
there too. gRPC obeys it only for codes that are listed, hence RESOURCE_EXHAUSTED.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from opsin._errors import InvalidInput

if TYPE_CHECKING:
    import grpc

__all__ = ["DEFAULT_MAX_MESSAGE_BYTES", "Credentials", "Link", "Metadata", "default_target", "on_wire"]

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""The server's default limit too."""
_LONGEST = 1e9
"""Seconds. gRPC counts deadlines in nanoseconds since 1970, and 64 bits hold 292 years of them."""

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
Credentials: TypeAlias = "bool | str | os.PathLike[str] | grpc.ChannelCredentials"

# Only what may run twice without harm: LoadModel and UnloadModel are not among them.
_RETRIED = {
    "opsin.v1.InferenceService": ("Detect", "BatchDetect", "Embed", "BatchEmbed"),
    "opsin.v1.ModelService": ("GetServerInfo", "ListModels", "GetModel", "SetTraffic"),
}
_RETRY_POLICY = {
    "maxAttempts": 5,  # the most that gRPC allows
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}


@dataclass(frozen=True)
class Link:
    """Everything about the way to the server; frozen, so that channels can be made anew from it.

    target: any gRPC target. timeout: seconds a call may take unless it says otherwise; math.inf: no limit.
    """

    target: str
    timeout: float
    tls: Credentials
    token: str | None
    metadata: Metadata
    max_message_bytes: int
    user_agent: str

    def __post_init__(self) -> None:
        if "://" in self.target and self.target.split("://")[0] in ("http", "https", "grpc", "grpcs"):
            hint = "host:port, without a scheme; encryption is asked for by tls=True"
            raise InvalidInput.at("target", f"a target is {hint}; not {self.target!r}")
        if not self.timeout > 0:
            raise InvalidInput.at("timeout", f"a timeout is above 0 seconds; not {self.timeout}")
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            # gRPC would call it an INTERNAL error, and grpc.aio raise one of its own.
            raise InvalidInput.at("token", "a token is printable ASCII, without a line's end")

    @cached_property
    def call_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What every call sends along."""
        identity = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return (*identity, *self.metadata)

    def deadline(self, timeout: float | None, default: float | None = None) -> float | None:
        """Seconds for one call, as gRPC wants them: None means no limit."""
        chosen = timeout if timeout is not None else default if default is not None else self.timeout
        return on_wire(chosen)

    def options(self, *, fresh: bool = False, retries: bool = True) -> list[tuple[str, Any]]:
        """The channel's options. fresh: connect anew, and to whichever of the target's addresses answers."""
        config: dict[str, Any] = {"methodConfig": [_method_config()] if retries else []}
        if fresh:
            # The server that ended a stream would be the first choice of pick_first again.
            config["loadBalancingConfig"] = [{"round_robin": {}}]
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # By default, calls over about 256 kB are silently never retried.
            ("grpc.per_rpc_retry_buffer_size", self.max_message_bytes),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.primary_user_agent", self.user_agent or f"opsin-python/{package_version()}"),
            # A dead peer is noticed within 80 s while something is awaited; an idle channel sends nothing.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.use_local_subchannel_pool", int(fresh)),
            # Off, it also keeps gRPC from repeating by itself a call that never left (transparent retries).
            ("grpc.enable_retries", int(retries)),
        ]

    def channel(self, module: Any, *, fresh: bool = False, retries: bool = True) -> Any:
        """A new channel, by `grpc` or by `grpc.aio`. retries: False shows every failure as it happens."""
        credentials = self._credentials()
        options = self.options(fresh=fresh, retries=retries)
        if credentials is None:
            return module.insecure_channel(self.target, options=options)
        return module.secure_channel(self.target, credentials, options=options)

    def _credentials(self) -> "grpc.ChannelCredentials | None":
        import grpc

        match self.tls:
            case False:
                return None
            case True:
                return grpc.ssl_channel_credentials()
            case str() | os.PathLike() as roots:
                return grpc.ssl_channel_credentials(_roots(Path(roots)))
            case credentials:
                return credentials


def _roots(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput.at("tls", f"cannot read {path}: {error.strerror or error}") from None


def on_wire(seconds: float | None) -> float | None:
    """A time limit as gRPC takes it; None, which is no limit, for one that it would take for long past."""
    return seconds if seconds is not None and seconds < _LONGEST else None


def default_target() -> str:
    """`OPSIN_TARGET` of the environment, else the server's default port on this machine."""
    return os.environ.get("OPSIN_TARGET") or DEFAULT_TARGET


def package_version() -> str:
    """The version of the installed package; a source tree that was not installed has none."""
    try:
        return version("opsin")
    except PackageNotFoundError:
        return "0+unknown"


def _method_config() -> dict[str, Any]:
    names = [
        {"service": service, "method": method} for service, methods in _RETRIED.items() for method in methods
    ]
    return {"name": names, "retryPolicy": _RETRY_POLICY}
