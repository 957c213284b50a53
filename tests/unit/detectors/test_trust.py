"""Code that a checkpoint brings along runs only where the user says so, and then it does."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import checkpoints
from opsin_detectors.api import ImageInput, Options, Task
from opsin_detectors.testing import run

from .batches import SENTENCES, open_, refusal, texts_of, vectors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CODE = """
import pathlib

import transformers

pathlib.Path(__file__).with_name("ran").touch()


class OwnConfig(transformers.{base}Config):
    model_type = "own-{kind}"


class {name}(transformers.{stock}):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        answer = super().forward(*args, **kwargs)
        answer.{field} = -answer.{field}
        return answer
"""
"""A model that answers the opposite of the one that it is made of."""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where transformers copies such code to: a folder that goes with the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return tmp_path / "modules"


def own(plain: Path, folder: Path, auto: str, **code: str) -> Path:
    """The plain checkpoint as one with code of its own, which the class `auto` finds."""
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", auto: f"own.{code['name']}"}
    config |= {"model_type": f"own-{code['kind']}", "architectures": [code["name"]]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(**code))
    return folder


def classifier(folder: Path) -> tuple[Path, Path]:
    """A plain classifier of pictures, and one with code of its own."""
    plain = checkpoints.vit_classifier()
    code = {"base": "ViT", "kind": "vit", "stock": "ViTForImageClassification", "field": "logits"}
    auto = "AutoModelForImageClassification"
    return plain, own(plain, folder / "own", auto, name="OwnForImageClassification", **code)


def embedder(folder: Path) -> tuple[Path, Path]:
    """A plain embedder of texts, and one with code of its own."""
    plain = checkpoints.bert_embedder()
    code = {"base": "Bert", "kind": "bert", "stock": "BertModel", "field": "last_hidden_state"}
    return plain, own(plain, folder / "own", "AutoModel", name="OwnModel", **code)


@pytest.mark.parametrize("make", [classifier, embedder])
def test_a_checkpoint_with_code_of_its_own_is_refused_and_the_code_not_run(
    make: Any, tmp_path: Path, modules: Path
) -> None:
    _, folder = make(tmp_path)

    said = refusal(folder)

    assert "needs code of its own to be run" in said
    assert "trust_remote_code=true, if you trust who made it" in said
    assert not list(modules.rglob("ran"))
    assert not (folder / "ran").exists()


def test_the_code_of_a_trusted_classifier_runs(tmp_path: Path, modules: Path) -> None:
    plain, folder = classifier(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    source = ImageInput(pixels, 32, 32)

    detectors = open_(plain), open_(folder, trust_remote_code="true")
    logits = [
        np.log([label.score for label in run(one, [source], Task.CLASSIFY_IMAGE)[0].labels])
        for one in detectors
    ]

    assert list(modules.rglob("ran"))
    apart = [one - one.mean() for one in logits]
    np.testing.assert_allclose(apart[1], -apart[0], atol=1e-4)
    assert np.abs(apart[0]).max() > 0.01


def test_the_code_of_a_trusted_embedder_runs(tmp_path: Path, modules: Path) -> None:
    plain, folder = embedder(tmp_path)

    made = [
        vectors(run(one, texts_of(SENTENCES[:3]), Task.EMBED_TEXT, Options()))
        for one in (open_(plain), open_(folder, trust_remote_code="true"))
    ]

    assert list(modules.rglob("ran"))
    np.testing.assert_allclose(made[1], -made[0], atol=1e-5)
