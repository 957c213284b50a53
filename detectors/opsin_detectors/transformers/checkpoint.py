"""Opening a Hugging Face checkpoint: config, processor and weights, and what is refused.

Nothing that a checkpoint brings along is executed: code of its own never, and weights only from safetensors
unless the user allows pickled ones. Weights have to be complete, because a layer that the file lacks would be
filled with random numbers. Knows no family.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor
from transformers.utils import logging as hugging_face

from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.settings import Settings

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint whose config was read.

    source: a local folder or a hub id. settings: where the family reads its own from, and then calls `done`.
    """

    source: str
    config: Any
    settings: Settings
    revision: str
    allow_pickle: bool

    @classmethod
    def open(cls, context: LoadContext) -> "Checkpoint":
        """Read the config. Raises LoadError when there is none, or it asks for code of its own."""
        if not context.source:
            raise LoadError(f"model “{context.name}” needs a folder or a hub id: {context.name}=SOURCE")
        settings = Settings(context)
        revision = settings.text("revision", "main")
        allow_pickle = settings.switch("allow_pickle")
        with _explained(context.source, "config"):
            config = AutoConfig.from_pretrained(context.source, revision=revision, trust_remote_code=False)
        return cls(context.source, config, settings, revision, allow_pickle)

    def image_processor(self) -> Any:
        """The stock processor of pictures. Raises LoadError when the checkpoint has none."""
        with _explained(self.source, "image processor"):
            auto: Any = AutoImageProcessor
            return auto.from_pretrained(self.source, revision=self.revision, trust_remote_code=False)

    def model(self, auto_class: Any) -> Any:
        """The weights, in the class that `auto_class` chooses. Raises LoadError when some are missing."""
        with _explained(self.source, "weights"):
            model, report = auto_class.from_pretrained(
                self.source,
                config=self.config,
                revision=self.revision,
                trust_remote_code=False,
                use_safetensors=None if self.allow_pickle else True,
                output_loading_info=True,
            )
        if missing := sorted(report["missing_keys"]):
            raise LoadError(
                f"{self.source} lacks the weights of {_few(missing)}, so it would answer at random"
            )
        return model


@contextlib.contextmanager
def _explained(source: str, part: str) -> Iterator[None]:
    """Quiet while it works; a LoadError with one sentence when it does not."""
    logs: Any = hugging_face
    verbosity = logs.get_verbosity()
    logs.set_verbosity(logging.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise LoadError(f"{part} of {source} cannot be loaded: {_reason(source, error)}") from error
    finally:
        logs.set_verbosity(verbosity)


def _reason(source: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    folder = Path(source)
    if "trust_remote_code" in text:
        return "it needs code of its own to be run, which this server does not do"
    if "safetensors" in text and (not folder.is_dir() or any(folder.glob("*.bin"))):
        return "it has no safetensors; allow_pickle=true loads pickled weights, if you trust who made them"
    return text[:300] or type(error).__name__


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
