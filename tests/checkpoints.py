"""Tiny checkpoints with random weights, saved as their authors would have, one function per family.

Each is made once a session and must not be changed; `shutil.copytree` gives a copy that may. None is more
than a megabyte. They answer nonsense, but by the code that the real ones run.
"""

import itertools
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

__all__ = [
    "TINY",
    "bert_classifier",
    "bert_embedder",
    "clip",
    "conditional_detr",
    "convnext",
    "deformable_detr",
    "detr",
    "dinov2",
    "gpt2_classifier",
    "grounding_dino",
    "letters",
    "owlv2",
    "owlvit",
    "pictures",
    "rt_detr",
    "siglip",
    "siglip2_naflex",
    "spread",
    "vit",
    "vit_classifier",
    "yolos",
]

_ROOT = tempfile.TemporaryDirectory(prefix="opsin-checkpoints-")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


def _folder(name: str) -> Path:
    """Made empty. From here on what is random is the same in each run: `spread` sets only some weights."""
    torch.manual_seed(len(name))
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


def letters(
    *, begin: str, end: str, pad: str, numbers: Mapping[str, int] | None = None, **settings: Any
) -> Any:
    """A tokenizer with a token for each letter and each sign; begin and end go around every text.

    numbers: of tokens whose number a model knows by heart.
    """
    tokens = dict.fromkeys([pad, "<unk>", " ", *_LETTERS, begin, end])
    known = numbers or {}
    free = (number for number in itertools.count() if number not in known.values())
    vocabulary = {token: known[token] if token in known else next(free) for token in tokens}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    around = ([(begin, vocabulary[begin])] if begin else []) + [(end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=around
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token=pad,
        bos_token=begin or None,
        eos_token=end,
        **settings,
    )


def pictures(processor: str, **settings: Any) -> Any:
    """An image processor by the name of its family."""
    return getattr(transformers, f"{processor}ImageProcessorPil")(**settings)


def _bert(**changes: Any) -> tuple[Any, Any]:
    """A tokenizer and the config of a BERT for it: up to 64 tokens."""
    tokenizer = letters(begin="[CLS]", end="[SEP]", pad="[PAD]", model_max_length=64)
    sizes = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    return tokenizer, transformers.BertConfig(**sizes, pad_token_id=0, **changes)


@cache
def bert_classifier(problem_type: str | None = None) -> Path:
    """A classifier of texts of up to 64 tokens into three classes."""
    folder = _folder(f"bert_classifier_{problem_type}")
    names = {0: "bad", 1: "so-so", 2: "good"}
    tokenizer, config = _bert(num_labels=3, id2label=names, problem_type=problem_type)
    spread(transformers.BertForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def gpt2_classifier(pad: bool = True) -> Path:
    """A decoder that classifies texts of up to 64 tokens by the last one. pad: it knows a padding token."""
    folder = _folder(f"gpt2_classifier_{pad}")
    tokenizer = letters(begin="", end="<end>", pad="<pad>", model_max_length=64)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    own = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0 if pad else None}
    config = transformers.GPT2Config(**sizes, **own, num_labels=3)
    spread(transformers.GPT2ForSequenceClassification(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def bert_embedder(*modules: str, head: str = "Model") -> Path:
    """An embedder of texts of up to 64 tokens, 32 dimensions. modules: of sentence-transformers, after the
    transformer; without any the checkpoint does not say how it embeds."""
    folder = _folder("-".join(("bert_embedder", head, *modules)))
    tokenizer, config = _bert()
    spread(getattr(transformers, f"Bert{head}")(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chain = [("", "Transformer"), *((f"{at}_{kind}", kind) for at, kind in enumerate(modules, 1))]
    if modules:
        named = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in chain]
        (folder / "modules.json").write_text(json.dumps(named))
    for path, kind in chain[1:]:
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(_MODULES.get(kind, {})))
        if kind == "Dense":
            torch.manual_seed(4)
            layer = {"linear.weight": torch.randn(16, 32), "linear.bias": torch.randn(16)}
            save_file(layer, folder / path / "model.safetensors")
    return folder


_MODULES: dict[str, dict[str, Any]] = {
    "Pooling": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
    "Dense": {
        "in_features": 32,
        "out_features": 16,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
}


_SQUARE = {"height": 32, "width": 32}


@cache
def vit(pooler: bool = True) -> Path:
    """A bare ViT of 32 pixels, 32 dimensions, with or without a pooler."""
    config = transformers.ViTConfig(**TINY, image_size=32, patch_size=8)
    model = transformers.ViTModel(config, add_pooling_layer=pooler)
    return _seeing(f"vit_{pooler}", model, pictures("ViT", size=_SQUARE))


@cache
def vit_classifier() -> Path:
    """A ViT of 32 pixels that tells four classes apart."""
    config = transformers.ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=4)
    model = transformers.ViTForImageClassification(config)
    return _seeing("vit_classifier", model, pictures("ViT", size=_SQUARE))


@cache
def dinov2() -> Path:
    """DINOv2 of 28 pixels, 32 dimensions."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Dinov2Config(**sizes, mlp_ratio=2, image_size=28, patch_size=14)
    crop = {"crop_size": {"height": 28, "width": 28}, "resample": 3}
    processor = pictures("Bit", size={"shortest_edge": 32}, **crop)
    return _seeing("dinov2", transformers.Dinov2Model(config), processor)


@cache
def convnext() -> Path:
    """A bare ConvNeXT of 64 pixels, 32 dimensions."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    processor = pictures("ConvNext", size={"shortest_edge": 64})
    return _seeing("convnext", transformers.ConvNextModel(config), processor)


def _seeing(name: str, model: Any, processor: Any) -> Path:
    folder = _folder(name)
    spread(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def clip() -> Path:
    """CLIP: texts of up to 32 tokens, pictures of 32 pixels, 24 dimensions."""
    folder = _folder("clip")
    tokenizer = letters(begin="<s>", end="</s>", pad="</s>", model_max_length=32)
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
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


# Numbers of BERT's vocabulary, by which Grounding DINO tells where a label ends.
_STOPS = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}


@cache
def grounding_dino(family: str = "GroundingDino") -> Path:
    """Grounding DINO: 12 queries, texts of up to 64 letters; pictures keep their proportions."""
    folder = _folder(family.lower())
    tokenizer = letters(begin="[CLS]", end="[SEP]", pad="[PAD]", numbers=_STOPS, model_max_length=64)
    text = transformers.BertConfig(**TINY, vocab_size=1030, max_position_embeddings=64, pad_token_id=0)
    shape = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 3}
    seen = transformers.SwinConfig(**shape, out_indices=[2, 3, 4])
    config = getattr(transformers, f"{family}Config")(
        **_DETR, text_config=text, backbone_config=seen, max_text_len=64
    )
    spread(getattr(transformers, f"{family}ForObjectDetection")(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures("GroundingDino", size=_SIDES).save_pretrained(folder)
    return folder


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
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = {**TINY, "image_size": 48, "patch_size": 8}
    made = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision, projection_dim=32)
    spread(getattr(transformers, f"{family}ForObjectDetection")(made)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures(family, **processing).save_pretrained(folder)
    return folder
