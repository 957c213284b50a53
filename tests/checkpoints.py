"""Tiny checkpoints with random weights, saved as their authors would have, one function per family.

Each is made once a session and must not be changed; `shutil.copytree` gives a copy that may. None is more
than a megabyte. They answer nonsense, but by the code that the real ones run.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

__all__ = [
    "clip",
    "conditional_detr",
    "deformable_detr",
    "detr",
    "owlv2",
    "owlvit",
    "rt_detr",
    "siglip",
    "siglip2_naflex",
    "yolos",
]

_ROOT = tempfile.TemporaryDirectory(prefix="opsin-checkpoints-")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


def _folder(name: str) -> Path:
    folder = Path(_ROOT.name) / name
    folder.mkdir()
    return folder


def spread(model: Any, seed: int = 3) -> Any:
    """Weights so large that inputs are told apart: as they are made, all would be answered about the same."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.5)
    return model.eval()


def letters(*, begin: str, end: str, pad: str, **settings: Any) -> Any:
    """A tokenizer with a token for each letter and each sign; begin and end go around every text."""
    vocabulary = {
        token: at for at, token in enumerate(dict.fromkeys([pad, "<unk>", " ", *_LETTERS, begin, end]))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    around = ([(begin, vocabulary[begin])] if begin else []) + [(end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=around
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token=pad, eos_token=end, **settings
    )


def pictures(processor: str, **settings: Any) -> Any:
    """An image processor by the name of its family."""
    return getattr(transformers, f"{processor}ImageProcessorPil")(**settings)


@cache
def clip() -> Path:
    """CLIP: texts of up to 32 tokens, pictures of 32 pixels, 24 dimensions."""
    folder = _folder("clip")
    tokenizer = letters(begin="<s>", end="</s>", pad="</s>", model_max_length=32)
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    spread(transformers.CLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 32}, {"height": 32, "width": 32}
    pictures("CLIP", size=size[0], crop_size=size[1]).save_pretrained(folder)
    return folder


@cache
def siglip() -> Path:
    """SigLIP: texts of up to 24 tokens, always padded to that, without a mask; pictures of 32 pixels."""
    return _siglip(
        "siglip", "Siglip", {"image_size": 32}, pictures("Siglip", size={"height": 32, "width": 32})
    )


@cache
def siglip2_naflex() -> Path:
    """SigLIP 2 with pictures of their own proportions, up to 64 patches of 8 pixels."""
    processor = pictures("Siglip2", patch_size=8, max_num_patches=64)
    return _siglip("siglip2_naflex", "Siglip2", {"num_patches": 16}, processor)


def _siglip(name: str, family: str, vision: dict[str, Any], processor: Any) -> Path:
    folder = _folder(name)
    tokenizer = letters(
        begin="", end="</s>", pad="<pad>", model_max_length=24, model_input_names=["input_ids"]
    )
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 32}
    made = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config={**TINY, "patch_size": 8, **vision}
    )
    model = spread(getattr(transformers, f"{family}Model")(made))
    torch.nn.init.constant_(model.logit_scale, 2.0)
    torch.nn.init.constant_(model.logit_bias, -3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


_SIDES = {"shortest_edge": 96, "longest_edge": 160}
_DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 12}
_DETR |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
_DETR |= {f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")}
_RESNET = {"embedding_size": 8, "depths": [1, 1, 1, 1], "layer_type": "basic"}
_THREE = ["stage2", "stage3", "stage4"]


@cache
def detr() -> Path:
    """DETR: five classes and “no object”; pictures keep their proportions, within 96 and 160 pixels."""
    return _detector("Detr", **_DETR, **_backbone("stage4"))


@cache
def conditional_detr() -> Path:
    """Conditional DETR: every class scored for itself."""
    return _detector("ConditionalDetr", **_DETR, **_backbone("stage4"))


@cache
def deformable_detr() -> Path:
    """Deformable DETR: looks at three levels of its backbone."""
    return _detector("DeformableDetr", **_DETR, **_backbone(*_THREE))


@cache
def yolos() -> Path:
    """YOLOS: sides are multiples of 16."""
    shape = {**TINY, "image_size": [96, 128], "patch_size": 16, "num_detection_tokens": 12}
    return _detector("Yolos", **shape)


@cache
def rt_detr() -> Path:
    """RT-DETR: pictures stretched to 96 x 96, not normalised."""
    backbone = transformers.RTDetrResNetConfig(**_RESNET, hidden_sizes=[8, 16, 16, 16], out_features=_THREE)
    wide = {f"{part}_in_channels": [16, 16, 16] for part in ("encoder", "decoder")}
    heads = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
    depth = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return _detector(
        "RTDetr",
        size={"height": 96, "width": 96},
        backbone_config=backbone,
        encoder_hidden_dim=16,
        d_model=16,
        num_queries=12,
        num_denoising=0,
        **wide,
        **heads,
        **depth,
    )


@cache
def owlvit() -> Path:
    """OWL-ViT: pictures stretched to 48 x 48, 36 places, texts of 16 tokens."""
    return _open_vocabulary("OwlViT", size=_OWL_SIZE, crop_size=_OWL_SIZE)


@cache
def owlv2() -> Path:
    """OWLv2: pictures padded to a square, then resized to 48 x 48 by a way of its own."""
    return _open_vocabulary("Owlv2", size=_OWL_SIZE)


_OWL_SIZE = {"height": 48, "width": 48}


def _backbone(*stages: str) -> dict[str, Any]:
    config = transformers.ResNetConfig(**_RESNET, hidden_sizes=[8, 8, 8, 16], out_features=list(stages))
    return {"use_timm_backbone": False, "backbone_config": config}


def _detector(family: str, size: dict[str, int] | None = None, **config: Any) -> Path:
    folder = _folder(family.lower())
    torch.manual_seed(3)
    made = getattr(transformers, f"{family}Config")(num_labels=5, **config)
    model = spread(getattr(transformers, f"{family}ForObjectDetection")(made))
    for name, parameter in model.named_parameters():
        if "detection_tokens" in name:  # all zeros as they are made: every query would answer the same
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    pictures(family, size=size or _SIDES).save_pretrained(folder)
    return folder


def _open_vocabulary(family: str, **processing: Any) -> Path:
    folder = _folder(family.lower())
    tokenizer = letters(begin="<s>", end="</s>", pad="<pad>", model_max_length=16)
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**TINY, "image_size": 48, "patch_size": 8}
    made = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision, projection_dim=32)
    spread(getattr(transformers, f"{family}ForObjectDetection")(made)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures(family, **processing).save_pretrained(folder)
    return folder
