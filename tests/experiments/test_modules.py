"""The modules a sequence uses by default: what they compute, and a sequence of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizerFast, ViTConfig, ViTImageProcessor, ViTModel

from contpeft.errors import NotFoundError
from contpeft.experiments import ImageClassifier, TextClassifier, parse_experiment, run_experiment
from contpeft.store import AdapterStore


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "runs", "sleeps"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


class TestText:
    def test_features_are_the_mean_of_the_tokens_padding_left_out(self, text_folder: Path) -> None:
        module = TextClassifier(str(text_folder)).eval()
        alone = module.encode(module.collate(["a cat"]))
        padded = module.encode(module.collate(["a cat", "a dog runs a cat sleeps"]))
        states = module.model(**module.collate(["a cat"])).last_hidden_state
        torch.testing.assert_close(alone, states.mean(1))
        torch.testing.assert_close(padded[:1], alone)

    def test_cls_pooling_takes_the_first_token(self, text_folder: Path) -> None:
        module = TextClassifier(str(text_folder), pooling="cls").eval()
        batch = module.collate(["a cat", "a dog runs"])
        torch.testing.assert_close(module.encode(batch), module.model(**batch).last_hidden_state[:, 0])

    def test_texts_are_cut_and_layers_left_out(self, text_folder: Path) -> None:
        module = TextClassifier(str(text_folder), max_length=4, num_layers=1)
        assert module.collate(["a cat runs a dog sleeps"])["input_ids"].shape == (1, 4)
        assert len(module.model.encoder.layer) == 1  # type: ignore[union-attr, arg-type]

    def test_the_loss_is_the_cross_entropy_of_the_head(self, text_folder: Path) -> None:
        module = TextClassifier(str(text_folder)).eval()
        module.head = torch.nn.Linear(16, 2)
        batch = module.collate(["a cat", "a dog"]) | {"labels": torch.tensor([0, 1])}
        expected = F.cross_entropy(module.head(module.encode(batch)), batch["labels"])
        module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        torch.testing.assert_close(module.training_step(batch, 0), expected)

    def test_an_unknown_model_is_one_line(self) -> None:
        with pytest.raises(
            NotFoundError, match=r"cannot load model 'no/such'.*name a local folder"
        ) as caught:
            TextClassifier("no/such")
        assert "\n" not in str(caught.value)


class TestImages:
    def test_arrays_and_pictures_become_the_same_pixels(self, image_folder: Path) -> None:
        module = ImageClassifier(str(image_folder))
        grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
        inputs = [grey, np.stack([grey] * 3, axis=-1), Image.fromarray(grey), grey / np.float32(255)]
        pixels = module.collate(inputs)["pixel_values"]
        assert pixels.shape == (4, 3, 16, 16)
        assert all(torch.equal(pixels[0], each) for each in pixels[1:])

    def test_images_can_be_enlarged(self, image_folder: Path) -> None:
        module = ImageClassifier(str(image_folder), image_size=32)
        assert module.collate([np.zeros((8, 8), np.uint8)])["pixel_values"].shape == (1, 3, 32, 32)

    def test_a_sequence_of_images(self, image_folder: Path, tmp_path: Path) -> None:
        document = {
            "name": "digits",
            "stream": {"source": {"class_path": "Digits"}, "classes_per_task": 5, "train_per_class": 8},
            "module": {"class_path": "ImageClassifier", "init_args": {"model": str(image_folder)}},
            "strategies": ["frozen", "isolated"],
            "trainer": {"max_epochs": 1},
            "threads": 1,
            "store": str(tmp_path / "adapters"),
            "report": str(tmp_path / "reports"),
        }
        run_experiment(parse_experiment(document))
        store = AdapterStore(tmp_path / "adapters")
        version = store.show("digits.isolated.task-2")
        assert version.config["target_modules"] == ["q_proj", "v_proj"]
        values = {s.protocol: s.value for s in store.scores(run="digits", way="isolated") if s.step == 1}
        assert values["task_aware"] > 0.3  # five classes, chance is 0.2
