"""Models answer, are measured and compared: on models of 40,000 weights and a reward with and without sentiment."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from triplex.evaluation.evaluate import EvaluateConfig, measure, sample_rows, summarise
from triplex.models.huggingface import HuggingFaceLM
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.sentiment import VaderSentiment

PROMPTS = [("e1", "The tea"), ("e2", "I like this lamp. It"), ("e3", "A good book"), ("e4", "It")]
REFERENCES = [" kettle boils fast.", " is bright.", " well made.", " was cheap!"]
TEXTS = [" kettle boils fast. It is good!", " is great great.", "", " broke after a week"]
IDS = [[5, 6, 7, 8, 0], [9, 9, 0], [0], [7, 8]]
LENGTH = LengthReward(LengthConfig(weight=1.0, min_tokens=4, max_tokens=8))


def same_words(
    prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
) -> list[float | None]:
    """The number of words in common with the reference, logged as `improvement_pct`, its half as `overlap`."""
    pairs = zip(completions, columns["reference"], strict=True)
    values = [float(len(set(text.split()) & set(reference.split()))) for text, reference in pairs]
    columns["log_extra"]("improvement_pct", values)
    columns["log_extra"]("overlap", [value / 2 for value in values])
    return list(values)


@pytest.fixture(scope="module")
def scorer(tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> FrozenScorer:
    return FrozenScorer(tiny_lm(seed=3), tiny_tokenizer)


def answers(model: str, texts: Sequence[str] = TEXTS, ids: Sequence[list[int]] = IDS) -> list[dict[str, Any]]:
    return [
        {"id": name, "model": model, "prompt": prompt, "response": text, "completion_ids": tokens}
        | {"num_tokens": len(tokens), "kl_nats": 0.25 * row}
        for row, ((name, prompt), text, tokens) in enumerate(zip(PROMPTS, texts, ids, strict=True))
    ]


def measured(scorer: FrozenScorer, model: str, reward: CompositeReward, sentiment: Any, *given: Any) -> pa.Table:
    return measure(answers(model, *given), REFERENCES, reward, sentiment, scorer)


def test_the_reward_gets_each_prompts_reference_and_its_extras_are_columns(scorer: FrozenScorer) -> None:
    table = measured(scorer, "sft", CompositeReward({"same": Part(same_words, 2.0), "length": Part(LENGTH)}), None)
    # words in common: kettle boils fast.; is; none; none. Lengths 5, 3, 1, 2 of at least 4
    assert table["improvement_pct"].to_pylist() == [3, 1, 0, 0]
    assert table["overlap"].to_pylist() == [1.5, 0.5, 0, 0]
    assert table["rewards/same"].to_pylist() == [6, 2, 0, 0]
    assert table["rewards/length"].to_pylist() == [0, -0.25, -0.75, -0.5]
    assert table["reward"].to_pylist() == [6, 1.75, -0.75, -0.5]
    assert table["num_tokens"].to_pylist() == [5, 3, 1, 2]
    assert table["repetition"].to_pylist() == pytest.approx([0, 1 / 3, 0, 0])
    assert "sentiment" not in table.column_names
    assert "completion_ids" not in table.column_names


def test_nats_are_those_of_the_response_after_its_prompt(scorer: FrozenScorer) -> None:
    table = measured(scorer, "sft", CompositeReward({"length": Part(LENGTH)}), None)
    for row, ((_, prompt), text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        nats = scorer.level_nats([prompt], [text])[0, 1:].tolist()
        found = [table[f"{level}_nats"][row].as_py() for level in ("word", "phrase", "sentence")]
        assert found == pytest.approx(nats, abs=1e-4)
        whole = scorer.score([prompt], [text])[0]
        assert table["token_nats"][row].as_py() == pytest.approx(whole.nats.tolist(), abs=1e-4)
        assert table["token_starts"][row].as_py() == [first for first, _ in whole.offsets]


def test_sentiment_is_measured_where_there_is_one(scorer: FrozenScorer) -> None:
    table = measured(scorer, "sft", CompositeReward({"length": Part(LENGTH)}), VaderSentiment())
    assert table["sentiment"].to_pylist() == VaderSentiment()([text for _, text in PROMPTS], TEXTS, IDS)
    assert {"improvement_pct", "overlap"}.isdisjoint(table.column_names)


def test_summary_with_improvement_and_without_sentiment(scorer: FrozenScorer) -> None:
    reward = CompositeReward({"same": Part(same_words), "length": Part(LENGTH)})
    better = [" kettle boils fast.", " is bright.", " well", " was"], [[5, 6, 7, 0], [5, 6, 7, 0], [5], [6]]
    tables = {"sft": measured(scorer, "sft", reward, None), "ppo": measured(scorer, "ppo", reward, None, *better)}
    found = summarise(tables, seed=1)
    sft, ppo = found["models"]["sft"], found["models"]["ppo"]
    assert (sft["improvement_pct"]["mean"], ppo["improvement_pct"]["mean"]) == (1.0, 1.75)  # 3 2 1 1
    assert (sft["overlap"], ppo["overlap"]) == (0.5, 0.875)
    assert "sentiment" not in sft
    assert sft["components"] == {"same": 1.0, "length": -0.375}
    assert sft["reward"]["mean"] == pytest.approx(0.625)
    assert (sft["length"], sft["kl_nats"]) == (2.75, 0.375)
    words = tables["sft"]["word_nats"].to_pylist()
    assert sft["perplexity"]["word"] == pytest.approx(math.exp(statistics.mean(words)))
    assert found["paired"]["ppo"].keys() == {"reward", "improvement_pct", "repetition", "length", "kl_nats"}
    difference = found["paired"]["ppo"]["improvement_pct"]
    assert difference["diff"] == pytest.approx(0.75)
    assert difference["ci_low"] <= 0.75 <= difference["ci_high"]
    assert (found["reference"], found["num_prompts"]) == ("sft", 4)


def test_summary_with_sentiment_and_without_improvement(scorer: FrozenScorer) -> None:
    reward = CompositeReward({"length": Part(LENGTH)})
    tables = {name: measured(scorer, name, reward, VaderSentiment()) for name in ("base", "sft")}
    found = summarise(tables, seed=1)
    expected = statistics.mean(VaderSentiment()([text for _, text in PROMPTS], TEXTS, IDS))
    assert found["models"]["base"]["sentiment"] == pytest.approx(expected)
    assert {"improvement_pct", "overlap"}.isdisjoint(found["models"]["base"])
    assert found["paired"].keys() == {"base"}
    assert found["paired"]["base"].keys() == {"reward", "sentiment", "repetition", "length", "kl_nats"}
    assert all(difference["diff"] == 0 for difference in found["paired"]["base"].values())


def test_a_prompts_response_depends_on_model_and_seed_alone(tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    def sample(model: Any, prompts: Sequence[tuple[str, str]], batch_size: int, seed: int = 3) -> dict[str, Any]:
        config = EvaluateConfig(max_new_tokens=8, temperature=1.0, batch_size=batch_size)
        policy, reference = HuggingFaceLM(model, tiny_tokenizer), HuggingFaceLM(tiny_lm(0), tiny_tokenizer)
        rows = []
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            rows += sample_rows("ppo", policy, reference, tiny_tokenizer, some, config, seed)
        return {row["id"]: row for row in rows}

    whole, apart = sample(tiny_lm(1), PROMPTS, 4), sample(tiny_lm(1), PROMPTS[::-1], 1)
    for name, row in whole.items():
        assert row["completion_ids"] == apart[name]["completion_ids"]
        assert row["kl_nats"] == pytest.approx(apart[name]["kl_nats"], abs=1e-5)
        assert row["kl_nats"] > 0
        assert row["num_tokens"] == len(row["completion_ids"]) <= 8
    assert all(row["kl_nats"] == pytest.approx(0, abs=1e-6) for row in sample(tiny_lm(0), PROMPTS, 4).values())
    other = sample(tiny_lm(1), PROMPTS, 4, seed=4)
    assert all(other[name]["completion_ids"] != row["completion_ids"] for name, row in whole.items())
