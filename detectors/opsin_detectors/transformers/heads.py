"""Taking a classifier apart into body and head, so that one forward pass gives both features and scores.

The features are what the last linear layer is given: the pooled features of every common architecture.
Whether that holds for this one is not assumed but tried. Knows nothing of pictures.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["take_head"]


@torch.inference_mode()
def take_head(model: Any, labels: int, arguments: Mapping[str, torch.Tensor]) -> nn.Linear | None:
    """Replace the model's last linear layer by the identity and return it.

    Afterwards the model's `logits` are features, (B, dimensions), and the layer turns them into the logits.
    None, with the model as it was, when that does not give the logits it gave before for `arguments`.
    """
    names = [name for name, module in model.named_modules() if _is_head(module, labels)]
    if not names:
        return None
    parent_name, _, own_name = names[-1].rpartition(".")
    parent = model.get_submodule(parent_name)
    head: nn.Linear = getattr(parent, own_name)
    before = model(**arguments).logits
    setattr(parent, own_name, nn.Identity())
    if _works(model, head, arguments, before):
        return head
    setattr(parent, own_name, head)
    return None


def _is_head(module: nn.Module, labels: int) -> bool:
    return isinstance(module, nn.Linear) and module.out_features == labels


def _works(model: Any, head: nn.Linear, arguments: Mapping[str, torch.Tensor], before: torch.Tensor) -> bool:
    try:
        features = model(**arguments).logits
        return features.ndim == 2 and torch.allclose(head(features), before, rtol=1e-3, atol=1e-4)
    except Exception:  # a model may do anything with the result of its head
        return False
