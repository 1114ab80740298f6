"""How a review opens: who, when and how they came to the thing reviewed, without a word of praise or blame.

The first four words of an opening never occur elsewhere in a review: they are the prompts of reinforcement learning.
"""

from triplex.data.review_words import phrases

#: the reviewer: pronouns and the forms that agree with them
VOICES = {
    "I": {"I": "I", "me": "me", "my": "my", "s": "", "do": "do", "was": "was"},
    "we": {"I": "we", "me": "us", "my": "our", "s": "", "do": "do", "was": "were"},
    "she": {"I": "she", "me": "her", "my": "her", "s": "s", "do": "does", "was": "was"},
    "he": {"I": "he", "me": "him", "my": "his", "s": "s", "do": "does", "was": "was"},
    "they": {"I": "they", "me": "them", "my": "their", "s": "", "do": "do", "was": "were"},
}

#: a relative or acquaintance and the voice of a review told about them
KIN = tuple(
    (f"my {name}", voice)
    for voice, names in (
        ("she", "sister, aunt, mother, niece, grandmother, cousin, boss, neighbour, flatmate, daughter, wife, dentist"),
        ("he", "brother, uncle, father, nephew, grandfather, cousin, boss, neighbour, landlord, son, husband, barber"),
        ("they", "parents, neighbours, grandparents, colleagues, in-laws, cousins, friends, flatmates, hosts"),
    )
    for name in phrases(names)
)

#: how each domain opens; a reviewer of "self" is I or we, one of "kin" somebody whom the opening names
OPENINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "film": {
        "self": (
            *("{I} {watched} this {mod} {head} {outing}",) * 4,
            *("{I} {rented} this {mod} {head} {tail}",) * 2,
            *("{lead} {I} {chose} {this} {mod} {head} {detail}",) * 3,
            *("{kin} {lent} {me} {this} {mod} {head} {tail}",) * 2,
            "{four} of us {gathered} for {this} {mod} {head} {detail}",
            "{club} {showed} {this} {mod} {head} {when}",
        ),
        "kin": ("{kin} {watched} {this} {mod} {head} {outing}", "{kin} {rented} {this} {mod} {head} {tail}"),
    },
    "restaurant": {
        "self": (
            *("{I} {ordered} the {mod} {head} {at}",) * 5,
            *("{lead} {I} {stopped} {place} for the {mod} {head}",) * 3,
            *("{kin} {met} {me} {place} {when}, where {I} {had} the {mod} {head}",) * 2,
            "{four} of us {shared} the {mod} {head} {place}",
            "for {my} {relative}'s {occasion} {I} {had} the {mod} {head} {place}",
            "{I} {booked} {table} {place} {when} and {had} the {mod} {head}",
        ),
        "kin": ("{kin} {ordered} the {mod} {head} {at}",),
    },
    "product": {
        "self": (
            *("{I} {bought} this {mod} {head} {deal}",) * 6,
            *("{lead} {I} {unpacked} {this} {mod} {head} {detail}",) * 3,
            *("{kin} {gave} {me} {this} {mod} {head} {tail}",) * 2,
            "{my} old {head} {retired} {when}, so {I} replaced it with a {mod} one",
            "{postman} {brought} {this} {mod} {head} {when}",
        ),
        "kin": ("{kin} {bought} {this} {mod} {head} {deal}",),
    },
}

_WHEN = """last night, last weekend, over the weekend, over the holidays, in early spring, in late autumn, one
    March evening, on a rainy Sunday, on a public holiday, in the first week of May, in mid-June, on a snowy day"""

_SHARED = {
    "this": ("this", "this", "a"),
    "tail": ("{when}", "{detail}", "{detail} {when}"),
    "four": phrases("two, three, four, five, six, seven, eight, ten, a dozen"),
    "lead": phrases(
        """last week, last Friday, last Tuesday, last month, last summer, two nights ago, three weeks ago, this morning,
        this Thursday, earlier today, earlier this month, after the exams, after work, after lunch, before Christmas,
        before the holidays, back in April, back in September, one windy afternoon, one Monday, one November day"""
    ),
}

#: word banks of the openings by domain
OPENING_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "film": _SHARED
    | {
        "when": phrases(f"{_WHEN}, late at night, after dinner, with the curtains drawn, with two old friends"),
        "outing": ("{tail}", "{tail}", "{detail} {screen}", "{screen} {when}"),
        "screen": phrases("on a long flight, at the film festival, at a matinee, on television, on a ferry"),
        "watched": phrases("watched, saw, caught"),
        "rented": phrases("rented, streamed, borrowed"),
        "chose": phrases("sat down to, put on, went to see, settled on, queued for, opted for"),
        "lent": phrases("lent, showed, sent"),
        "gathered": phrases("got together, met up, crossed town, squeezed in, stayed up"),
        "club": phrases("our film club, the village hall, the local library, the student union, a late-night channel"),
        "showed": phrases("showed, screened, put on"),
    },
    "restaurant": _SHARED
    | {
        "when": phrases(f"{_WHEN}, after a concert, before the theatre, between two trains, on the way home, at noon"),
        "at": ("{when}", "{place}", "{place} {when}", "{detail} {when}", "{detail} {place}"),
        "place": ("at a {size} {venue} {spot}", "at a {venue} {spot}", "at the {size} {venue} {spot}"),
        "size": phrases("small, new, family-run, two-storey, vegetarian, self-service, wood-panelled, open-air, tiled"),
        "spot": phrases(
            """by the canal, near the station, on the market square, behind the town hall, across from the library,
            beside the harbour, next to the museum, under the arches, on the coast road, close to the office"""
        ),
        "ordered": phrases("ordered, tried, had, picked, chose"),
        "had": phrases("decided on, asked for, settled for, went for"),
        "met": phrases("met, joined"),
        "shared": phrases("shared, split, ordered, tried"),
        "stopped": phrases("stopped, queued, sat down, called in, met friends"),
        "relative": phrases("sister, brother, uncle, aunt, cousin, father, mother, boss, neighbour, niece, nephew"),
        "occasion": phrases("birthday, graduation, farewell, anniversary, retirement"),
        "booked": phrases("booked, reserved, took"),
        "table": phrases("a table for two, a window seat, a corner booth, the long table"),
    },
    "product": _SHARED
    | {
        "when": phrases(f"{_WHEN}, two months ago, around midsummer, shortly before a move"),
        "deal": ("{tail}", "{tail}", "{source} {detail}", "{source} {when}"),
        "source": phrases("in the sales, from a mail-order catalogue, at a shop in town, from an auction site"),
        "bought": phrases("bought, ordered, chose"),
        "unpacked": phrases("unpacked, picked up, swapped vouchers for, started using, sent away for"),
        "gave": phrases("gave, bought, sent, brought"),
        "retired": phrases("was stolen, went to a cousin, stopped working, went to a charity shop"),
        "postman": phrases("the postman, a van driver, a bicycle messenger, {my} neighbour, the night porter"),
        "brought": phrases("brought, handed over, dropped off, left {me}"),
    },
}
