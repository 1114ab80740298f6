"""How a review goes on after its opening: layouts, clauses about one aspect, overall verdicts.

Slots of polar banks come in two forms, `{adj}` for the polarity asked for and `{anti_adj}` for the other one, so that
most rules serve praise and blame alike and no single word gives the label away.
"""

from triplex.data.review_words import phrases

#: whole reviews; {yes} and {no} agree and disagree with the label, {remark} agrees and is a sentence of its own
PURE_LAYOUTS = (
    *("{opening}, and {yes}. {verdict}.",) * 3,
    *("{opening}. {remark}. {verdict}.",) * 4,
    *("{opening}. {remark}. {remark}. {verdict}.",) * 3,
    *("{opening}. {yes}, and {yes}. {verdict}.",) * 3,
    *("{opening}. {yes}, and {yes}.",) * 2,
    "{opening}, and {yes}.",
    "{opening}, and {yes}. {remark}.",
    "{opening}. {yes}; {yes}. {overall}, {verdict}.",
    "{opening}. {remark}. {overall}, {verdict}!",
    "{opening}. {remark}, so {verdict}.",
    "{opening}. {verdict}: {yes}, and {yes}.",
)
#: the verdict comes last and carries the label
MIXED_LAYOUTS = (
    "{opening}. Although {no}, {yes}. {overall}, {verdict}.",
    "{opening}. {yes}, although {no}. {overall}, {verdict}.",
    "{opening}. {no}, but {yes}. {overall}, {verdict}.",
    "{opening}. {yes}, but {no}. {still}, {verdict}.",
    "{opening}, and {no}. {still}, {verdict}.",
    "{opening}. {no}, and {no}. {still}, {verdict}.",
    "{opening}. {yes}. That said, {no}. {overall}, {verdict}.",
    "{opening}. Even though {no}, {verdict}.",
    "{opening}. Granted, {no}. {still}, {verdict}.",
    "{opening}; while {no}, {yes}, and, {overall}, {verdict}.",
)

#: clauses for any place in a sentence
CLAUSES = (
    *("{np} {be} {adj}",) * 7,
    *("{np} {be} {adj} {where}",) * 8,
    "{np} {be} {plain} and {plain}",
    *("{I} found {np} {adj}",) * 3,
    "{np} struck {me} as {adj}",
    "{np} turned out {adj}",
    "{np} seemed {adj} {where}",
    "{np} {be} {never} {anti_plain}",
    "{I} did not find {np} {anti_plain}",
    "nobody could call {np} {anti_plain}",
    "there {be_one} nothing {anti_plain} about {np}",
    "{np} did not seem {anti_plain} {where}",
    *("{np} {past}",) * 6,
    "{np} never {anti_past}",
    "{np} did not {anti_base}",
    "{np} {seldom} {anti_past}",
    *("{np} and {other} {be_many} {general}",) * 2,
    *("{feeling}",) * 7,
)
#: clauses for sentences of their own
REMARKS = (
    *CLAUSES * 2,
    "not once did {np} {anti_base}",
    "at no point did {np} {anti_base}",
    "{I} had expected {np} to be {anti_plain}, yet {they} {be} {adj}",
    "far from {anti_plain}, {np} {be} {adj} {where}",
    "{np} {be} {plain} rather than {anti_plain}",
    "{np} {be} {adj} and {never} {anti_plain}",
    "{np} {be} more {long} than {benchmark}",
    "{np} {be} less {anti_plain} than {benchmark}",
    "{np} {be} not as {anti_plain} as {benchmark}",
    "{np} {be} {adj}: {they} {past}",
    "both {np} and {other} {be_many} {general}",
)

_COMMON_VERDICTS = (
    "the {merits} {outweigh} the {anti_merits}",
    "{I} saw more {merits} than {anti_merits}",
    "{I} {came_away} more {felt} than {anti_felt}",
    *("{I} {came_away} {degree} {felt}",) * 4,
    "{I} {came_away} {felt}, not {anti_felt}",
    "{I} {came_away} anything but {anti_felt}",
    "{I} would sooner {choose} than {anti_choose}",
    "{whole} {be_one} {never} {anti_worthy}",
    *("{whole} {be_one} {degree} {worthy}",) * 3,
    *("this {be_one} a {worthy} {noun}",) * 4,
    "this {be_one} not a {anti_worthy} {noun}",
    "this {be_one} a {worthy} {noun} rather than a {anti_worthy} one",
    "{I} had hoped for {little} and got {anti_little}",
    *("this {be_one} one of the {best} {peers} of {period}",) * 5,
    *("{whole} gets {rating} from {me}",) * 3,
    "{audience} will be more {felt} than {anti_felt}",
)
#: overall verdicts by label
VERDICTS = (
    (
        *_COMMON_VERDICTS,
        *("{I} would not {anti_choose}",) * 4,
        "{I} would not {anti_choose}, not even {condition}",
        *("{whole} {be_one} {not_worth} the {cost}",) * 2,
        "the {cost} {be_one} wasted",
        "{I} regret{s} the {cost}",
        "{I} cannot recommend {whole} to {audience}",
        *("{audience} should {advice}",) * 5,
        "{audience} should not bother",
        "{whole} did not deserve {praise}",
        "{whole} let {me} down",
        *("{whole} {failed}",) * 8,
        "it {be_one} hard to name a reason to {anti_choose}",
    ),
    (
        *_COMMON_VERDICTS,
        *("{I} would {gladly} {choose}",) * 4,
        "{I} would {choose}, even {condition}",
        *("{whole} {be_one} {worth} the {cost}",) * 2,
        "the {cost} {be_one} not wasted",
        "{I} {do} not regret the {cost}",
        "{I} can recommend {whole} to {audience}",
        *("{audience} should {advice}",) * 5,
        "{audience} should not miss out",
        "{whole} deserved {praise}",
        "{whole} did not let {me} down",
        *("{whole} {succeeded}",) * 8,
        "it {be_one} hard to name a reason not to {choose}",
    ),
)

