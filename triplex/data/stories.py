"""The embedded stories: a synopsis, a plan and a continuation, in a world whose tables let a planner know what comes.

The synopsis names hero, trade, village, season and trouble. The tables of story_words.py decide the rest: the village's
wise neighbour, the trade's tool, the season's obstacle and the way past it, the trouble's remedy. A good plan names
them all; the reference continuation tells them, among small choices that nobody can know in advance. Planners know the
tables. The language model knows them little: most of the facts in the texts that it learns from are the teller's own
choice, which the plan beside them names, so that it learns to believe a plan rather than to guess.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from triplex.data.story_sentences import BEATS, CHOICES, LAYOUTS, PLAN_STEPS, SYNOPSES, VAGUE_PLANS
from triplex.data.story_words import HEROES, SEASONS, TRADES, TROUBLES, VILLAGES, Table
from triplex.runs.seeds import derive_seed

LEAD = "\nStory:"
MAX_WORDS = 60  # of a continuation

#: of the plans, the shares that are complete, partial, vague; the rest, 0.3, are complete in form with a slip or two
COMPLETE_FRAC, PARTIAL_FRAC, VAGUE_FRAC = 0.35, 0.175, 0.175
#: of the texts, the shares with `plan` (an incomplete or false one) and `reference`, with no plan, with a partial true
#: plan; the rest, 0.5, have a complete true plan
OWN_FRAC, EMPTY_FRAC, TRUE_PARTIAL_FRAC = 0.15, 0.15, 0.2
SECOND_SLIP_FRAC = 0.5
FREE_FRAC = 0.75  # of the facts in a text with a true plan or none, those that break the tables

Slots = Mapping[str, str | tuple[str, ...]]
Rule = tuple[Table, tuple[str, ...]]
T = TypeVar("T")

#: for each step of a plan, the table that decides it and the columns decided
DECIDED: tuple[Rule, ...] = (
    (VILLAGES, ("neighbour",)),
    (TRADES, ("tool",)),
    (SEASONS, ("obstacle", "way")),
    (TROUBLES, ("remedy",)),
)

_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r'(?:^|(?<=[.!] ))"?[a-z]')
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")


class Story(NamedTuple):
    """A story in parts, and `text`, the whole as a language model reads it.

    `prompt` is the synopsis and ends in "Plan:"; `plan` and `reference`, the continuation by the tables, begin with a
    space. `text` is the prompt, a plan or nothing, LEAD and a continuation, for the most part a freely told one.
    """

    prompt: str
    plan: str
    reference: str
    text: str


def generate_stories(num_stories: int, seed: int) -> Iterator[Story]:
    """`num_stories` stories of distinct prompts; story i is the same whatever `num_stories` is.

    A draw that repeats an earlier prompt, or continues it in more than MAX_WORDS words, is drawn again with the next
    attempt number in its seed.
    """
    seen: set[str] = set()
    for index in range(num_stories):
        attempt, story = 0, None
        while story is None or story.prompt in seen or len(story.reference.split()) > MAX_WORDS:
            story = _Draft(derive_seed(seed, "stories", index, attempt)).story()
            attempt += 1
        seen.add(story.prompt)
        yield story


class _Draft:
    """One story in the making: its random stream and what its slots stand for, the facts among them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random  # Python keeps the stream of this method alone the same for good
        self.slots: dict[str, str | tuple[str, ...]] = {**BEATS, **CHOICES}
        for table in (HEROES, TRADES, VILLAGES, SEASONS, TROUBLES):
            self.slots |= self.pick(table)

    def story(self) -> Story:
        """The story, with a plan of random quality, and its text."""
        prompt = f"Synopsis: {self.prose(SYNOPSES, self.slots)}\nPlan:"
        reference = f" {self.prose(LAYOUTS, self.slots)}"
        plan, complete = self.plan()
        if not complete and self.random() < OWN_FRAC / (1 - COMPLETE_FRAC):
            return Story(prompt, plan, reference, prompt + plan + LEAD + reference)
        told = self.tell_freely()
        return Story(prompt, plan, reference, f"{prompt}{self.true_plan(told)}{LEAD} {self.prose(LAYOUTS, told)}")

    def plan(self) -> tuple[str, bool]:
        """What some planner writes, and whether it is complete and true."""
        steps, quality = self.steps(self.slots), self.random()
        if quality < COMPLETE_FRAC:
            return _plan(steps), True
        if quality < COMPLETE_FRAC + PARTIAL_FRAC:
            return _plan(self.some(steps, 1 + int(self.random() * 2))), False
        if quality < COMPLETE_FRAC + PARTIAL_FRAC + VAGUE_FRAC:
            return f" {self.fill(self.pick(VAGUE_PLANS), self.slots)}", False
        slips = self.some(DECIDED, 1 + (self.random() < SECOND_SLIP_FRAC))
        return _plan(self.steps(self.redraw(slips))), False

    def true_plan(self, told: Slots) -> str:
        """Nothing, one to three of the steps, or all the steps of what is told."""
        steps, kind = self.steps(told), self.random() * (1 - OWN_FRAC)
        if kind < EMPTY_FRAC:
            return ""
        if kind < EMPTY_FRAC + TRUE_PARTIAL_FRAC:
            return _plan(self.some(steps, 1 + int(self.random() * 3)))
        return _plan(steps)

    def tell_freely(self) -> Slots:
        """The slots of a text whose teller departs from the tables in some of the facts."""
        return self.redraw([rule for rule in DECIDED if self.random() < FREE_FRAC])

    def redraw(self, rules: Iterable[Rule]) -> Slots:
        """The slots, with what each of the rules decides taken from another row of its table."""
        changed = dict(self.slots)
        for table, columns in rules:
            other = self.pick(table)
            while other[columns[0]] == self.slots[columns[0]]:
                other = self.pick(table)
            changed |= {column: other[column] for column in columns}
        return changed

    def steps(self, slots: Slots) -> list[str]:
        """The steps of the complete plan."""
        return [self.fill(step, slots) for step in PLAN_STEPS]

    def some(self, entries: Sequence[T], num_entries: int) -> list[T]:
        """`num_entries` of the entries, in their order."""
        places = sorted((self.random(), place) for place in range(len(entries)))[:num_entries]
        return [entries[place] for place in sorted(place for _, place in places)]

    def prose(self, rules: tuple[str, ...], slots: Slots) -> str:
        """Sentences of one of the rules: slots filled in, articles agreed, beginnings capitalised."""
        text = _A_BEFORE_VOWEL.sub(r"\1n ", self.fill(self.pick(rules), slots))
        return _SENTENCE_START.sub(lambda match: match[0].upper(), text)

    def pick(self, bank: tuple[T, ...]) -> T:
        """One entry of a bank."""
        return bank[int(self.random() * len(bank))]

    def fill(self, rule: str, slots: Slots) -> str:
        """The text of a rule, each slot replaced by its text or by a phrase of its bank."""
        if "{" not in rule:
            return rule

        def replace(match: re.Match[str]) -> str:
            value = slots[match[1]]
            return self.fill(value if isinstance(value, str) else self.pick(value), slots)

        return _SLOT.sub(replace, rule)


def _plan(steps: Sequence[str]) -> str:
    return f" {'; '.join(steps)}."
