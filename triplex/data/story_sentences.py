"""How a story is told: synopses, continuations, the steps of a plan, and the small choices that nobody can foresee."""

from triplex.data.review_words import phrases

#: hero, trade, village, season and trouble, from which the tables decide the rest
SYNOPSES = (
    "it is {season} in {village}, and the {thing} {state}. {name}, a {trade}, {means} to {mend} it {deadline}.",
    "{name} is a {trade} in {village}. It is {season}, the {thing} {state}, and {people} {turn} to {her}.",
    "with {season} upon {village}, the {thing} {state}. {name} the {trade} {means} to help {deadline}.",
    "in {village} the {thing} {state}, and {season} has already come. Only {name} the {trade} {means} to {mend} it.",
    "{season} finds {village} in {plight}, for the {thing} {state}. {people} send for {name} the {trade}.",
    "{name}, a {trade} from {village}, has {task} in hand: it is {season}, and the {thing} {state}.",
    "the {thing} {state}, and {people} of {village} {grumble}. It is {season} when {name} the {trade} sets to work.",
    "{season} has come to {village}, but the {thing} {state}. {people} {turn} to {name}, a {trade} with {virtue}.",
)

#: a continuation has four beats, told in two to four sentences
LAYOUTS = (
    "{ask}. {take}. {pass}. {put_right}.",
    *("{ask}. {take_and_pass}. {put_right}.",) * 3,
    *("{ask_and_take}. {pass}. {put_right}.",) * 3,
    *("{ask_and_take}. {pass_and_mend}.",) * 2,
    "{ask}. {take}. {pass_and_mend}.",
)
BEATS = {
    "ask": (
        "{one_day} {name} {called} on {neighbour}, who {knew} that only {remedy} would do",
        "{one_day} {name} {called} on {neighbour}, and the two of them {talked} of {remedy}",
        "{one_day} {neighbour} {told} {name} to look for {remedy}",
        "{name} {asked} {neighbour} {one_day} and was sent to find {remedy}",
        '"you will need {remedy}," {neighbour} said to {name} {one_day}',
        "{neighbour} {listened} while {name} {explained}, and then spoke of {remedy}",
    ),
    "take": (
        "{mood}, {she} {packed} the {tool} and {left} {somehow}",
        "{she} {packed} the {tool} and {left} {somehow}",
        "with the {tool} {carried}, {she} {left} {somehow}",
        "{name} {packed} the {tool} and {trifle} and {left}",
        "the {tool} came along {carried} when {she} {left}",
    ),
    "pass": (
        "the {obstacle} {barred} the way, but {she} {passed} {way}",
        "{soon} the {obstacle} {barred} the way, so {she} {passed} {way}",
        "{soon} {she} came to the {obstacle} and {passed} {way}",
        "{she} {passed} the {obstacle} {way}, {cheerily} all the while",
        "not even the {obstacle} could stop {her}, for {she} {passed} {way}",
    ),
    "put_right": (
        "{by_dusk} the {thing} was {mended} with {remedy}, and {joy}",
        "{by_dusk} {she} had {mended} the {thing} with {remedy}, and {joy}",
        "with {remedy} {she} {mended} the {thing}, and {joy}",
        "{remedy} and the {tool} did the rest: {by_dusk} the {thing} was {mended}",
        "{joy} when the {thing} was {mended} with {remedy}",
    ),
    "ask_and_take": (
        "{one_day} {name} {asked} {neighbour}, then {packed} the {tool} and {left} {somehow}",
        "{neighbour} {told} {name} to look for {remedy}, so {she} {packed} the {tool} and {left} {somehow}",
        "after tea with {neighbour}, {name} {packed} the {tool} and {left} to look for {remedy}",
        "sent by {neighbour} to find {remedy}, {name} {packed} the {tool} and {left} {one_day}",
    ),
    "take_and_pass": (
        "with the {tool} {carried}, {she} {passed} the {obstacle} {way}",
        "{she} {packed} the {tool} and {passed} the {obstacle} {way}",
        "{soon} {she} {passed} the {obstacle} {way}, with the {tool} {carried}",
        "{mood}, {she} {packed} the {tool} and {passed} the {obstacle} {way}",
    ),
    "pass_and_mend": (
        "{soon} {she} {passed} the {obstacle} {way}, and {by_dusk} the {thing} was {mended} with {remedy}",
        "the {obstacle} {barred} the way, but {she} {passed} {way} and {mended} the {thing} with {remedy} {by_dusk}",
        "{she} {passed} the {obstacle} {way} and {mended} the {thing} with {remedy}, and {joy}",
    ),
}