#: polar banks of every domain: (negative, positive)
SHARED_PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adj": (("{plain}", "{plain}", "{degree} {plain}", "{degree} {plain}", "{extreme}", "{utterly} {extreme}"),) * 2,
    "degree": (
        phrases(
            """slightly, rather, a little, painfully, quite, very, really, too, terribly, unexpectedly, thoroughly,
            oddly, somewhat, noticeably, remarkably, pretty, unusually"""
        ),
        phrases(
            """quite, very, really, truly, genuinely, remarkably, unusually, thoroughly, wonderfully, unexpectedly,
            especially, notably, reassuringly, pretty, pleasantly, surprisingly"""
        ),
    ),
    "extreme": (
        phrases(
            """dreadful, terrible, awful, atrocious, abysmal, lamentable, horrendous, inexcusable, appalling, woeful,
            dire, deplorable, disastrous, pitiful"""
        ),
        phrases(
            """superb, excellent, wonderful, marvellous, fantastic, splendid, first-rate, terrific,
            exceptional, faultless, impeccable, exemplary, sublime"""
        ),
    ),
    "general": (
        phrases("poor, bad, disappointing, mediocre, weak, substandard, unimpressive, lacklustre, below average"),
        phrases("good, great, impressive, lovely, remarkable, admirable, commendable, strong, above average"),
    ),
    "feeling": (
        phrases(
            """{I} {disliked} {np}, {I} could not enjoy {np}, {I} had no praise for {np}, {np} put {me} off, {np}
            disappointed {me}, {np} did not impress {me}, {I} had nothing but complaints about {np}, {I} had
            trouble forgiving {np}, {np} left much to be desired, {I} expected more of {np}"""
        ),
        phrases(
            """{I} {enjoyed} {np}, {I} could not fault {np}, {I} had no complaints about {np}, {np} won {my} praise,
            {np} impressed {me}, {np} did not disappoint {me}, {I} had nothing but praise for {np}, {I} had no
            trouble enjoying {np}, {np} left nothing to be desired, {I} could not have asked for more of {np}"""
        ),
    ),
    "merits": (
        phrases("flaws, faults, weak points, weaknesses, bad points, drawbacks, annoyances, shortcomings, low points"),
        phrases("merits, strengths, strong points, virtues, good points, highlights, joys, advantages, high points"),
    ),
    "felt": (
        phrases("annoyed, disappointed, irritated, frustrated, dissatisfied, sorry, regretful, discouraged, cross"),
        phrases("happy, pleased, content, impressed, delighted, charmed, satisfied, thankful, enthusiastic, glad"),
    ),
    "little": (("much", "more", "a lot"), ("little", "less", "next to nothing")),
    "advice": (
        phrases("give it a miss, steer clear of it, keep away, save the money, think twice, pass it by"),
        phrases("give it a go, look out for it, note the name, seize the chance, take a closer look, put it on a list"),
    ),
    "best": (
        phrases("worst, weakest, poorest, weaker, least impressive, least enjoyable"),
        phrases("best, finest, strongest, better, most impressive, most enjoyable"),
    ),
    "condition": (
        phrases("at half the price, on a free day, as a favour, for company, at a discount, for old times' sake"),
        phrases("at twice the price, on a busy day, at short notice, on {my} own, in a hurry, in bad weather"),
    ),
    "rating": (
        phrases("one star out of five, two stars out of five, three points out of ten, two thumbs down, a low mark"),
        phrases("four stars out of five, five stars out of five, nine points out of ten, two thumbs up, a top mark"),
    ),
}

