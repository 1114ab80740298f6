from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from triplex.models.classifier import classifier_batch, classifier_logits, encode_texts
from triplex.models.saving import save_model


@pytest.fixture(scope="module")
def classifier(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> tuple[Any, Any]:
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    model.config.pad_token_id = tiny_tokenizer.pad_token_id
    return model, tiny_tokenizer


def test_logits_by_hand(classifier: tuple[Any, Any]) -> None:
    model, tokenizer = classifier
    expected = []
    for text in ("The lamp is good.", "It broke"):
        with torch.no_grad():
            hidden = model.transformer(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1]
        expected.append((model.score.weight @ hidden).tolist())
    found = classifier_logits(*classifier, ["The lamp is good.", "It broke"])
    assert found.tolist() == [pytest.approx(row, abs=1e-5) for row in expected]
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)


def test_alone_is_as_in_a_batch(classifier: tuple[Any, Any]) -> None:
    """More texts than one pass takes, of very different lengths, longer than the model among them."""
    texts = ["good tea " * (i % 40) + "bad lamp " * (i % 7) for i in range(150)]
    together = classifier_logits(*classifier, texts)
    alone = torch.cat([classifier_logits(*classifier, [text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert len(alone.unique(dim=0)) > 50


def test_no_texts_have_no_logits(classifier: tuple[Any, Any]) -> None:
    assert classifier_logits(*classifier, []).shape == (0, 3)


def test_batches_are_padded_on_the_right(tiny_tokenizer: Any) -> None:
    rows = encode_texts(tiny_tokenizer, ["I", "I like this lamp."])
    batch = classifier_batch(rows, tiny_tokenizer.pad_token_id)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"][:, 0].tolist() == [tiny_tokenizer.bos_token_id] * 2
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)
    assert batch["input_ids"][0, -1] == tiny_tokenizer.pad_token_id


def test_long_texts_are_cut_to_the_model(tiny_tokenizer: Any) -> None:
    assert [len(ids) for ids in encode_texts(tiny_tokenizer, ["tea " * 1000])] == [64]
