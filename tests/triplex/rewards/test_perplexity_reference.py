import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from triplex.perplexity.baselines import Baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.perplexity_reference import PlanConfig, ReferencePerplexity, ReferenceTarget, overlap
from triplex.runs.errors import InputError

PROMPTS = ["The tea", "I like this lamp.", "A good book"]
REFERENCES = [" kettle boils fast. It stays cool!", " It is bright.", " well made, but the print is small."]
RESPONSES = ["<plan> it boils</plan> and more", "<plan> money back for a week", "no mark at all"]
PLANS = [" it boils", " money back for a week", ""]
IDS = [[5, 0]] * 3
WEIGHTS = (0.2, 0.3, 0.5)
TableOf = Callable[..., Baselines]
Make = Callable[..., ReferencePerplexity]


def target(**changes: Any) -> ReferenceTarget:
    plan = {"after": "<plan>", "before": "</plan>"}
    return ReferenceTarget.model_validate(
        {"kind": "reference", "plan": plan, "profile": "geometric", "map": {"kind": "identity"}} | changes
    )


def nats(scorer: FrozenScorer, plans: Sequence[str]) -> list[list[float]]:
    """(token, word, phrase, sentence) of each reference after the template, written out here once more."""
    contexts = [f"{prompt} Plan:{plan} Story:" for prompt, plan in zip(PROMPTS, plans, strict=True)]
    return scorer.level_nats(contexts, REFERENCES).tolist()


@pytest.fixture(scope="module")
def baselines(scorer: FrozenScorer, table_of: TableOf) -> Baselines:
    """What stands in the columns of the bare prompt must not be looked at."""
    return table_of(list(zip(PROMPTS, REFERENCES, strict=True)), [[0.5] * 4] * 3, nats(scorer, [""] * 3))


@pytest.fixture
def make(scorer: FrozenScorer, levels: PerplexityConfig, baselines: Baselines) -> Make:
    def build(weights: Sequence[float] = WEIGHTS, table: Baselines = baselines, **changes: Any) -> ReferencePerplexity:
        return ReferencePerplexity(scorer, levels, table, target(**changes), weights)

    return build


def geometric(weights: Sequence[float], empty: Sequence[float], after: Sequence[float]) -> float:
    delta = [b - p for b, p in zip(empty[1:], after[1:], strict=True)]
    return 100 * (1 - math.exp(-sum(w * d for w, d in zip(weights, delta, strict=True))))


def arithmetic(weights: Sequence[float], empty: Sequence[float], after: Sequence[float]) -> float:
    before, now = (sum(w * math.exp(n) for w, n in zip(weights, x[1:], strict=True)) for x in (empty, after))
    return 100 * (before - now) / before


@pytest.mark.parametrize("weights", [WEIGHTS, (0.1, 0.3, 0.6), (1.0, 0.0, 0.0)])
@pytest.mark.parametrize(("profile", "formula"), [("geometric", geometric), ("weighted_ppl", arithmetic)])
def test_improvement_by_hand(
    scorer: FrozenScorer, make: Make, profile: str, formula: Callable[..., float], weights: tuple[float, ...]
) -> None:
    """Every number moves by far more than the tolerance."""
    expected = [
        formula(weights, empty, after) for empty, after in zip(nats(scorer, [""] * 3), nats(scorer, PLANS), strict=True)
    ]
    assert min(abs(value) for value in expected[:2]) > 0.5
    found = make(weights, profile=profile)(PROMPTS, RESPONSES, IDS, reference=REFERENCES)
    assert found == pytest.approx([*expected[:2], 0.0], abs=1e-3, rel=1e-5)


def test_an_empty_plan_has_improved_by_exactly_0(make: Make, scorer: FrozenScorer) -> None:
    """Alone and among others, by the template's wording neither: the bare prompt would give another number."""
    empty = ["", "no mark", "<plan></plan> the end"]
    assert make()(PROMPTS, empty, IDS, reference=REFERENCES) == [0.0] * 3
    for row in range(3):
        assert make()([PROMPTS[row]], [empty[row]], [[0]], reference=[REFERENCES[row]]) == [0.0]
    bare = scorer.level_nats(PROMPTS, REFERENCES)
    assert abs(geometric(WEIGHTS, bare.tolist()[0], nats(scorer, [""] * 3)[0])) > 0.5


def test_only_the_plan_stands_in_the_context(make: Make) -> None:
    marked, whole = make(), make(plan={"after": "", "before": ""})
    first = marked(PROMPTS, RESPONSES, IDS, reference=REFERENCES)
    assert first == whole(PROMPTS, PLANS, IDS, reference=REFERENCES)
    assert first != whole(PROMPTS, RESPONSES, IDS, reference=REFERENCES)


def test_steps_of_the_improvement(make: Make) -> None:
    improvement = make()(PROMPTS, RESPONSES, IDS, reference=REFERENCES)
    thresholds = [[1.0, 0.25], [max(improvement) + 0.5, 1.0]]
    expected = [0.25 if value >= 1 else 0.0 for value in improvement]
    found = make(map={"kind": "steps", "steps": thresholds})(PROMPTS, RESPONSES, IDS, reference=REFERENCES)
    assert found == expected
    bounds = {"kind": "linear", "per_pct": 0.5, "low": -1.0, "high": 1.0}
    found = make(map=bounds)(PROMPTS, RESPONSES, IDS, reference=REFERENCES)
    assert found == pytest.approx([min(1, max(-1, 0.5 * value)) for value in improvement])


