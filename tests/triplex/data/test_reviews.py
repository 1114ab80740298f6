"""The embedded corpus: counts, prompts, grammar, which adjective goes with what, how hard its labels are."""

import math
import re
from collections import Counter, defaultdict
from statistics import median

import pytest

from triplex.data import review_sentences as sentences
from triplex.data.review_openings import OPENINGS
from triplex.data.review_words import parse_aspects
from triplex.data.reviews import DOMAINS, KINDS, Review, generate_reviews

PREFIX_WORDS = 4


def words(text: str) -> list[str]:
    return re.findall(r"[a-zé0-9'-]+", text.lower())


@pytest.fixture(scope="module")
def reviews() -> list[Review]:
    return list(generate_reviews(24_000, seed=7))


@pytest.fixture(scope="module")
def prefixes(reviews: list[Review]) -> dict[tuple[str, ...], Counter[int]]:
    """Labels by prefix, a prefix being the first four words."""
    labels: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    for review in reviews:
        labels[tuple(words(" ".join(review.text.split()[:PREFIX_WORDS])))][review.label] += 1
    return labels


def test_texts_are_distinct_and_labels_and_domains_balanced(reviews: list[Review]) -> None:
    assert len({review.text for review in reviews}) == 24_000
    pairs = Counter((review.domain, review.label) for review in reviews)
    assert pairs == {(domain, label): 4000 for domain in ("film", "restaurant", "product") for label in (0, 1)}


def test_lengths_and_vocabulary(reviews: list[Review]) -> None:
    lengths = [len(review.text.split()) for review in reviews]
    assert 25 <= median(lengths) <= 35
    assert min(lengths) >= 10
    assert max(lengths) <= 60
    assert {len(re.findall(r"[.!?]", review.text)) for review in reviews} == {1, 2, 3, 4}
    assert len({word for review in reviews for word in words(review.text)}) > 1800


def test_the_number_of_reviews_changes_only_the_length(reviews: list[Review]) -> None:
    assert list(generate_reviews(301, seed=7)) == reviews[:301]
    assert list(generate_reviews(0, seed=7)) == []


def test_another_seed_gives_other_texts(reviews: list[Review]) -> None:
    others = {review.text for review in generate_reviews(1000, seed=8)}
    assert len(others & {review.text for review in reviews}) < 5


def test_prefixes_are_a_pool_shared_by_both_labels(prefixes: dict[tuple[str, ...], Counter[int]]) -> None:
    both = [counts.total() for counts in prefixes.values() if len(counts) == 2]
    assert 1500 <= len(prefixes) <= 5000
    assert len(both) >= len(prefixes) / 2
    assert sum(both) >= 0.85 * 24_000


def test_prefixes_are_plain_words(prefixes: dict[tuple[str, ...], Counter[int]], reviews: list[Review]) -> None:
    assert {len(prefix) for prefix in prefixes} == {PREFIX_WORDS}
    assert not [r.text for r in reviews if re.search(r"[.,;:!]", " ".join(r.text.split()[:PREFIX_WORDS]))]


def test_a_prefix_occurs_nowhere_inside_a_review(
    prefixes: dict[tuple[str, ...], Counter[int]], reviews: list[Review]
) -> None:
    found = Counter()
    for review in reviews:
        tokens = words(review.text)
        found.update(gram for gram in zip(*(tokens[shift:] for shift in range(1, 5)), strict=False) if gram in prefixes)
    assert not found


def test_the_first_five_words_hold_no_sentiment(reviews: list[Review]) -> None:
    banks = [
        bank for kinds in KINDS.values() for kind in kinds for aspect in kind.aspects for bank in aspect.adjectives
    ]
    banks += [bank for name in ("extreme", "general", "felt") for bank in sentences.SHARED_PAIRS[name]]
    banks += [bank for pairs in sentences.DOMAIN_PAIRS.values() for bank in pairs["worthy"]]
    sentiment = {word for bank in banks for word in bank}
    assert not {word for review in reviews for word in words(review.text)[:5]} & sentiment


def test_spelling_and_punctuation(reviews: list[Review]) -> None:
    for text in (review.text for review in reviews):
        assert re.fullmatch(r"[A-Za-zé0-9 ,.;:!'-]+[.!]", text), text
        assert not re.search(r"  | [,.;:!]|[,.;:!][^ ]", text), text
        assert not re.search(r"(?:^|[.!] )[a-z]", text), text
        assert not re.search(r"\bi\b", text), text
        assert not re.search(r"\b(\w+) \1\b", text.lower()), text


