from typing import Any

import pytest
import torch

from triplex.perplexity.levels import LEVELS
from triplex.perplexity.noise import MAX_TEXTS, measure_noise
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import InputError

CONTEXTS = ["The tea kettle", "", "The chair", "A good book, well made,", "The lamp"]
TEXTS = [" boils fast. It was cheap!", "I like this lamp.", " broke", " but the print is small; I want it.", ""]


@pytest.fixture
def scorer(tiny_lm: Any, tiny_tokenizer: Any) -> FrozenScorer:
    return FrozenScorer(tiny_lm(), tiny_tokenizer)


def test_a_cause_is_measured_as_the_largest_difference(scorer: FrozenScorer, tiny_lm: Any, tiny_tokenizer: Any) -> None:
    noise = measure_noise(scorer, CONTEXTS, TEXTS)
    assert list(noise) == ["batch", "threads", "precision"]
    assert all(list(levels) == list(LEVELS) for levels in noise.values())
    together = scorer.level_nats(CONTEXTS, TEXTS)
    switched = FrozenScorer(tiny_lm().to(torch.bfloat16), tiny_tokenizer).level_nats(CONTEXTS, TEXTS)
    assert list(noise["precision"].values()) == (switched - together).abs().amax(dim=0).tolist()
    assert noise["precision"]["word"] > 1e-4
    for cause in ("batch", "threads"):
        assert all(0 <= value < 1e-5 for value in noise[cause].values())


def test_what_depends_on_the_company_shows_as_noise_of_the_batch(scorer: FrozenScorer) -> None:
    """A model whose states move by the batch's size, as padding, dropout or a quantisation by batch would."""
    trunk = scorer._trunk
    scorer._trunk = lambda ids: trunk(ids) * (1 + len(ids))
    noise = measure_noise(scorer, CONTEXTS, TEXTS)
    assert noise["batch"]["sentence"] > 1e-2
    assert noise["threads"]["sentence"] < 1e-5


def test_the_same_every_time_and_the_model_stays_as_it_was(scorer: FrozenScorer) -> None:
    before = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    assert measure_noise(scorer, CONTEXTS, TEXTS) == measure_noise(scorer, CONTEXTS, TEXTS)
    after = scorer.model.state_dict()
    assert all(after[name].dtype == torch.float32 and torch.equal(before[name], after[name]) for name in before)


def test_the_thread_count_is_another_one_while_measured_and_restored_afterwards(scorer: FrozenScorer) -> None:
    trunk, counts = scorer._trunk, []

    def watched(ids: torch.Tensor) -> torch.Tensor:
        counts.append(torch.get_num_threads())
        return trunk(ids)

    scorer._trunk = watched
    try:
        for threads, other in ((1, 2), (2, 1)):
            counts.clear()
            torch.set_num_threads(threads)
            measure_noise(scorer, CONTEXTS, TEXTS)
            assert torch.get_num_threads() == threads
            assert set(counts) == {threads, other}

        def failing(ids: torch.Tensor) -> torch.Tensor:
            if torch.get_num_threads() == 1:
                raise InterruptedError
            return trunk(ids)

        scorer._trunk = failing
        with pytest.raises(InterruptedError):
            measure_noise(scorer, CONTEXTS, TEXTS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_no_more_than_the_first_texts_are_scored(scorer: FrozenScorer) -> None:
    too_long = " I" * 100
    texts = [" I"] * MAX_TEXTS + [too_long]
    assert measure_noise(scorer, [""] * len(texts), texts)["batch"]["token"] < 1e-5
    with pytest.raises(InputError, match="the model takes 64"):
        measure_noise(scorer, [""] * MAX_TEXTS, texts[1:])


def test_nothing_to_score_has_no_noise(scorer: FrozenScorer) -> None:
    for contexts, texts in (([], []), (["The lamp"], [""])):
        noise = measure_noise(scorer, contexts, texts)
        assert noise == {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
