"""The perplexity scorer side by side with what it is made of: `python -m benchmarks.perplexity --json`.

One run, one machine, one small random GPT-2, the same texts: each figure is the median over rounds of a ratio of two
times taken one after the other. The last line is JSON:
  levels_over_token        three levels over token-level perplexity of the same texts, end to end
  of_bare_forward          the model's own logits for the same padded batches over scoring, end to end
  over_single_sample_loop  scoring text by text over scoring all at once
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import sentencex
import torch

from triplex.data.reviews import generate_reviews
from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer
from triplex.perplexity.scorer import FrozenScorer

NUM_TEXTS, NUM_ROUNDS, MAX_TOKENS_PER_BATCH, SEED = 2000, 5, 4096, 7
LOOP_EVERY = 8  # the loop over single texts takes every eighth, and its time counts eightfold
MODEL = ScratchConfig(
    kind="scratch", architecture="gpt2", vocab_size=2048, hidden_size=96, num_layers=8, num_heads=4, max_positions=256
)


def padded_batches(tokenizer: Any, texts: list[str]) -> list[torch.Tensor]:
    """Input ids as the scorer feeds them: longest texts first, padded on the right, MAX_TOKENS_PER_BATCH at most."""
    rows = sorted(tokenizer(texts)["input_ids"], key=len, reverse=True)
    batches = []
    while rows:
        width = len(rows[0])
        batch, rows = rows[: MAX_TOKENS_PER_BATCH // width], rows[MAX_TOKENS_PER_BATCH // width :]
        batches.append(torch.tensor([(ids + [0] * (width - len(ids)))[:-1] for ids in batch]))
    return batches


@torch.no_grad()
def bare_forward(model: Any, batches: list[torch.Tensor]) -> None:
    """The model's own logits, and nothing done with them."""
    for batch in batches:
        model(input_ids=batch, use_cache=False)


def single_sample_loop(scorer: FrozenScorer, texts: list[str]) -> list[torch.Tensor]:
    """The levels text by text."""
    return [scorer.level_nats([""], [text]) for text in texts]


def token_perplexity(scorer: FrozenScorer, texts: list[str]) -> list[float]:
    """The same numbers from the scorer, without units and levels."""
    return [nats.mean().exp().item() for nats in scorer.token_nats([""] * len(texts), texts)]


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the times of every round and the three medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the last line, JSON, alone")
    as_json_only = parser.parse_args().json

    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    reviews = [review.text for review in generate_reviews(NUM_TEXTS, SEED)]
    texts = [sentence.strip() for review in reviews for sentence in sentencex.segment("en", review)][:NUM_TEXTS]
    tokenizer = train_tokenizer(texts, MODEL.vocab_size, MODEL.max_positions)
    model = build_causal_lm(MODEL, tokenizer)
    scorer = FrozenScorer(model, tokenizer, max_tokens_per_batch=MAX_TOKENS_PER_BATCH)
    batches = padded_batches(tokenizer, texts)
    contexts = [""] * NUM_TEXTS
    few = texts[::LOOP_EVERY]
    works: dict[str, Callable[[], Any]] = {
        "levels": lambda: scorer.level_nats(contexts, texts),
        "token": lambda: token_perplexity(scorer, texts),
        "bare forward": lambda: bare_forward(model, batches),
        "single-sample loop": lambda: single_sample_loop(scorer, few),
    }
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(NUM_ROUNDS)]
    for times in rounds:
        times["single-sample loop"] *= len(texts) / len(few)

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(times[above] / times[below] for times in rounds), 3)

    result = {
        "levels_over_token": ratio("levels", "token"),
        "of_bare_forward": ratio("bare forward", "levels"),
        "over_single_sample_loop": ratio("single-sample loop", "levels"),
    }
    if not as_json_only:
        for times in rounds:
            print("  ".join(f"{name} {value:.2f} s" for name, value in times.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
