"""From a vector per token to one per text. Pure; knows no model.

All modes take hidden states (B, T, dimensions) and a mask (B, T), 1 for real tokens, which come first, and
answer (B, dimensions) in float32. Padding has no part in the answer.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["MODES", "pool"]


def pool(modes: Sequence[str], hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The modes' answers side by side: (B, dimensions * modes)."""
    exact, real = hidden.float(), mask.to(torch.float32)
    return torch.cat([MODES[mode](exact, real) for mode in modes], dim=1)


def _cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[:, 0]


def _max(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True)


def _mean_sqrt_len(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _sum(hidden, mask) / mask.sum(1, keepdim=True).sqrt()


def _weighted_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Later tokens count more, in proportion to their place (SGPT)."""
    return _mean(hidden, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device))


def _last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1).long() - 1]


def _sum(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.einsum("btd,bt->bd", hidden, weights)


MODES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