#: banks of every domain
SHARED_WORDS: dict[str, tuple[str, ...]] = {
    "never": phrases("never, hardly, far from, anything but, by no means, not at all, not in the least, not remotely"),
    "seldom": phrases("rarely, seldom, hardly ever, almost never"),
    "utterly": phrases("utterly, absolutely, simply, truly, quite"),
    "overall": phrases(
        """overall, all in all, in the end, on balance, taken as a whole, all things considered, on the whole, in short,
        in sum, to sum up, looking back, in conclusion"""
    ),
    "still": phrases(
        """even so, still, all the same, nevertheless, despite all that, that aside, nonetheless, in spite of it all, be
        that as it may, when all is said and done, for all that"""
    ),
    "outweigh": phrases("outweigh, outnumber, eclipse, overshadow, more than make up for"),
    "gladly": phrases("gladly, happily, certainly, readily, definitely, eagerly, cheerfully"),
    "failed": phrases(
        """disappointed {me}, fell short of {my} hopes, wasted {my} time, left {me} {degree} {felt}, missed the target,
        tried {my} patience, gave little in return"""
    ),
    "succeeded": phrases(
        """delighted {me}, surpassed {my} hopes, brightened {my} week, left {me} {degree} {felt}, hit the target,
        exceeded all expectations, gave a lot in return"""
    ),
    "worth": phrases("worth, well worth, more than worth, certainly worth, clearly worth"),
    "not_worth": phrases("not worth, hardly worth, far from worth, by no means worth, never worth"),
    "praise": phrases("the praise, a second look, the fuss, its reputation, the attention, its fans"),
    "disliked": phrases("disliked, resented, endured, grew tired of, complained about, lost patience with, despised"),
    "enjoyed": phrases("enjoyed, liked, loved, admired, appreciated, praised, relished, treasured, adored"),
    "period": phrases("the year, recent years, the season, the decade, the past few months"),
}

#: polar banks by domain
DOMAIN_PAIRS: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "film": {
        "choose": (
            phrases("switch it off, skip it, forget it, watch something else, stare at a wall, leave halfway through"),
            phrases("watch it again, see it a second time, buy a copy, show it to a friend, put it on again"),
        ),
        "worthy": (
            phrases("forgettable, tiresome, disappointing, tedious, pointless, frustrating, mediocre, dreary"),
            phrases("rewarding, memorable, entertaining, worthwhile, enjoyable, delightful, thought-provoking"),
        ),
    },
    "restaurant": {
        "choose": (
            phrases("cook at home, eat elsewhere, walk on by, stay hungry, try the place next door, order a takeaway"),
            phrases("go back, eat there again, book another table, return with friends, become a regular"),
        ),
        "worthy": (
            phrases("disappointing, forgettable, unpleasant, dismal, regrettable, mediocre, joyless, frustrating"),
            phrases("enjoyable, memorable, delightful, lovely, satisfying, rewarding, pleasing, worthwhile"),
        ),
    },
    "product": {
        "choose": (
            phrases("send it back, return it, look elsewhere, borrow one, ask for a refund, do without"),
            phrases("buy it again, order another, choose the same model, give one to a friend, keep it for years"),
        ),
        "worthy": (
            phrases("useless, impractical, disappointing, regrettable, pointless, frustrating, second-rate, worthless"),
            phrases("useful, practical, dependable, sensible, clever, handy, worthwhile, excellent, first-class"),
        ),
    },
}

#: banks by domain
DOMAIN_WORDS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "film": {
        "whole": ("the film", "the film", "this {head}"),
        "peers": "{heads}",
        "noun": ("film", "picture", "{head}"),
        "cost": phrases("ticket, evening, time, admission fee, effort, journey into town"),
        "came_away": phrases("came away, went to bed, ended up"),
        "audience": phrases(
            """fans of the genre, lovers of old cinema, anyone who likes {heads}, families with older children, {my}
            friends, {my} colleagues, film clubs, curious viewers, people in a hurry, newcomers to the director"""
        ),
        "benchmark": ("in most {heads}", "in many {heads}", "{I} had expected", "in similar films"),
    },
    "restaurant": {
        "whole": ("the meal", "the visit", "the place", "this {venue}"),
        "peers": phrases("meals, dinners out, visits to any {venue}, {venue}s"),
        "noun": phrases("meal, experience, visit, outing, choice of restaurant"),
        "cost": phrases("money, detour, wait, journey, price, evening"),
        "came_away": phrases("came away, went home, left"),
        "audience": phrases(
            """hungry families, couples, large groups, visitors to the town, anyone in a hurry, {my} friends, {my}
            colleagues, students, vegetarians, walkers, people with children"""
        ),
        "benchmark": ("at most {venue}s", "at other {venue}s", "{I} had expected", "at {my} usual place", "at home"),
    },
    "product": {
        "whole": ("the {head}", "this {head}", "the {mod} {head}"),
        "peers": "{heads}",
        "noun": phrases("purchase, buy, investment, {head}, piece of equipment"),
        "cost": phrases("money, price, wait, expense, postage, outlay"),
        "came_away": phrases("ended up, came away, {was} left"),
        "audience": phrases(
            """beginners, busy parents, students, anyone with a small flat, frequent users, commuters, new buyers,
            {my} friends, {my} neighbours, people who need a {head}, pensioners"""
        ),
        "benchmark": ("with most {heads}", "with {my} old one", "{I} had expected", "with dearer {heads}"),
    },
}

#: kinds of places to eat at
VENUES = phrases("bistro, diner, tavern, pub, canteen, restaurant, café, inn, guest house, food hall, beer garden")
