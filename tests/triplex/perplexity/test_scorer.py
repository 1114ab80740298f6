import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from triplex.perplexity import scorer as scorer_module
from triplex.perplexity.levels import PLAIN_POOLS
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import InputError

# (context, text) as they come: a prompt and its continuation, a text alone, scripts, edges
ROWS = [
    ("The tea kettle", " boils fast. It was cheap!"),
    ("", "I like this lamp."),
    ("The chair", " broke"),
    ("A good book, well made,", " but the print is small; I want my money back, and the handle stays cool."),
    ("I like", " 今天好。"),
    ("", "שלום. 👩\u200d👩\u200d👧"),
    ("The print", "?!"),
    ("The lamp", ""),
    ("", ""),
    ("It is bright.\n", "The end"),
]
CONTEXTS, TEXTS = [context for context, _ in ROWS], [text for _, text in ROWS]
ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2")
TinyLM = Callable[..., Any]


def build(architecture: str, tokenizer: Any, tiny_lm: TinyLM) -> Any:
    """The shared tiny models; Qwen 2 (with biases, untied) and Gemma 2 (with a soft cap on its logits) beside them."""
    if architecture not in ("qwen2", "gemma2"):
        return tiny_lm(architecture=architecture)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=0, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def loud(model: Any) -> Any:
    """Weights ten times as large, so that a wrong position, mask or token shows in the first digits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 10
    return model


@pytest.fixture(scope="module")
def gpt2(tiny_lm: TinyLM) -> Any:
    return loud(tiny_lm())


@pytest.fixture(scope="module")
def scorer(gpt2: Any, tiny_tokenizer: Any) -> FrozenScorer:
    return FrozenScorer(gpt2, tiny_tokenizer, max_tokens_per_batch=128)


@torch.no_grad()
def slow_nats(model: Any, tokenizer: Any, context: str, text: str) -> list[float]:
    """One row alone: the model's own logits, a full log-softmax, a loop over positions."""
    given = tokenizer(context)["input_ids"]  # begins with the end-of-text token
    ids = tokenizer(context + text)["input_ids"]
    assert ids[: len(given)] == given
    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [-torch.log_softmax(logits[at - 1], dim=0)[ids[at]].item() for at in range(len(given), len(ids))]


