"""What a checkpoint made with sentence-transformers says of how its vectors come about.

Its files name a chain of modules: the transformer, the pooling over its tokens, and perhaps more after that.
A chain that cannot be followed exactly is refused, never approximated. Reads files; runs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from opsin_detectors.api import LoadError
from opsin_detectors.transformers.checkpoint import Checkpoint
from opsin_detectors.transformers.pooling import MODES

__all__ = ["Recipe", "read_recipe"]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How a text becomes a vector.

    modes: of pooling (`pooling.MODES`), put one after the other where there are several.
    layers: applied to the pooled vectors, in order. normalize: vectors are of length 1 at the end.
    limit: most tokens, 0 where nothing is said. lower: the text is put in lower case.
    prefix: goes before every text.
    """

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[nn.Module, ...] = ()
    normalize: bool = False
    limit: int = 0
    lower: bool = False
    prefix: str = ""


def read_recipe(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe in the checkpoint's files, with the setting `prompt`; None when it has no modules.json.

    Raises LoadError for a module that is not known, or used in a way that is not.
    """
    prompt = checkpoint.settings.text("prompt")
    modules = checkpoint.json("modules.json")
    if modules is None:
        if prompt:
            raise LoadError(f"{checkpoint.source} names no prompts, so “prompt” cannot choose one")
        return None
    kinds = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in modules]
    modes, layers, includes_prompt = _chain(checkpoint, kinds)
    said = checkpoint.json("sentence_bert_config.json") or {}
    prefix = _prefix(checkpoint, prompt)
    if prefix and not includes_prompt:
        raise LoadError(f"{checkpoint.source} leaves its prompt out of the pooling, which is not supported")
    return Recipe(
        modes=modes,
        layers=tuple(layers),
        normalize=kinds[-1][0] == "Normalize",
        limit=int(said.get("max_seq_length") or 0),
        lower=bool(said.get("do_lower_case")),
        prefix=prefix,
    )


def _chain(
    checkpoint: Checkpoint, kinds: Sequence[tuple[str, str]]
) -> tuple[tuple[str, ...], list[nn.Module], bool]:
    """The modes of pooling, the layers after it, and whether a prompt is pooled too."""
    match kinds:
        case [("Transformer", ""), ("Pooling", folder), *rest]:
            pooling = checkpoint.json(f"{folder}/config.json") or {}
        case _:
            raise _unknown(checkpoint, " + ".join(kind for kind, _ in kinds))
    layers = []
    for at, (kind, path) in enumerate(rest):
        match kind:
            case "Dense":
                layers.append(_dense(checkpoint, path))
            case "Normalize" if at == len(rest) - 1:
                pass
            case _:
                raise _unknown(checkpoint, kind)
    return _modes(checkpoint, pooling), layers, bool(pooling.get("include_prompt", True))


_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which sentence-transformers puts them together."""


def _modes(checkpoint: Checkpoint, pooling: Mapping[str, Any]) -> tuple[str, ...]:
    stated = pooling.get("pooling_mode")  # written by newer versions instead of the flags
    named = [stated] if isinstance(stated, str) else stated
    modes = tuple(named or [mode for flag, mode in _FLAGS.items() if pooling.get(flag)])
    if not modes or not MODES.keys() >= set(modes):
        raise _unknown(checkpoint, f"pooling {' + '.join(modes) or 'of no kind'}")
    return modes


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"Identity": nn.Identity, "Tanh": nn.Tanh, "GELU": nn.GELU}


def _dense(checkpoint: Checkpoint, folder: str) -> nn.Module:
    said = checkpoint.json(f"{folder}/config.json") or {}
    activation = _ACTIVATIONS.get(str(said.get("activation_function", "Tanh")).rpartition(".")[2])
    weights = checkpoint.file(f"{folder}/model.safetensors")
    if activation is None or weights is None:
        what = "its activation is not known" if activation is None else "it has no safetensors"
        raise LoadError(f"the Dense layer of {checkpoint.source} cannot be read: {what}")
    linear = nn.Linear(said["in_features"], said["out_features"], bias=said.get("bias", True))
    state = load_file(weights)
    with torch.no_grad():
        linear.load_state_dict({name.removeprefix("linear."): value.float() for name, value in state.items()})
    return nn.Sequential(linear, activation())


def _prefix(checkpoint: Checkpoint, wanted: str) -> str:
    """The prompt of that name, "none" for none, else the checkpoint's own default."""
    said = checkpoint.json("config_sentence_transformers.json") or {}
    prompts: Mapping[str, str] = said.get("prompts") or {}
    name = wanted or said.get("default_prompt_name") or "none"
    if name in prompts:
        return prompts[name]
    if name == "none":
        return ""
    known = ", ".join([*prompts, "none"])
    raise LoadError(f"{checkpoint.source} has no prompt “{name}”; it has {known}")


def _unknown(checkpoint: Checkpoint, what: str) -> LoadError:
    return LoadError(f"{checkpoint.source} makes its vectors by {what}, which this detector does not know")
