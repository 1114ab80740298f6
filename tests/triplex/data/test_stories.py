"""The embedded stories: that the synopsis decides the facts, the shares of plans and texts, grammar, a pinned hash."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache

import pytest

from triplex.data.stories import LEAD, Story, generate_stories
from triplex.data.story_sentences import BEATS, CHOICES, LAYOUTS, SYNOPSES, VAGUE_PLANS
from triplex.data.story_words import HEROES, SEASONS, TRADES, TROUBLES, VILLAGES, parse_table

NUM_STORIES = 4000


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return list(generate_stories(NUM_STORIES, seed=7))


@cache
def whole_words(phrase: str) -> re.Pattern[str]:
    """The phrase as whole words; compiled once: there are more of them than `re` remembers."""
    return re.compile(rf"\b{re.escape(phrase)}\b", re.I)


def phrase_in(text: str, table: tuple[dict[str, str], ...], column: str) -> dict[str, str]:
    """The one row whose phrase occurs in the text as whole words; the longest where one phrase holds another."""
    found = [row for row in table if whole_words(row[column]).search(text)]
    assert found, (text, column)
    return max(found, key=lambda row: len(row[column]))


@cache
def facts(prompt: str) -> dict[str, str]:
    """What the tables say about a synopsis: hero, village, season and trouble stand in it word for word."""
    trouble = next(row for row in TROUBLES if f"the {row['thing']} {row['state']}" in prompt.lower())
    trade = phrase_in(re.sub(trouble["thing"], "", prompt, flags=re.I), TRADES, "trade")
    rows = (phrase_in(prompt, HEROES, "name"), phrase_in(prompt, VILLAGES, "village"))
    return {**rows[0], **rows[1], **trade, **phrase_in(prompt, SEASONS, "season"), **trouble}


def steps(fact: Mapping[str, str]) -> list[str]:
    """The complete true plan, spelled out here anew."""
    return [
        "ask " + fact["neighbour"],
        "take the " + fact["tool"],
        f"pass the {fact['obstacle']} {fact['way']}",
        f"{fact['mend']} the {fact['thing']} with {fact['remedy']}",
    ]


def plan_kind(plan: str, true: list[str]) -> str:
    """empty, complete, partial, slip or vague."""
    if not plan:
        return "empty"
    written = plan[1:-1].split("; ")
    if all(step in true for step in written):
        return "complete" if written == true else "partial"
    return "slip" if len(written) == 4 and re.match(r" ask [A-Z]", plan) else "vague"


def plan_in(story: Story) -> str:
    """The plan that a text holds."""
    return story.text[len(story.prompt) : story.text.index(LEAD)]


def near(count: int, share: float, num: int = NUM_STORIES) -> bool:
    """Whether a count is within four standard deviations of its binomial mean."""
    return abs(count - share * num) < 4 * (num * share * (1 - share)) ** 0.5


def test_the_number_of_stories_changes_only_the_length(stories: list[Story]) -> None:
    assert list(generate_stories(301, seed=7)) == stories[:301]
    assert list(generate_stories(0, seed=7)) == []


def test_prompts_are_distinct_and_another_seed_gives_others(stories: list[Story]) -> None:
    prompts = {story.prompt for story in stories}
    assert len(prompts) == NUM_STORIES
    assert not prompts & {story.prompt for story in generate_stories(1000, seed=8)}


def test_combinations_of_facts_are_new_in_held_out_stories_but_each_fact_is_common(stories: list[Story]) -> None:
    keys = ("trade", "village", "season", "thing")
    rows = [tuple(facts(story.prompt)[key] for key in keys) for story in stories]
    half = NUM_STORIES // 2
    assert len(set(rows[:half]) & set(rows[half:])) < 0.01 * half
    for place, table in enumerate((TRADES, VILLAGES, SEASONS, TROUBLES)):
        counts = Counter(row[place] for row in rows[:half])
        assert len(counts) == len(table)
        assert min(counts.values()) > 25


def test_every_continuation_tells_what_the_synopsis_decides(stories: list[Story]) -> None:
    for story in stories:
        fact = facts(story.prompt)
        told = story.reference.lower()
        for column, table in (
            ("neighbour", VILLAGES),
            ("tool", TRADES),
            ("obstacle", SEASONS),
            ("way", SEASONS),
            ("remedy", TROUBLES),
        ):
            # \b: "bodkin" holds no "kin"
            named = {row[column] for row in table if whole_words(row[column]).search(told)}
            assert fact[column] in named, story
            assert all(other in fact[column] for other in named), story
        assert fact["name"] in story.reference
        assert f"the {fact['thing']}" in told
        assert fact["mended"] in told


def test_pronouns_are_the_heros(stories: list[Story]) -> None:
    for story in stories:
        wrong = {"she": r"\b(?:he|him|his)\b", "he": r"\b(?:she|her|hers)\b"}[facts(story.prompt)["she"]]
        assert not re.search(wrong, (story.prompt + story.text).lower()), story.text


def test_shares_of_plans(stories: list[Story]) -> None:
    kinds = Counter(plan_kind(story.plan, steps(facts(story.prompt))) for story in stories)
    assert set(kinds) == {"complete", "partial", "vague", "slip"}
    assert near(kinds["complete"], 0.35)
    assert near(kinds["partial"] + kinds["vague"], 0.35)
    assert near(kinds["slip"], 0.30)


def test_a_partial_plan_has_one_or_two_steps_and_a_slip_one_or_two_wrong_ones(stories: list[Story]) -> None:
    lengths, wrong = set(), Counter()
    for story in stories:
        true = steps(facts(story.prompt))
        written = story.plan[1:-1].split("; ")
        kind = plan_kind(story.plan, true)
        if kind == "partial":
            lengths.add(len(written))
        if kind == "slip":
            wrong[sum(a != b for a, b in zip(written, true, strict=True))] += 1
    assert lengths == {1, 2}
    assert set(wrong) == {1, 2}
    assert near(wrong[1], 0.5, wrong.total())


@cache
def told_in(story: Story) -> tuple[str, dict[str, str]]:
    """The continuation in a text, and the facts that it tells: of the rows it names, one with the longest phrase."""
    continuation = story.text.partition(LEAD)[2]
    fact = dict(facts(story.prompt))
    for column, table in (("neighbour", VILLAGES), ("tool", TRADES), ("way", SEASONS), ("remedy", TROUBLES)):
        row = phrase_in(continuation, table, column)
        fact |= {name: row[name] for name in ((column, "obstacle") if column == "way" else (column,))}
    return continuation, fact


def test_a_text_is_prompt_plan_lead_and_continuation(stories: list[Story]) -> None:
    for story in stories:
        assert re.fullmatch(r"Synopsis: [^\n]+\.\nPlan:", story.prompt)
        assert re.fullmatch(r" [^\n]+\.", story.plan)
        assert story.text.startswith(story.prompt)
        assert story.text.count(LEAD) == 1
        assert re.fullmatch(r"(?: [^\n ][^\n]*\.)?\nStory: [^\n]+\.", story.text[len(story.prompt) :])


def test_shares_of_plans_in_texts(stories: list[Story]) -> None:
    """A plan is true of the continuation beside it, or it is the planner's own and flawed."""
    own, kinds = 0, Counter()
    for story in stories:
        continuation, fact = told_in(story)
        if continuation == story.reference:
            assert plan_in(story) == story.plan
            assert plan_kind(story.plan, steps(fact)) != "complete"
            own += 1
        else:
            kinds[plan_kind(plan_in(story), steps(fact))] += 1
    assert near(own, 0.15)
    assert set(kinds) == {"empty", "partial", "complete"}
    assert near(kinds["empty"], 0.15)
    assert near(kinds["partial"], 0.2)
    assert near(kinds["complete"], 0.5)


