"""Fetching a checkpoint from a Hugging Face hub into its cache, ahead of serving it.

The cache is Hugging Face's own, in the folder HF_HOME, so that what is fetched here is found there; the hub
is HF_ENDPOINT. Fetches what a server would read and no more: not the same weights in other formats. Knows no
family of models. Needs `huggingface_hub`, which comes with the extra `transformers`, when called.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from opsin_detectors.api import LoadError

__all__ = ["Pulled", "pull", "wanted"]

_ALWAYS = frozenset([".json", ".txt", ".model", ".jinja", ".tiktoken"])
_PICKLED = frozenset([".bin", ".pt", ".pth"])
_FEW_LEVELS = 2
"""Files deeper than this are other formats and training states."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was fetched, or was there already.

    revision: the commit that the asked-for one stands for. bytes: of all files together. folder: where in the
    cache.
    """

    source: str
    revision: str
    files: int
    bytes: int
    folder: str


def pull(
    source: str, revision: str = "main", *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Pulled:
    """Fetch hub id `source`, with bars of progress on stderr.

    Raises LoadError when the hub cannot be reached, has no such model or revision, or has only weights that
    are not allowed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise LoadError("fetching needs huggingface_hub: pip install 'opsin[transformers]'") from error
    try:
        info = huggingface_hub.HfApi().model_info(source, revision=revision, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        names = wanted(sizes, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        folder: Any = huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=names)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise LoadError(f"{source} cannot be fetched: {_reason(error)}") from error
    except Exception as error:  # the client library's own, such as a connection that was refused
        if isinstance(error, LoadError) or not type(error).__module__.startswith(("http", "requests")):
            raise
        raise LoadError(f"{source} cannot be fetched: {_reason(error)}") from error
    return Pulled(source, info.sha or revision, len(names), sum(sizes[name] for name in names), str(folder))


def wanted(names: Iterable[str], *, allow_pickle: bool = False, trust_remote_code: bool = False) -> list[str]:
    """The files that loading reads. Raises LoadError when there are no weights of an allowed kind."""
    near = [name for name in names if len(PurePosixPath(name).parts) <= _FEW_LEVELS]
    safe = [name for name in near if name.endswith(".safetensors") and "/" not in name]
    pickled = [name for name in near if PurePosixPath(name).suffix in _PICKLED and "/" not in name]
    if not safe and not allow_pickle:
        hint = "; allow_pickle=true takes pickled ones, if you trust who made them" if pickled else ""
        raise LoadError(f"there are no weights as safetensors{hint}")
    kinds = _ALWAYS | ({".py"} if trust_remote_code else set())
    others = [name for name in near if PurePosixPath(name).suffix in kinds]
    # What is beside the root belongs to parts of it, such as a layer after the pooling.
    parts = [name for name in near if name.endswith(".safetensors") and name[:1].isdigit() and "/" in name]
    return [*others, *(safe or pickled), *parts]


def _reason(error: Exception) -> str:
    """One line of what the client library says, which is several with a trace id."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "Request ID" not in line), type(error).__name__)
    unreachable = ("onnect", "offline", "outgoing traffic", "resolve", "timed out")
    if any(mark in said for mark in unreachable):
        return f"the hub cannot be reached ({said[:150]})"
    return said[:300]
