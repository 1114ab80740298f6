"""The embedded corpus: film, restaurant and product reviews from a seeded probabilistic grammar.

A rule is a text with slots. A slot stands for a fixed text, for a bank of phrases of which one is drawn, or for a
function that builds a clause; phrases hold slots in turn. Each review opens neutrally and judges afterwards; in a mixed
review the overall verdict, which comes last, carries the label.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from triplex.data import review_sentences as sentences
from triplex.data.review_openings import KIN, OPENING_WORDS, OPENINGS, VOICES
from triplex.data.review_products import PRODUCT_KINDS
from triplex.data.review_words import FILM_KINDS, RESTAURANT_KINDS, Aspect
from triplex.runs.seeds import derive_seed

MAX_WORDS = 60
MIXED_FRAC = 0.22
KIN_FRAC = 0.2  # reviews told about somebody: "My aunt ordered ..."
PRESENT_FRAC = {"film": 0.3, "restaurant": 0.0, "product": 0.5}  # "the hinge is sturdy", not "was"

KINDS = {"film": FILM_KINDS, "restaurant": RESTAURANT_KINDS, "product": PRODUCT_KINDS}
DOMAINS = tuple(KINDS)

Slots = Mapping[str, str | tuple[str, ...] | Callable[[], str]]
T = TypeVar("T")

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!] ))[a-z]")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?!one-|use|uni[^mn])[aeiouAEIOU])")


class Review(NamedTuple):
    """A review of one `domain` (film, restaurant or product); `label` is 1 positive, 0 negative."""

    text: str
    label: int
    domain: str


def generate_reviews(num_reviews: int, seed: int) -> Iterator[Review]:
    """`num_reviews` distinct reviews; index parity gives the label, index modulo 3 the domain: all pairs are balanced.

    Review i is the same whatever `num_reviews` is. A draw that repeats an earlier text, or has more than MAX_WORDS
    words, is drawn again with the next attempt number in its seed.
    """
    seen: set[str] = set()
    for index in range(num_reviews):
        label, domain = index % 2, DOMAINS[index % 3]
        attempt, text = 0, ""
        while not text or text in seen or len(text.split()) > MAX_WORDS:
            text = _Draft(random.Random(derive_seed(seed, "reviews", index, attempt)), label, domain).text()
            attempt += 1
        seen.add(text)
        yield Review(text, label, domain)


class _Draft:
    """One review in the making: its random stream, what its slots stand for, the phrases it has used."""

    def __init__(self, rng: random.Random, label: int, domain: str) -> None:
        self.random = rng.random  # Python keeps the stream of this method alone the same between its versions
        self.used: set[object] = set()
        kind = self.pick(KINDS[domain])
        kin, kin_voice = self.pick(KIN)
        by_kin = self.random() < KIN_FRAC
        mixed = self.random() < MIXED_FRAC
        head = self.pick(kind.heads)
        be_one, be_many = ("is", "are") if self.random() < PRESENT_FRAC[domain] else ("was", "were")
        self.aspects = kind.aspects
        self.pairs = sentences.SHARED_PAIRS | sentences.DOMAIN_PAIRS[domain]
        self.layout = self.pick(sentences.MIXED_LAYOUTS if mixed else sentences.PURE_LAYOUTS)
        self.slots: Slots = {
            **sentences.SHARED_WORDS,
            **sentences.DOMAIN_WORDS[domain],
            **OPENING_WORDS[domain],
            **VOICES[kin_voice if by_kin else self.pick(("I", "I", "we"))],
            **_polar(self.pairs, label),
            "opening": OPENINGS[domain]["kin" if by_kin else "self"],
            "kin": kin,
            "mod": self.pick(kind.modifiers),
            "head": head,
            "heads": _plural(head),
            "item": ("{mod} {head}",),
            "venue": self.pick(sentences.VENUES),
            "detail": kind.details,
            "be_one": be_one,
            "be_many": be_many,
            "yes": lambda: self.clause(sentences.CLAUSES, label),
            "no": lambda: self.clause(sentences.CLAUSES, 1 - label),
            "remark": lambda: self.clause(sentences.REMARKS, label),
            "verdict": sentences.VERDICTS[label],
        }

    def text(self) -> str:
        """The review: its layout filled in, articles agreed, sentences capitalised."""
        text = _A_BEFORE_VOWEL.sub(r"\1n ", self.fill(self.layout, self.slots))
        return _SENTENCE_START.sub(lambda match: match[0].upper(), text)

    def clause(self, rules: tuple[str, ...], polarity: int) -> str:
        """One clause of the given polarity about an aspect of which nothing has been said yet."""
        aspect = self.pick(self.aspects)
        noun, plural = self.noun(aspect)
        slots = {
            **self.slots,
            **_polar(self.pairs, polarity),
            **_polar({"plain": aspect.adjectives, "base": aspect.base, "past": aspect.past}, polarity),
            "long": tuple(word for word in aspect.adjectives[polarity] if len(word) > 6 and word[-1] != "y"),
            "where": aspect.where,
            "np": f"the {noun}",
            "other": lambda: f"the {self.fill(self.noun(self.pick(self.aspects))[0], self.slots)}",
            "be": self.slots["be_many" if plural else "be_one"],
            "they": "they" if plural else "it",
        }
        return self.fill(self.pick(rules), slots)

    def noun(self, aspect: Aspect) -> tuple[str, bool]:
        """A noun for an aspect, and whether it is plural."""
        noun = self.pick(aspect.singular + aspect.plural)
        return noun, noun in aspect.plural

    def pick(self, bank: tuple[T, ...]) -> T:
        """One entry of a bank, unused in this review as long as there is one."""
        choice = bank[int(self.random() * len(bank))]
        if choice in self.used:
            unused = [entry for entry in bank if entry not in self.used] or bank
            choice = unused[int(self.random() * len(unused))]
        self.used.add(choice)
        return choice

    def fill(self, rule: str, slots: Slots) -> str:
        """The text of a rule, each slot replaced by what it stands for."""
        if "{" not in rule:
            return rule

        def replace(match: re.Match[str]) -> str:
            value = slots[match[1]]
            if callable(value):
                return value()
            return self.fill(value if isinstance(value, str) else self.pick(value), slots)

        return _SLOT.sub(replace, rule)


def _polar(pairs: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], polarity: int) -> dict[str, tuple[str, ...]]:
    """Each pair's bank of the polarity under its name, and the other bank under `anti_` and its name."""
    banks = {name: pair[polarity] for name, pair in pairs.items()}
    return banks | {f"anti_{name}": pair[1 - polarity] for name, pair in pairs.items()}


def _plural(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("ch", "x")) else "s")
