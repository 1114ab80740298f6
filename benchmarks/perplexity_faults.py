"""Which level notices which fault: `python -m benchmarks.perplexity_faults --data FILE`, faults planted in real text.

Four fifths of the texts train a small model (unless --model names one), the others get one fault each. The tables, in
Markdown, say how far each level moves: the mean change in nats per token with its 95 % interval over texts, and the
share of texts in which no level moves further.
"""

import argparse
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triplex.data.files import FORMATS, open_file
from triplex.evaluation.statistics import summary
from triplex.models.base import BaseConfig, base_model
from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.perplexity.levels import DEFAULT_POOLS, LEVELS, PLAIN_POOLS, level_nats
from triplex.perplexity.scorer import FrozenScorer
from triplex.perplexity.segment import segment, token_units
from triplex.runs.seeds import derive_seed, seed_everything
from triplex.runs.stage import Run

SEED, NUM_TEXTS, MIN_SENTENCES, MAX_SENTENCES = 7, 200, 3, 5
BASE = {
    "model": {
        "kind": "scratch", "architecture": "gpt2", "vocab_size": 2048, "hidden_size": 128, "num_layers": 3,
        "num_heads": 4, "max_positions": 256,
    },
    "block_size": 256,
    "optim": {
        "num_epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "warmup_frac": 0.05, "weight_decay": 0.1,
        "max_grad_norm": 1.0, "checkpoint_every": 1000,
    },
}  # fmt: skip

#: a text as the words of its sentences, each with the space before it and the punctuation behind it
Sentences = list[list[str]]
#: plants one fault; None where the text has no place for it
Fault = Callable[[Sentences, random.Random], Sentences | None]


def sentences_of(text: str) -> Sentences:
    """The words of each sentence; together they are the text."""
    starts, numbers = segment(text)
    sentences: Sentences = [[] for _ in range(numbers[-1] + 1)]
    for start, end, number in zip(starts, [*starts[1:], len(text)], numbers, strict=True):
        sentences[number].append(text[start:end])
    return [sentence for sentence in sentences if sentence]


def bare(word: str) -> str:
    """The word without space and punctuation; empty for a sign."""
    found = re.search(r"\w+", word)
    return found[0] if found else ""


def dressed(word: str, as_in: str) -> str:
    """`word` with the space and the punctuation of `as_in`."""
    return re.sub(r"\w+", lambda _: word, as_in, count=1)


def swapped(sentences: Sentences, rng: random.Random) -> Sentences | None:
    """Two neighbouring words change places."""
    places = [
        (s, w)
        for s, sentence in enumerate(sentences)
        for w in range(1, len(sentence) - 1)
        if (one := bare(sentence[w])).isalpha() and (two := bare(sentence[w + 1])).isalpha() and one != two
    ]
    if not places:
        return None
    s, w = rng.choice(places)
    one, two = sentences[s][w : w + 2]
    return _with(
        sentences, s, [*sentences[s][:w], dressed(bare(two), one), dressed(bare(one), two), *sentences[s][w + 2 :]]
    )


def shuffled(sentences: Sentences, rng: random.Random) -> Sentences | None:
    """The words of one sentence, in any order."""
    places = [s for s, sentence in enumerate(sentences) if len({bare(word) for word in sentence}) >= 6]
    if not places:
        return None
    s = rng.choice(places)
    words = [bare(word) for word in sentences[s]]
    rng.shuffle(words)
    return _with(sentences, s, [dressed(word, place) for word, place in zip(words, sentences[s], strict=True)])


def rare_word(rare: Sequence[str]) -> Fault:
    """One word gives way to one that occurs once in the whole file."""

    def fault(sentences: Sentences, rng: random.Random) -> Sentences | None:
        places = [
            (s, w)
            for s, sentence in enumerate(sentences)
            for w, word in enumerate(sentence)
            if w and len(bare(word)) >= 3 and bare(word).islower()
        ]
        if not places:
            return None
        s, w = rng.choice(places)
        sentence = sentences[s]
        return _with(sentences, s, [*sentence[:w], dressed(rng.choice(rare), sentence[w]), *sentence[w + 1 :]])

    return fault


def repeated_clause(sentences: Sentences, rng: random.Random) -> Sentences | None:
    """A clause of four to twelve words that ends with a comma or the like stands twice."""
    places = []
    for s, sentence in enumerate(sentences):
        ends = [w + 1 for w, word in enumerate(sentence) if re.search(r"[,;:]\s*$", word)]
        places += [(s, a, b) for a, b in zip([0, *ends], ends, strict=False) if 4 <= b - a <= 12]
    if not places:
        return None
    s, first, end = rng.choice(places)
    return _with(sentences, s, sentences[s][:end] + sentences[s][first:])