def test_three_facts_in_four_of_a_freely_told_text_break_the_tables(stories: list[Story]) -> None:
    """So the plan, not the synopsis, tells what comes."""
    num_free = num_facts = 0
    for story in stories:
        continuation, told = told_in(story)
        if continuation != story.reference:
            fact = facts(story.prompt)
            num_facts += 4
            num_free += sum(told[column] != fact[column] for column in ("neighbour", "tool", "way", "remedy"))
    assert near(num_free, 0.75, num_facts)


def test_grammar(stories: list[Story]) -> None:
    for story in stories:
        assert re.fullmatch(r'[A-Za-z ,.;:"\n-]+', story.text + story.plan), story
        for text in (story.prompt, story.reference, story.text):
            assert not re.search(r"  | [,.;:]|[,.;:][A-Za-z]|[{}]", text), text
            assert not re.search(r'(?:Synopsis:|Story:|[.]) "?[a-z]|^ "?[a-z]', text), text
            assert not re.search(r"\b(\w+) \1\b", text.lower()), text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text.lower()), text
            assert text.count('"') % 2 == 0, text


def test_lengths(stories: list[Story]) -> None:
    for story in stories:
        assert 15 <= len(story.prompt.split()) - 2 <= 30, story.prompt
        assert 30 <= len(story.reference.split()) <= 60, story.reference
        assert 2 <= story.reference.count(".") <= 4


def test_vocabulary_is_small_and_no_word_is_rare() -> None:
    counts = Counter(
        word
        for story in generate_stories(10_000, seed=7)
        for word in re.findall(r"[a-z]+", f"{story.text}{story.plan}".lower())
    )
    assert 800 <= len(counts) <= 1500
    assert min(counts.values()) >= 20


def test_each_fact_decides_another() -> None:
    for table, given, decided in (
        (VILLAGES, ("village",), ("neighbour",)),
        (TRADES, ("trade",), ("tool",)),
        (SEASONS, ("season",), ("obstacle", "way")),
        (TROUBLES, ("thing", "state"), ("remedy",)),
    ):
        assert 24 <= len(table) <= 40
        for column in given[:1] + decided:
            assert len({row[column] for row in table}) == len(table), column


def test_every_bank_is_used_and_every_slot_has_a_bank() -> None:
    columns = {column for table in (HEROES, TRADES, VILLAGES, SEASONS, TROUBLES) for column in table[0]}
    rules = [
        *SYNOPSES,
        *LAYOUTS,
        *VAGUE_PLANS,
        *(rule for banks in (BEATS, CHOICES) for b in banks.values() for rule in b),
    ]
    slots = {slot for rule in rules for slot in re.findall(r"\{(\w+)\}", rule)}
    assert slots <= columns | set(BEATS) | set(CHOICES)
    assert set(BEATS) | set(CHOICES) <= slots


def test_parse_table_names_the_columns() -> None:
    assert parse_table("\nking | crown jewel\nArn | a ruby\n") == ({"king": "Arn", "crown jewel": "a ruby"},)


def test_the_data_change_only_by_a_deliberate_act() -> None:
    digest = hashlib.sha256("\x00".join(text for story in generate_stories(1000, seed=7) for text in story).encode())
    assert digest.hexdigest() == "ce732a6b1f483aa14b6df34731b68dd5daf6628e6e6b88259311ff76751a0088"