def test_improvement_and_overlap_are_logged_whatever_the_map(make: Make) -> None:
    logged: dict[str, list[float]] = {}
    responses = ["<plan> the kettle boils fast, it says", RESPONSES[1], ""]
    plain = make()(PROMPTS, responses, IDS, reference=REFERENCES)
    make(map={"kind": "steps", "steps": "vrcli"})(
        PROMPTS, responses, IDS, reference=REFERENCES, log_extra=lambda name, values: logged.update({name: values})
    )
    assert set(logged) == {"improvement_pct", "overlap"}
    assert logged["improvement_pct"] == plain
    # kettle boils fast, boils fast it of: + fast it stays, it stays cool
    assert logged["overlap"] == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("after", "before", "response", "plan"),
    [
        ("", "", "all of it", "all of it"),
        ("<p>", "", "think <p> a plan", " a plan"),
        ("<p>", "</p>", "think <p> a plan </p> more </p>", " a plan "),
        ("<p>", "</p>", "x <p>one</p> <p>two</p>", "one"),
        ("<p>", "</p>", "<p>cut off", "cut off"),
        ("<p>", "</p>", "a plan </p> without a beginning", ""),
        ("<p>", "</p>", "</p> <p>in its order</p>", "in its order"),
        ("<p>", "</p>", "<p></p>", ""),
        ("", "END", "a plan END more", "a plan "),
        ("", "END", "END a plan", ""),
        ("<p>", "</p>", "", ""),
    ],
)
def test_what_the_plan_of_a_response_is(after: str, before: str, response: str, plan: str) -> None:
    assert PlanConfig(after=after, before=before).extract(response) == plan


@pytest.mark.parametrize(
    ("reference", "plan", "share"),
    [
        ("a b c d", "x a b c y", 0.5),
        ("A, b! c d", "a b C. d", 1.0),  # case and punctuation are no difference
        ("a b c d", "d c b a", 0.0),
        ("a b c", "a b", 0.0),
        ("a b", "a b", 0.0),  # no triple
        ("a b c a b c", "a b c", 0.5),  # abc bca cab abc: each place counts
        ("", "", 0.0),
    ],
)
def test_overlap_by_hand(reference: str, plan: str, share: float) -> None:
    assert overlap(reference, plan) == pytest.approx(share)


def test_a_batch_without_references_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"reward perplexity: the batch has no column `reference`\n  remedy: give the"):
        make()(PROMPTS, RESPONSES, IDS, label=[0, 1, 1])


@pytest.mark.parametrize("swapped", ["prompt", "reference"])
def test_a_pair_without_a_baseline_is_named(make: Make, swapped: str) -> None:
    prompts = [PROMPTS[0], "Some other prompt", PROMPTS[2]] if swapped == "prompt" else PROMPTS
    references = REFERENCES if swapped == "prompt" else [REFERENCES[0], REFERENCES[2], REFERENCES[2]]
    with pytest.raises(InputError) as raised:
        make()(prompts, RESPONSES, IDS, reference=references)
    assert raised.value.where == "baselines, row 1"
    assert repr(references[1]) in raised.value.what
    assert repr(prompts[1]) in raised.value.what


@pytest.mark.parametrize("kind", ["steps", "interpolated"])
@pytest.mark.parametrize("cause", ["batch", "threads"])
def test_a_first_step_inside_the_scorers_noise_is_refused(make: Make, table_of: TableOf, kind: str, cause: str) -> None:
    """The weights sum to 1, so noise of n nats on each level is 100 (1 - exp(-n)) per cent: 0.1998 for 0.002."""
    noisy = table_of([("p", "r")], [[5.0] * 4], [[5.0] * 4], **{cause: 0.002})
    said = rf"target.map: its first step, 0.05 %, lies below the scorer's noise of {100 * (1 - math.exp(-0.002)):.3g} %"
    with pytest.raises(InputError, match=said):
        make(table=noisy, map={"kind": kind, "steps": "default"})
    with pytest.raises(InputError, match=r"first step, 0\.199 %"):
        make(table=noisy, map={"kind": kind, "steps": [[0.199, 1.0]]})
    make(table=noisy, map={"kind": kind, "steps": [[0.2, 1.0]]})
    make(table=noisy, map={"kind": "identity"})
    make(table=noisy, map={"kind": "linear", "per_pct": 1.0, "low": 0.0, "high": 1.0})


def test_what_another_precision_would_change_is_no_noise(make: Make, table_of: TableOf) -> None:
    make(
        table=table_of([("p", "r")], [[5.0] * 4], [[5.0] * 4], precision=1.0), map={"kind": "steps", "steps": "default"}
    )


def test_without_a_reference_it_does_not_apply(make: Make) -> None:
    logged: dict[str, list[float | None]] = {}
    references = [REFERENCES[0], None, REFERENCES[2]]
    found = make()(
        PROMPTS, RESPONSES, IDS, reference=references, log_extra=lambda name, values: logged.update({name: values})
    )
    rows = [0, 2]
    alone = make()(*([column[row] for row in rows] for column in (PROMPTS, RESPONSES, IDS)), reference=references[::2])
    assert found == [pytest.approx(alone[0], abs=1e-3), None, pytest.approx(alone[1], abs=1e-3)]
    assert logged["improvement_pct"] == found
    assert logged["overlap"][1] is None
    assert make()(PROMPTS, RESPONSES, IDS, reference=[None] * 3) == [None] * 3