def test_a_and_an(reviews: list[Review]) -> None:
    following = defaultdict(set)
    for review in reviews:
        for article, word in re.findall(r"\b(an?) ([\w-]+)", review.text.lower()):
            following[article].add(word)
    sounds_like_consonant = {"used", "useful", "useless", "one-sided", "one-note", "one-dimensional"}
    assert {word for word in following["a"] if word[0] in "aeiou8"} <= sounds_like_consonant
    assert {word for word in following["an"] if word[0] not in "aeiou"} <= {"hour"}
    assert not following["an"] & sounds_like_consonant


@pytest.mark.parametrize("domain", DOMAINS)
def test_adjectives_and_verbs_agree_with_their_nouns(domain: str, reviews: list[Review]) -> None:
    adjectives, numbers = defaultdict(set), defaultdict(set)
    for kind in KINDS[domain]:
        dishes = [*kind.heads, *(f"{modifier} {head}" for modifier in kind.modifiers for head in kind.heads)]
        for aspect in kind.aspects:
            for nouns, verbs in ((aspect.singular, {"is", "was"}), (aspect.plural, {"are", "were"})):
                for noun in dishes if "{item}" in nouns else nouns:
                    adjectives[noun] |= {word for bank in aspect.adjectives for word in bank}
                    numbers[noun] |= verbs
    of_some_aspect = set().union(*adjectives.values())
    clause = re.compile(
        rf"(?<![a-z] and )\bthe ({'|'.join(map(re.escape, adjectives))}) (is|was|are|were) ([^.,;:!]+)", re.I
    )
    num_checked = 0
    for text in (review.text for review in reviews if review.domain == domain):
        for noun, verb, predicate in clause.findall(text):
            assert verb in numbers[noun], text
            first = next((word for word in words(predicate) if word in of_some_aspect), None)
            assert first is None or first in adjectives[noun], text
            num_checked += first is not None
    assert num_checked > 2000


def test_every_kind_has_an_aspect_for_every_clause() -> None:
    """A review has at most two clauses, each about one or two aspects; none is judged twice."""
    for layout in sentences.PURE_LAYOUTS + sentences.MIXED_LAYOUTS:
        assert len(re.findall(r"\{(?:yes|no|remark)\}", layout)) <= 2
    assert all(len(set(kind.aspects)) >= 4 for kinds in KINDS.values() for kind in kinds)


def test_every_bank_has_a_word_for_every_slot() -> None:
    for aspect in (aspect for kinds in KINDS.values() for kind in kinds for aspect in kind.aspects):
        assert aspect.singular + aspect.plural
        assert aspect.where
        for adjectives, base, past in zip(aspect.adjectives, aspect.base, aspect.past, strict=True):
            assert len(adjectives) >= 5
            assert len(base) == len(past) >= 3
            assert any(len(word) > 6 and not word.endswith("y") for word in adjectives)
    assert set(OPENINGS) == set(KINDS)


def test_parse_aspects_splits_tenses_and_numbers() -> None:
    text = """
lid = lid, cap | hinges
  good: firm, neat
  bad: loose
  works: hold/held, come/came off
  fails: leak/leaked on {me}
  where: at home
"""
    (aspect,) = parse_aspects(text).values()
    assert (aspect.singular, aspect.plural, aspect.where) == (("lid", "cap"), ("hinges",), ("at home",))
    assert aspect.adjectives == (("loose",), ("firm", "neat"))
    assert aspect.base == (("leak on {me}",), ("hold", "come off"))
    assert aspect.past == (("leaked on {me}",), ("held", "came off"))


def test_single_words_tell_much_but_not_all_of_the_label(reviews: list[Review]) -> None:
    """Naive Bayes over word presence: learnable, yet negation, contrast and word order matter."""
    counts = {label: Counter() for label in (0, 1)}
    for review in reviews[:21_600]:
        counts[review.label].update(set(words(review.text)))
    log_odds = {word: math.log((counts[1][word] + 1) / (counts[0][word] + 1)) for word in counts[0] | counts[1]}
    held_out = reviews[21_600:]
    right = sum((sum(log_odds.get(w, 0) for w in set(words(r.text))) > 0) == r.label for r in held_out)
    assert 0.8 < right / len(held_out) < 0.93