def _with(sentences: Sentences, at: int, sentence: list[str]) -> Sentences:
    return [*sentences[:at], sentence, *sentences[at + 1 :]]


def levels_of(scorer: FrozenScorer, texts: Sequence[str]) -> dict[str, Tensor]:
    """(B, 4) nats by name of the pools, from one pass."""
    results = scorer.score([""] * len(texts), texts)
    units = token_units(texts, [[first for first, _ in result.offsets] for result in results])
    nats = torch.cat([result.nats for result in results])
    return {
        name: level_nats(nats, units, pools) for name, pools in (("default", DEFAULT_POOLS), ("plain", PLAIN_POOLS))
    }


def read(path: Path) -> tuple[list[str], list[str]]:
    """(four fifths of the texts, the others), by hash; a file of an unknown ending is read as lines."""
    records = open_file(path, file_format=path.suffix if path.suffix in FORMATS else ".txt").records()
    texts = [text for record in records if (text := record.values["text"].strip())]
    others = {text for text in texts if derive_seed("faults", text) % 5 == 0}
    return [text for text in texts if text not in others], [text for text in dict.fromkeys(texts) if text in others]


def trained(texts: Sequence[str]) -> tuple[Any, Any]:
    """(model, tokenizer) trained from scratch on `texts`."""
    with tempfile.TemporaryDirectory() as state:
        return base_model(BaseConfig.model_validate(BASE), "float32", texts, Run("faults", SEED, Path(state)))


def faults(texts: Sequence[str]) -> dict[str, Fault]:
    """The faults by name; `texts` decide which words are rare."""
    counts = Counter(re.findall(r"\b[a-z]{5,}\b", " ".join(texts)))
    rare = sorted(word for word, count in counts.items() if count == 1)
    return {
        "two words swapped": swapped,
        "one sentence shuffled": shuffled,
        "one word made rare": rare_word(rare),
        "one clause repeated": repeated_clause,
    }


def changes(scorer: FrozenScorer, texts: Sequence[str], fault: Fault) -> dict[str, Tensor]:
    """(texts that have a place for the fault, 4) nats by name of the pools: with the fault less without."""
    pairs = []
    for text in texts:
        planted = fault(sentences_of(text), random.Random(derive_seed(SEED, text)))
        if planted and all(scorer.fits([""], ["".join(map("".join, planted))])):
            pairs.append((text, "".join(map("".join, planted))))
    before, after = (levels_of(scorer, side) for side in zip(*pairs, strict=True))
    return {name: after[name] - before[name] for name in before}


def cells(change: Tensor) -> list[str]:
    """For each level its mean change, the interval, and how often it moves furthest."""
    furthest = change.abs().argmax(dim=1)
    found = []
    for level in range(len(LEVELS)):
        mean = summary(change[:, level].tolist(), SEED)
        share = (furthest == level).double().mean().item()
        found.append(f"{mean['mean']:+.3f} [{mean['ci_low']:+.3f}, {mean['ci_high']:+.3f}], {share:.0%}")
    return found


def main() -> None:
    """Train where no model is given, plant the faults and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="texts of several sentences, one a line"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="score with this model instead of training one")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the model that is trained")
    options = parser.parse_args()

    seed_everything(SEED, threads=torch.get_num_threads())
    train, held_out = read(options.data)
    model, tokenizer = load_causal_lm(options.model) if options.model else trained(train)
    if options.save:
        save_model(options.save, model, tokenizer)
    scorer = FrozenScorer(model, tokenizer)
    texts = ["".join(map("".join, sentences_of(text)[:MAX_SENTENCES])) for text in held_out]
    fit = zip(texts, scorer.fits([""] * len(texts), texts), strict=True)
    texts = [text for text, fits in fit if fits and len(sentences_of(text)) >= MIN_SENTENCES][:NUM_TEXTS]
    by_fault = {name: changes(scorer, texts, fault) for name, fault in faults([*train, *held_out]).items()}
    nats = levels_of(scorer, texts)["plain"][:, 0].mean()
    print(f"{len(texts)} texts of {MIN_SENTENCES} to {MAX_SENTENCES} sentences; as they are, {nats:.2f} nats per token")
    for pools in ("default", "plain"):
        print(f"\n| `{pools}` | texts | {' | '.join(LEVELS)} |\n|---|---|{'---|' * len(LEVELS)}")
        for name, change in by_fault.items():
            print(f"| {name} | {len(change[pools])} | {' | '.join(cells(change[pools]))} |")


if __name__ == "__main__":
    main()
