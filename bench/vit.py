"""A ViT-base/16 with random weights: the compute of a common moderation classifier, without its weights."""

import json
from pathlib import Path

__all__ = ["random_vit"]


def random_vit(folder: Path) -> Path:
    """ViT-base/16, 86 million parameters from a seed, saved as `from_pretrained` wants it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(7)
    labels = {0: "neutral", 1: "flagged"}
    config = ViTConfig(id2label=labels, label2id={name: index for index, name in labels.items()})
    ViTForImageClassification(config).save_pretrained(folder)
    told = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder
