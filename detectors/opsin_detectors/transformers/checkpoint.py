"""Opening a Hugging Face checkpoint: config, processor and weights, and what is refused.

Nothing that a checkpoint brings along is executed unless the user says so for this model: code of its own
(`trust_remote_code=true`), and weights in pickles, which are code too (`allow_pickle=true`). Weights have to
be complete, because a layer that the file lacks would be filled with random numbers. Knows no family.
"""

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import logging as hugging_face
from transformers.utils.hub import cached_file

from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.settings import Settings

__all__ = ["Checkpoint", "classes_of"]


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
    trust_remote_code: bool = False

    @classmethod
    def open(cls, context: LoadContext) -> "Checkpoint":
        """Read the config. Raises LoadError when there is none, or it needs code that may not be run."""
        if not context.source:
            raise LoadError(f"model “{context.name}” needs a folder or a hub id: {context.name}=SOURCE")
        settings = Settings(context)
        revision = settings.text("revision", "main")
        allow_pickle = settings.switch("allow_pickle")
        trust = settings.switch("trust_remote_code")
        with _explained(context.source, "config"):
            config = AutoConfig.from_pretrained(context.source, revision=revision, trust_remote_code=trust)
        return cls(context.source, config, settings, revision, allow_pickle, trust)

    def own_class(self, auto: str) -> Any:
        """The checkpoint's own class behind transformers' `auto`; None without one that may run."""
        where = (getattr(self.config, "auto_map", None) or {}).get(auto)
        if not where or not self.trust_remote_code:
            return None
        with _explained(self.source, "code"):
            return get_class_from_dynamic_module(where, self.source, revision=self.revision)

    def template(self, default: str) -> str:
        """The setting `template`. Raises LoadError unless it has exactly one place for a label."""
        template = self.settings.text("template", default)
        if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
            raise LoadError(f"“template” has to hold “{{}}” once, where the label goes, not “{template}”")
        return template

    def image_processor(self) -> Any:
        """The stock processor of pictures. Raises LoadError when the checkpoint has none."""
        with _explained(self.source, "image processor"):
            auto: Any = AutoImageProcessor
            return auto.from_pretrained(
                self.source, revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    def tokenizer(self) -> Any:
        """The stock tokenizer, the caller's own. Raises LoadError when the checkpoint has none."""
        with _explained(self.source, "tokenizer"):
            auto: Any = AutoTokenizer
            return auto.from_pretrained(
                self.source, revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    def file(self, name: str) -> Path | None:
        """Where a further file of the checkpoint is, fetched if need be; None when it has no such file."""
        with _explained(self.source, name):
            found = cached_file(
                self.source, name, revision=self.revision, _raise_exceptions_for_missing_entries=False
            )
        return None if found is None else Path(found)

    def json(self, name: str) -> Any:
        """What a further JSON file says; None when the checkpoint has no such file."""
        path = self.file(name)
        with _explained(self.source, name):
            return None if path is None else json.loads(path.read_text(encoding="utf-8"))

    def model(self, auto_class: Any, *, spare: Collection[str] = ()) -> Any:
        """The weights, in the class that `auto_class` chooses. Raises LoadError when some are missing.

        spare: names of parts directly under the model that may lack weights; such a part is set to None.
        """
        with _explained(self.source, "weights"):
            model, report = auto_class.from_pretrained(
                self.source,
                config=self.config,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                use_safetensors=None if self.allow_pickle else True,
                output_loading_info=True,
            )
        missing = sorted(report["missing_keys"])
        for part in {name.partition(".")[0] for name in missing} & set(spare):
            setattr(model, part, None)
            missing = [name for name in missing if not name.startswith(f"{part}.")]
        if missing:
            raise LoadError(
                f"{self.source} lacks the weights of {_few(missing)}, so it would answer at random"
            )
        return model


def classes_of(config: Any) -> tuple[str, ...]:
    """The names of a checkpoint's classes, by number."""
    return tuple(str(config.id2label[index]) for index in range(config.num_labels))


@contextlib.contextmanager
def _explained(source: str, part: str) -> Iterator[None]:
    """Quiet while it works; a LoadError with one sentence when it does not."""
    logs: Any = hugging_face
    verbosity = logs.get_verbosity()
    logs.set_verbosity(logging.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise LoadError(f"{part} of {source} cannot be loaded: {_reason(source, error)}") from error
    finally:
        logs.set_verbosity(verbosity)


def _reason(source: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    folder = Path(source)
    if "trust_remote_code" in text:
        return (
            "it needs code of its own to be run, which this server does not do unless told to: "
            "trust_remote_code=true, if you trust who made it"
        )
    if "safetensors" in text and (not folder.is_dir() or any(folder.glob("*.bin"))):
        return "it has no safetensors; allow_pickle=true loads pickled weights, if you trust who made them"
    if not folder.is_dir() and ("connect to" in text or "offline mode" in text):
        return (
            f"it is not in the cache ({constants.HF_HOME}), and the hub ({constants.ENDPOINT}) cannot be "
            "reached; where it can be, “opsin pull” fetches it ahead"
        )
    return text[:300] or type(error).__name__


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