def assert_same_nats(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


def test_by_hand_a_model_without_weights_finds_every_token_equally_likely(tiny_lm: TinyLM, tiny_tokenizer: Any) -> None:
    model = tiny_lm()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    uniform = math.log(len(tiny_tokenizer))
    scored = FrozenScorer(model, tiny_tokenizer).score(["The chair"], [" broke. It was cheap!"])[0]
    assert scored.nats.tolist() == pytest.approx([uniform] * len(scored.nats))
    assert scored.levels.tolist() == pytest.approx([uniform] * 4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_against_a_slow_loop_alone_and_in_a_batch(architecture: str, tiny_tokenizer: Any, tiny_lm: TinyLM) -> None:
    model = build(architecture, tiny_tokenizer, tiny_lm)
    expected = [torch.tensor(slow_nats(model, tiny_tokenizer, context, text)) for context, text in ROWS]
    tiny = FrozenScorer(model, tiny_tokenizer, max_tokens_per_batch=256)
    together = [one.nats for one in tiny.score(CONTEXTS, TEXTS)]
    alone = [tiny.score([context], [text])[0].nats for context, text in ROWS]
    assert_same_nats(together, expected)
    assert_same_nats(alone, expected)
    assert_same_nats(alone, together)
    assert all(nats.dtype == torch.float32 for nats in together)


def test_log_probabilities_of_a_bfloat16_model_are_taken_in_float32(tiny_tokenizer: Any, tiny_lm: TinyLM) -> None:
    model = tiny_lm().to(torch.bfloat16)
    nats = FrozenScorer(model, tiny_tokenizer).token_nats(CONTEXTS[:4], TEXTS[:4])
    expected = [torch.tensor(slow_nats(model, tiny_tokenizer, context, text)) for context, text in ROWS[:4]]
    assert_same_nats(nats, expected, tolerance=2e-3)  # a nat of 5 in bfloat16 is off by up to 1.6e-2
    assert all(each.dtype == torch.float32 for each in nats)


def test_batch_size_chunk_size_and_order_change_nothing(
    gpt2: Any, tiny_tokenizer: Any, scorer: FrozenScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scorer.token_nats(CONTEXTS, TEXTS)
    for max_tokens in (1, 40, 100_000):
        other = FrozenScorer(gpt2, tiny_tokenizer, max_tokens_per_batch=max_tokens)
        assert_same_nats(other.token_nats(CONTEXTS, TEXTS), expected)
    assert_same_nats(scorer.token_nats(CONTEXTS[::-1], TEXTS[::-1])[::-1], expected)
    for rows in (1, 3, 7):
        monkeypatch.setattr(scorer_module, "_LOGITS_AT_ONCE_CPU", rows * len(tiny_tokenizer))
        assert_same_nats(scorer.token_nats(CONTEXTS, TEXTS), expected)


def test_the_context_is_masked_by_two_tokenisations(scorer: FrozenScorer, tiny_tokenizer: Any) -> None:
    for (context, text), scored in zip(ROWS, scorer.score(CONTEXTS, TEXTS), strict=True):
        both = tiny_tokenizer(context + text, add_special_tokens=False)["input_ids"]
        given = tiny_tokenizer(context, add_special_tokens=False)["input_ids"]
        assert both[: len(given)] == given
        assert len(scored.nats) == len(scored.offsets) == len(both) - len(given)
        covered = sorted({at for first, end in scored.offsets for at in range(first, end)})
        assert covered == list(range(len(text)))
        for (first, end), token in zip(scored.offsets, both[len(given) :], strict=True):
            assert "�" in tiny_tokenizer.decode([token]) or text[first:end] == tiny_tokenizer.decode([token])


def test_a_text_that_begins_inside_a_token_is_an_error_or_scored_as_sampled(
    scorer: FrozenScorer, gpt2: Any, tiny_tokenizer: Any
) -> None:
    contexts, texts = ["The chair", "The tea bo"], [" broke", "il fast"]  # " boil" has a token "oil"
    with pytest.raises(InputError, match=r"row 1: .*melt into one token.*'The tea bo' \+ 'il fast'"):
        scorer.level_nats(contexts, texts)
    with pytest.raises(InputError, match="reference 'x'"):
        scorer.level_nats(contexts, texts, names=["reference 'w'", "reference 'x'"])

    first, second = scorer.score(contexts, texts, strict_boundary=False)
    torch.testing.assert_close(first.nats, scorer.token_nats(contexts[:1], texts[:1])[0], rtol=0, atol=1e-5)
    given = tiny_tokenizer("The tea bo")["input_ids"]
    ids = given + tiny_tokenizer("il fast", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logprobs = torch.log_softmax(gpt2(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    expected = torch.tensor([-logprobs[at - 1, ids[at]] for at in range(len(given), len(ids))])
    torch.testing.assert_close(second.nats, expected, rtol=0, atol=1e-5)
    assert second.offsets[0][0] == 0
    assert second.offsets[-1][1] == len("il fast")


def test_24_empty_texts_and_no_texts_have_values(scorer: FrozenScorer) -> None:
    empty = scorer.score(["The lamp", ""], ["", ""])
    assert [one.levels.tolist() for one in empty] == [[0.0] * 4] * 2
    assert all(len(one.nats) == len(one.offsets) == 0 for one in empty)
    assert scorer.score([], []) == []
    assert scorer.level_nats([], []).shape == (0, 4)


ONE_WORD = {
    "bad-20-emoji-zwj": "👩\u200d👩\u200d👧",
    "bad-20-right-to-left": "שלום",
    "bad-20-combining": "e\u0301",
    "bad-21-punctuation": "?!...",
    "bad-21-space": " ",
    "bad-21-blank-lines": "\n\n",
    "bad-21-no-break-space": "a\u00a0.",
    "bad-22-one-token": "x",
    "bad-22-one-word": " kettle",
    "bad-17-nul": "\x00",
    "bad-17-replacement": "\ufffd",
    "bad-17-line-separator": "\u2028",
}
WORDS = {"bad-20-cjk": "今天天气好", "bad-20-thai": "ภาษา", "bad-20-mixed": "שלום. 👩\u200d👧 今天!"}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in (ONE_WORD | WORDS).items()])
def test_levels_have_a_value_for_any_script_and_one_word_has_one_value(text: str, scorer: FrozenScorer) -> None:
    (scored,) = scorer.score(["The print"], [text])
    assert scored.levels.isfinite().all()
    assert (scored.levels > 0).all()
    assert len(scored.nats) >= 1
    if text in ONE_WORD.values():
        assert scored.levels.tolist() == pytest.approx([scored.nats.mean().item()] * 4)
    else:
        assert len(set(scored.levels.tolist())) > 1


def test_levels_of_the_scorer_are_those_of_its_nats_by_hand(gpt2: Any, tiny_tokenizer: Any) -> None:
    """Two sentences of two words: the plain levels written out over the words' characters."""
    text = " broke fast. It was"
    scored = FrozenScorer(gpt2, tiny_tokenizer, pools=PLAIN_POOLS).score(["The chair"], [text])[0]
    words: dict[int, list[float]] = {}
    for (first, _), nats in zip(scored.offsets, scored.nats.tolist(), strict=True):
        words.setdefault(sum(first >= start for start in (6, 12, 15)), []).append(nats)
    means = [sum(words[n]) / len(words[n]) for n in range(4)]
    pairs = [words[0] + words[1], words[2] + words[3]]
    pair_means = [sum(pair) / len(pair) for pair in pairs]
    expected = [scored.nats.mean().item(), sum(means) / 4, sum(pair_means) / 2, sum(pair_means) / 2]
    assert scored.levels.tolist() == pytest.approx(expected, rel=1e-5)


def train_bpe(pre_tokenizer: Any, decoder: Any, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(["It was cheap and the handle stays cool."] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


@pytest.mark.parametrize(
    ("pre_tokenizer", "decoder"),
    [
        (pre_tokenizers.Metaspace(), decoders.Metaspace()),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()),
        (pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True), decoders.ByteLevel()),
    ],
    ids=["metaspace", "byte-level with a prefix space", "byte-level, trimmed"],
)
def test_other_vocabularies_find_the_same_words(pre_tokenizer: Any, decoder: Any, tiny_lm: TinyLM) -> None:
    tokenizer = train_bpe(pre_tokenizer, decoder, eos_token="<s>")
    scored = FrozenScorer(loud(tiny_lm()), tokenizer, pools=PLAIN_POOLS).score(["It was"], [" cheap and cool."])[0]
    words: dict[int, list[float]] = {}
    for (first, end), nats in zip(scored.offsets, scored.nats.tolist(), strict=True):
        words.setdefault(sum(max(first, end - 1) >= start for start in (6, 10)), []).append(nats)
    assert len(words) == 3
    assert scored.levels[1].item() == pytest.approx(sum(sum(w) / len(w) for w in words.values()) / 3, rel=1e-5)


def test_the_first_token_of_a_text_without_context_follows_the_end_token_or_is_an_error(tiny_lm: TinyLM) -> None:
    byte_level, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model = tiny_lm()
    tokenizer = train_bpe(byte_level, decoder, eos_token="<s>")
    ids = [tokenizer.eos_token_id, *tokenizer("It was")["input_ids"]]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    expected = [-logprobs[at, token].item() for at, token in enumerate(ids[1:])]
    assert FrozenScorer(model, tokenizer).token_nats([""], ["It was"])[0].tolist() == pytest.approx(expected, abs=1e-5)

    without = FrozenScorer(model, train_bpe(byte_level, decoder))
    assert without.token_nats(["It"], [" was"])[0].isfinite().all()
    with pytest.raises(InputError, match="row 1: nothing stands before"):
        without.token_nats(["It", ""], [" was", "It was"])


def test_23_a_text_longer_than_the_model_is_refused_by_row_count_and_limit(
    scorer: FrozenScorer, tiny_tokenizer: Any
) -> None:
    longest = " I" * 64  # one token each; with the opening token 65, of which 64 are read and 64 predicted
    assert len(tiny_tokenizer(longest)["input_ids"]) == 65
    assert len(scorer.token_nats([""], [longest])[0]) == 64
    with pytest.raises(InputError, match="row 1: 66 tokens of context and text, the model takes 64"):
        scorer.score(["", ""], ["I", longest + " I"])


def test_what_fits_is_what_is_not_refused(scorer: FrozenScorer, tiny_lm: TinyLM) -> None:
    assert scorer.fits(["", "", "I", "I"], [" I" * 64, " I" * 65, " I" * 63, " I" * 64]) == [True, False, True, False]
    assert scorer.fits([], []) == []
    byte_level, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ends = FrozenScorer(tiny_lm(), train_bpe(byte_level, decoder, eos_token="<s>"))  # it opens only what has no context
    for context, text in (("", "I" * 64), ("", "I" * 65), ("I", "I" * 64), ("I", "I" * 65)):
        (fits,) = ends.fits([context], [text])
        if fits:
            assert len(ends.token_nats([context], [text])[0]) == 64
        else:
            with pytest.raises(InputError, match="66 tokens of context and text"):
                ends.token_nats([context], [text])


def test_numbers_that_are_not_finite_are_refused_by_row(tiny_lm: TinyLM, tiny_tokenizer: Any) -> None:
    model = tiny_lm()
    with torch.no_grad():
        model.transformer.wpe.weight[20] = torch.nan  # only rows of more than 20 tokens reach it
    broken = FrozenScorer(model, tiny_tokenizer)
    assert broken.token_nats([""], [" I" * 20])[0].isfinite().all()
    with pytest.raises(InputError, match="row 2: the model gives no finite log-probability"):
        broken.score(["", "", ""], ["I", " I" * 20, " I" * 21])


class LargestTensor(TorchDispatchMode):
    """The largest tensor that any operation returned."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, Tensor):
                self.num_elements = max(self.num_elements, each.numel())
        return result


def test_the_logits_never_exist_whole(tiny_tokenizer: Any) -> None:
    """32 texts of 61 tokens over 100,000 entries would be 195 million float32 logits, 781 MB."""
    config = AutoConfig.for_model(
        "gpt2", vocab_size=100_000, n_embd=8, n_layer=1, n_head=1, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    wide = FrozenScorer(AutoModelForCausalLM.from_config(config), tiny_tokenizer)
    with LargestTensor() as seen:
        wide.level_nats([""] * 32, [" I" * 60] * 32)
    assert seen.num_elements <= 2**21


def test_the_model_is_frozen_and_dropout_off(tiny_tokenizer: Any) -> None:
    config = AutoConfig.for_model(
        "gpt2", vocab_size=320, n_embd=16, n_layer=1, n_head=1, n_positions=64, resid_pdrop=0.5, embd_pdrop=0.5
    )
    noisy = FrozenScorer(AutoModelForCausalLM.from_config(config).train(), tiny_tokenizer)
    first, second = (noisy.score(CONTEXTS[:4], TEXTS[:4]) for _ in range(2))
    assert all(torch.equal(one.nats, other.nats) for one, other in zip(first, second, strict=True))
    assert not any(parameter.requires_grad for parameter in noisy.model.parameters())
    assert not first[0].nats.requires_grad


def test_faults_planted_in_a_text_move_the_levels_of_a_trained_model_differently(
    tiny_lm: TinyLM, tiny_tokenizer: Any
) -> None:
    known = "The tea kettle boils fast. I like this lamp. The chair broke after a week. A good book, well made."
    model = tiny_lm().train()
    ids = torch.tensor([tiny_tokenizer(known)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    texts = [
        known,
        known.replace("boils", "print").replace("this", "money").replace("after", "small").replace("good", "was"),
        known.replace("I like this lamp", "lamp this like I"),
    ]
    sound, words, sentence = FrozenScorer(model, tiny_tokenizer).level_nats([""] * 3, texts).tolist()
    assert all(level > low for faulty in (words, sentence) for level, low in zip(faulty, sound, strict=True))
    # the share of a fault that shows in the worst sentence: large when it is one sentence, small when it is spread out
    by_words, by_sentence = ((faulty[3] - sound[3]) / (faulty[0] - sound[0]) for faulty in (words, sentence))
    assert by_sentence > 1.5 * by_words


def test_a_text_that_spells_a_special_token_is_text(scorer: FrozenScorer, tiny_tokenizer: Any) -> None:
    """Else whoever writes it would end the text before it, and pay one token for thirteen characters."""
    end = tiny_tokenizer.eos_token
    special = {tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id}
    for context, text in (("The lamp", f" broke{end} again"), (f"The {end}lamp", " broke"), ("", "<|pad|>")):
        (row,) = scorer._encode([context], [text], strict_boundary=True, names=None)
        assert not special & set(row.ids[1:])
        assert tiny_tokenizer.decode(row.ids[1:]) == context + text
        (scored,) = scorer.score([context], [text])
        assert [text[first:last] for first, last in scored.offsets] == [
            tiny_tokenizer.decode([token]) for token in row.ids[row.num_given :]
        ]
    assert tiny_tokenizer(end, add_special_tokens=False)["input_ids"] == [tiny_tokenizer.eos_token_id]


def byte_fallback() -> PreTrainedTokenizerFast:
    """A unigram vocabulary that spells what it does not know in bytes, as those of Llama and Mistral do."""
    pieces = ["▁", "a", "b", "i", "t", "▁a", "▁it", "▁bat", "."]
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), *((p, -2.0) for p in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def test_tokens_of_single_bytes_belong_to_the_word_of_their_character(tiny_lm: TinyLM) -> None:
    tokenizer = byte_fallback()
    scorer = FrozenScorer(loud(tiny_lm()), tokenizer, pools=PLAIN_POOLS)
    (scored,) = scorer.score(["a bat."], [" it éé 👩. a"])
    nats = scored.nats.tolist()
    # it | space, two letters of two bytes, space, a sign of four bytes, full stop: signs join the word before | a
    sizes = [1, 1 + 4 + 1 + 4 + 1, 1]
    assert sum(sizes) == len(nats)
    words = [nats[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(len(sizes))]
    assert scored.levels[1].item() == pytest.approx(sum(sum(word) / len(word) for word in words) / len(words), rel=1e-5)
    spelled = scorer.score(["a bat."], [" <s> a"])[0]
    assert len(spelled.nats) == 1 + 3 + 1  # "<", "s" and ">" in bytes, not one special token
    together = scorer.level_nats(["a bat."] * 3, [" it éé 👩. a", " <s> a", " 今天"])
    assert together.isfinite().all()
    torch.testing.assert_close(together[0], scored.levels, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_bfloat16_gives_the_same_numbers_alone_and_in_a_batch_to_a_tenth_of_a_nat(
    architecture: str, tiny_tokenizer: Any, tiny_lm: TinyLM
) -> None:
    """Logits of 8 to 16 are 0.0625 apart in bfloat16; the nats here go up to that and beyond."""
    scorer = FrozenScorer(loud(tiny_lm(architecture=architecture)).to(torch.bfloat16), tiny_tokenizer)
    together = scorer.token_nats(CONTEXTS, TEXTS)
    alone = [scorer.token_nats([context], [text])[0] for context, text in ROWS]
    assert_same_nats(alone, together, tolerance=0.1)
    assert torch.cat(together).std() > 1
