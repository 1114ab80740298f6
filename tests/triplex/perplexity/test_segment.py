import random
import time
from itertools import pairwise

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from triplex.perplexity.segment import SEGMENTER, segment, token_units


def pieces(text: str) -> list[list[str]]:
    """The words of each sentence, as the text between two starts."""
    starts, sentences = segment(text)
    found: dict[int, list[str]] = {}
    for (start, end), sentence in zip(pairwise([*starts, len(text)]), sentences, strict=True):
        found.setdefault(sentence, []).append(text[start:end])
    return list(found.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello there. How are you?", [["Hello", " there."], [" How", " are", " you?"]]),
        ("We met Mr. Smith. He left.", [["We", " met", " Mr.", " Smith."], [" He", " left."]]),
        ("It don't stop at 3.14 or 1,000", [["It", " don't", " stop", " at", " 3.14", " or", " 1,000"]]),
        ("well-made , but (dear) !", [["well-", "made ,", " but (", "dear) !"]]),
        ('Stop. "Go" now.', [["Stop."], [' "Go"', " now."]]),
        ("One.\n\n***\n\nTwo three", [["One.\n\n***"], ["\n\nTwo", " three"]]),
        ("  leading and trailing  ", [["  leading", " and", " trailing  "]]),
        ("... what?", [["... what?"]]),
        # scripts without spaces: Unicode's rules, ideograph by ideograph
        ("今天好。再见！", [["今", "天", "好。"], ["再", "见！"]]),
        ("カタカナ語", [["カタカナ", "語"]]),
        ("हिन्दी में।", [["हिन्दी", " में।"]]),
        ("שלום. מה שלומך?", [["שלום."], [" מה", " שלומך?"]]),
        ("e\u0301a be\u0301", [["e\u0301a", " be\u0301"]]),
        ("ok 👩\u200d👩\u200d👧 fine 😀", [["ok 👩\u200d👩\u200d👧", " fine 😀"]]),
        # no word at all: one word
        ("", [[""]]),
        ("   ", [["   "]]),
        ("?!...", [["?!..."]]),
        ("👩\u200d👩\u200d👧", [["👩\u200d👩\u200d👧"]]),
        ("word", [["word"]]),
    ],
)
def test_words_and_sentences(text: str, words: list[list[str]]) -> None:
    assert pieces(text) == words


@given(st.text())
def test_words_tile_any_text_and_sentences_tile_the_words(text: str) -> None:
    starts, sentences = segment(text)
    assert starts[0] == 0
    assert len(starts) == len(sentences)
    assert all(a < b for a, b in pairwise(starts))
    assert all(a <= b for a, b in pairwise(sentences))
    assert starts[-1] <= max(0, len(text) - 1)


def test_wide_spaces_do_not_break_the_splitter() -> None:
    """sentencex 1.0.32 panics on the first of these as it stands."""
    for space in "\u00a0\u3000\u2028\u2029\u2003":
        assert pieces(f"Plan B{space}. It works.") == [["Plan", " B" + space + "."], [" It", " works."]]


def test_the_segmenter_is_named_with_its_versions() -> None:
    assert SEGMENTER.startswith("sentencex 1.0.32 (en), regex 20")


def word_and_sentence(text: str, starts: list[int]) -> tuple[list[int], list[int]]:
    units = token_units([text], [starts])
    return units.word.tolist(), units.sentence[units.word].tolist()


def test_every_token_gets_one_word_and_one_sentence() -> None:
    #        0    5 6  9   13
    text = "Good day. Bye now"
    assert word_and_sentence(text, [0, 2, 4, 8, 9, 13]) == ([0, 0, 1, 1, 2, 3], [0, 0, 0, 0, 1, 1])
    # tokens whose offsets leave out the space before the word
    assert word_and_sentence(text, [0, 2, 5, 8, 10, 14]) == ([0, 0, 1, 1, 2, 3], [0, 0, 0, 0, 1, 1])


def test_a_character_in_several_tokens_is_one_word_and_a_token_over_several_words_is_in_its_first() -> None:
    assert word_and_sentence("今天", [0, 0, 0, 1, 1, 1]) == ([0, 0, 0, 1, 1, 1], [0] * 6)
    assert word_and_sentence("of the day", [0, 6]) == ([0, 1], [0, 0])  # "of the", " day": "the" holds no token


def test_a_token_at_the_very_end_belongs_to_the_last_word_of_its_own_text() -> None:
    units = token_units(["a b", "c"], [[0, 1, 3], [0, 1]])
    assert units.word.tolist() == [0, 1, 1, 2, 2]
    assert units.text[units.sentence[units.word]].tolist() == [0, 0, 0, 1, 1]


def test_texts_without_tokens_keep_their_place() -> None:
    units = token_units(["", "ab cd. Ef gh", ""], [[], [0, 2, 5, 6, 9], []])
    assert units.num_texts == 3
    assert units.word.tolist() == [0, 1, 1, 2, 3]
    assert units.sentence.tolist() == [0, 0, 1, 1]
    assert units.text.tolist() == [1, 1]


@given(st.lists(st.tuples(st.text(), st.lists(st.integers(0, 200))), max_size=4))
def test_units_nest_for_any_texts_and_tokens(rows: list[tuple[str, list[int]]]) -> None:
    texts = [text for text, _ in rows]
    starts = [sorted(min(each, len(text)) for each in positions) for text, positions in rows]
    units = token_units(texts, starts)
    assert len(units.word) == sum(map(len, starts))
    for index in (units.word, units.sentence, units.text):
        assert index.tolist() == sorted(index.tolist())
    assert sorted(set(units.word.tolist())) == list(range(len(units.sentence)))
    assert sorted(set(units.sentence.tolist())) == list(range(len(units.text)))
    token_text = units.text[units.sentence[units.word]].tolist()
    assert token_text == [number for number, each in enumerate(starts) for _ in each]


def test_two_thousand_sentences_take_far_less_than_a_second() -> None:
    draw = random.Random(0)
    texts = [" ".join("word" * draw.randint(1, 3) for _ in range(20)) + "." for _ in range(2000)]
    starts = [list(range(0, len(text), 4)) for text in texts]
    before = time.process_time()
    token_units(texts, starts)
    after = time.process_time()
    for text in texts:
        sentencex.segment("en", text)
    assert (after - before) - (time.process_time() - after) < 0.5
