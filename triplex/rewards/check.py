"""Texts that a sound reward puts below human text, scored before a policy finds out which of them it does not."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from random import Random
from typing import Any, NamedTuple

from rich.table import Column, Table

from triplex.evaluation.statistics import paired_difference
from triplex.models.causal import CausalLM
from triplex.rewards.calibration import CalibrationConfig, sample_sft
from triplex.rewards.composite import CompositeReward
from triplex.runs.seeds import derive_seed

HUMAN, GOLD, SFT = "human", "gold", "sft"
#: what nobody would call an answer, and a policy finds if it is paid for it
DEGENERATE = ("empty", "repeated", "shuffled gold", "prompt copy")
REPEATED_WORDS = 3

Rows = Sequence[Mapping[str, Any]]


class Texts(NamedTuple):
    """One completion a row; `completion_ids` hold the end-of-text token with them, unless the text was cut off."""

    completions: list[str]
    completion_ids: list[list[int]]


class Line(NamedTuple):
    """What one kind of text scores; None where the reward applies to no row of it."""

    name: str
    mean: float | None  # over the rows to which the reward applies
    difference: float | None  # mean of text minus human, row by row, where the reward applies to both
    low: float | None  # its 95 % interval, from a bootstrap over rows
    high: float | None
    components: dict[str, float]  # means of what entered the total; they sum to `mean`
    valid: float  # share of the rows to which the reward applies


def pick(rows: Rows, num_rows: int, seed: int) -> list[Mapping[str, Any]]:
    """`num_rows` of the held-out rows, or all of fewer, drawn by the hash of their ids."""
    return sorted(rows, key=lambda row: derive_seed(seed, row["id"]))[:num_rows]


def battery(rows: Rows, tokenizer: Any, seed: int) -> dict[str, Texts]:
    """Texts by name, one for each row (`id`, `prompt`, `completion`, `reference`).

    `human` is the completion. `gold`, the reference, is left out where all references are the completions.
    `repeated` is the first words of the human text over and over, in as many tokens; `shuffled gold` the reference's
    words in an order drawn by `seed` and the row's id.
    """

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def repeated(text: str) -> str:
        words = text.split()
        endless = islice(cycle(words[:REPEATED_WORDS]), REPEATED_WORDS * len(ids(text)))
        return tokenizer.decode(ids(_like(text, endless))[: len(ids(text))])

    def shuffled(row: Mapping[str, Any]) -> str:
        words = row["reference"].split()
        Random(derive_seed(seed, "shuffled gold", row["id"])).shuffle(words)
        return _like(row["reference"], words)

    texts = {
        HUMAN: [row["completion"] for row in rows],
        GOLD: [row["reference"] for row in rows],
        "empty": ["" for _ in rows],
        "repeated": [repeated(row["completion"]) for row in rows],
        "shuffled gold": [shuffled(row) for row in rows],
        "prompt copy": [_like(row["completion"], row["prompt"].split()) for row in rows],
    }
    if texts[GOLD] == texts[HUMAN]:
        del texts[GOLD]
    return {name: Texts(each, [[*ids(text), tokenizer.eos_token_id] for text in each]) for name, each in texts.items()}


def sampled(lm: CausalLM, tokenizer: Any, rows: Rows, max_new_tokens: int, seed: int) -> Texts:
    """The responses of `lm` to the rows, which `pick` has put in order, at temperature 1."""
    config = CalibrationConfig(num_samples=len(rows), max_new_tokens=max_new_tokens, temperature=1.0)
    samples = sample_sft(lm, tokenizer, rows, config, seed)
    assert samples.prompts == [row["prompt"] for row in rows]
    return Texts(samples.completions, samples.completion_ids)


def ordering(reward: CompositeReward, rows: Rows, batteries: Mapping[str, Texts], seed: int) -> list[Line]:
    """What each kind of text scores, the best first; `batteries` hold `human` and other texts for the same rows."""
    prompts, references = [row["prompt"] for row in rows], [row["reference"] for row in rows]
    totals: dict[str, list[float | None]] = {}
    lines = []
    for name, texts in {HUMAN: batteries[HUMAN], **batteries}.items():  # human first: the others are compared to it
        output = reward.score(prompts, *texts, reference=references)
        valid = output.valid
        pairs = zip(output.total.double().tolist(), valid.tolist(), strict=True)
        totals[name] = [total if applies else None for total, applies in pairs]
        mean, components = None, {}
        if valid.any():
            mean = output.total[valid].double().mean().item()
            components = {part: values[valid].double().mean().item() for part, values in output.components.items()}
        difference = _difference(totals[name], totals[HUMAN], seed)
        lines.append(Line(name, mean, *difference, components, valid.double().mean().item()))
    return sorted(lines, key=lambda line: float("-inf") if line.mean is None else line.mean, reverse=True)


def ways_to_cheat(lines: Sequence[Line]) -> list[str]:
    """A sentence for each degenerate text that does not score below human text beyond doubt.

    Where the reference is another text than the completion, no policy ever sees it: its words shuffled, as the gold
    text itself, show what a leak would earn and are no way to cheat.
    """
    within_reach = [name for name in DEGENERATE if name != "shuffled gold" or GOLD not in {line.name for line in lines}]
    found = []
    for line in lines:
        if line.name not in within_reach or line.difference is None or line.high is None or line.high < 0:
            continue
        if line.difference > 0:
            said = f"scores {line.difference:.3g} above human text"
        elif line.difference == 0:
            said = "scores the same as human text"
        else:
            said = f"scores {-line.difference:.3g} below human text, within the noise"
        found.append(f"hackable: `{line.name}` {said}")
    return found


def tables(lines: Sequence[Line]) -> tuple[Table, Table]:
    """The lines for a terminal: how each text stands to human text, and what each part of the reward gives it."""
    whole = Table("text", "reward", "minus human (95 %)", "applies to", box=None)
    for line in lines:
        difference = "-"
        if line.difference is not None and line.name != HUMAN:
            difference = f"{line.difference:+.3f} ({line.low:+.3f} to {line.high:+.3f})"
        mean = "does not apply" if line.mean is None else f"{line.mean:.3f}"
        whole.add_row(line.name, mean, difference, f"{line.valid:.0%}")
    texts = (Column(line.name, justify="right") for line in lines)
    by_part = Table(Column("part", no_wrap=True), *texts, box=None, collapse_padding=True)
    for part in next((line.components for line in lines if line.components), {}):
        by_part.add_row(part, *(f"{line.components[part]:.3f}" if line.components else "-" for line in lines))
    return whole, by_part


def _like(text: str, words: Any) -> str:
    """Words with a space between two, after the white space with which `text` begins."""
    return text[: len(text) - len(text.lstrip())] + " ".join(words)


def _difference(
    totals: Sequence[float | None], human: Sequence[float | None], seed: int
) -> tuple[float | None, float | None, float | None]:
    pairs = [(a, b) for a, b in zip(totals, human, strict=True) if a is not None and b is not None]
    if not pairs:
        return None, None, None
    found = paired_difference([a for a, _ in pairs], [b for _, b in pairs], seed)
    return found["diff"], found["ci_low"], found["ci_high"]