#: the small choices
CHOICES = {
    name: phrases(bank)
    for name, bank in {
        # of a synopsis
        "means": "means, hopes, plans, wants, has promised, has sworn, offers, is eager",
        "deadline": """before Sunday, within a day, before the feast, before the guests come, by nightfall,
            without delay, this week, before the wedding""",
        "people": "the children, the elders, the neighbours, the villagers, the good folk, the farmers, the old people",
        "turn": "turn, look, come running, come, hurry",
        "plight": "trouble, dismay, a sorry state, despair, low spirits, an uproar",
        "task": "a hard task, a worthy task, a riddle, an urgent job, a puzzle, a good deed, a delicate matter",
        "grumble": "grumble, sigh, complain, despair, worry, mutter, shake their heads",
        "virtue": "a kind heart, a steady hand, a clear head, spare time, a good name, much patience, sharp eyes",
        # of a continuation
        "one_day": """that morning, at dawn, after breakfast, before noon, at noon, that afternoon, the same day,
            the next day, after lunch, at first light, as the clock struck nine""",
        "called": "called, dropped in, looked in",
        "knew": "knew, said, thought, swore, was certain, believed",
        "talked": "talked, spoke, chatted",
        "told": "told, advised, begged, reminded, urged",
        "asked": "asked, questioned, consulted",
        "listened": "listened, nodded, smiled, knitted, frowned, stirred the soup",
        "explained": "explained, told the tale, complained, drank tea, paced up and down",
        "packed": "packed, took, fetched, polished, wrapped up, borrowed",
        "carried": """in a sack, in one hand, under one arm, on a strap, in a basket, wrapped in cloth,
            in a deep pocket, on a handcart""",
        "left": "left, set out, started off, hurried away, walked off, marched off",
        "somehow": """in a stiff breeze, under grey clouds, in a light wind, without looking back, by the back gate,
            in new boots, in an old coat, with a small dog, at a brisk pace, on foot, two steps at a time""",
        "trifle": "a loaf, two apples, a flask, a clean shirt, a candle, an umbrella, a piece of cheese, some string",
        "barred": "barred, blocked",
        "soon": """soon, before long, a mile on, around the bend, at the crossroads, halfway there, past the last house,
            in a little while""",
        "passed": "got past, slipped past, made it past",
        "cheerily": "humming, whistling, grumbling, yawning, laughing, singing, counting steps, telling jokes",
        "mood": """cheerful, quite calm, still sleepy, full of hope, a little afraid, in good spirits, curious, in no
            hurry, rather nervous, without a word""",
        "by_dusk": """by dusk, by sunset, by midnight, by the next day, in no time, within the hour, before bedtime,
            by the time the owls called""",
        "joy": """everybody cheered, the children danced, there was soup for all, {name} slept soundly, {neighbour}
            laughed aloud, the whole village sang, {name} was given a cake, people clapped, a great feast began,
            all the dogs barked, {neighbour} wept for joy, somebody threw flowers""",
    }.items()
}

#: the steps of a complete plan, each of which tells what one table decides
PLAN_STEPS = ("ask {neighbour}", "take the {tool}", "pass the {obstacle} {way}", "{mend} the {thing} with {remedy}")

#: plans of those who do not commit themselves
VAGUE_PLANS = (
    "do something about it and hope for the best.",
    "think hard, work hard, and see what happens.",
    "{name} will surely find a way.",
    "{mend} the {thing} somehow.",
    "ask around in {village} and then decide.",
    "wait a little and try again later.",
    "let the {trade} see to it.",
    "go out, come back, and be happy.",
    "make a start and trust to luck.",
    "look at the {thing} and try a few things.",
    "talk to somebody, fetch something, and finish the job.",
    "be brave and never give up.",
)
