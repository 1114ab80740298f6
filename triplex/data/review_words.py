"""What film and restaurant reviews judge, and the words that fit each thing judged."""

from typing import NamedTuple


class Aspect(NamedTuple):
    """One aspect of a reviewed thing. `adjectives`, `base` and `past` are pairs: index 0 negative, index 1 positive.

    `base` and `past` hold the same verb phrases in infinitive and past tense; `where` holds adjuncts of no sentiment.
    """

    singular: tuple[str, ...]
    plural: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]
    base: tuple[tuple[str, ...], tuple[str, ...]]
    past: tuple[tuple[str, ...], tuple[str, ...]]
    where: tuple[str, ...]


class Kind(NamedTuple):
    """A kind of reviewed thing: any modifier goes with any head noun, and any of its aspects can be judged."""

    modifiers: tuple[str, ...]
    heads: tuple[str, ...]
    details: tuple[str, ...]
    aspects: tuple[Aspect, ...]


def phrases(text: str) -> tuple[str, ...]:
    """The comma-separated phrases of a text that may span several lines."""
    return tuple(phrase for part in text.split(",") if (phrase := " ".join(part.split())))


def _verb_phrases(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Infinitives and past tenses from phrases such as `carry/carried the story`."""
    split = [phrase.partition(" ") for phrase in phrases(text)]
    base, past = (tuple(verb.split("/")[tense] + space + rest for verb, space, rest in split) for tense in (0, 1))
    return base, past


def parse_aspects(text: str) -> dict[str, Aspect]:
    """Aspects by name from blocks of six lines: name = nouns | plural nouns, good, bad, works, fails, where."""
    lines = text.strip().splitlines()
    aspects = {}
    for start in range(0, len(lines), 6):
        name, nouns = lines[start].split(" = ")
        singular, _, plural = nouns.partition("|")
        good, bad, works, fails, where = (line.partition(": ")[2] for line in lines[start + 1 : start + 6])
        (works_base, works_past), (fails_base, fails_past) = _verb_phrases(works), _verb_phrases(fails)
        aspects[name] = Aspect(
            phrases(singular),
            phrases(plural),
            (phrases(bad), phrases(good)),
            (fails_base, works_base),
            (fails_past, works_past),
            phrases(where),
        )
    return aspects


def parse_kinds(text: str, aspects: dict[str, Aspect]) -> tuple[Kind, ...]:
    """Kinds from blocks of four lines: aspects (a name twice is drawn twice as often), modifiers, heads, details."""
    lines = [line.partition(": ")[2] for line in text.strip().splitlines()]
    return tuple(
        Kind(phrases(modifiers), phrases(heads), phrases(details), tuple(aspects[name] for name in phrases(names)))
        for names, modifiers, heads, details in zip(*(lines[offset::4] for offset in range(4)), strict=True)
    )


_FILM = parse_aspects("""
acting = acting, lead performance, main cast, ensemble, supporting cast | performances, child actors, two leads
  good: convincing, believable, natural, magnetic, sincere, compelling, understated, expressive, assured, captivating
  bad: wooden, stiff, unconvincing, lifeless, listless, mannered, hammy, expressionless, strained, one-note
  works: win/won {me} over, carry/carried the story, ring/rang true, warm/warmed the screen
  fails: drag/dragged the story down, strike/struck a false note, leave/left {me} cold, break/broke the spell
  where: in the group scenes, from the first scene on, even in the smallest parts, in the long close-ups
characters = hero, heroine, villain, central couple | characters, minor characters, two rivals
  good: likeable, complex, well-drawn, relatable, sympathetic, endearing, multi-layered, credible, lovable
  bad: one-dimensional, unlikeable, annoying, cardboard, forgettable, underwritten, whiny, hollow, interchangeable
  works: win/won {my} sympathy, grow/grew on {me}, come/came alive, feel/felt like flesh and blood
  fails: get/got on {my} nerves, act/acted without reason, stay/stayed at arm's length, try/tried {my} patience
  where: beneath the surface, from start to finish, as the years go by, once the masks come off
plot = plot, story, storyline, script, premise | twists, story threads, subplots
  good: gripping, clever, inventive, surprising, coherent, original, thoughtful, suspenseful, well-built, engrossing
  bad: predictable, muddled, far-fetched, contrived, tangled, stale, formulaic, implausible, threadbare, incoherent
  works: keep/kept {me} guessing, make/made sense, pay/paid off, draw/drew {me} in, reward/rewarded close attention
  fails: fall/fell apart, insult/insulted {my} intelligence, run/ran out of steam, go/went round in circles
  where: after the opening act, in the final third, at the halfway mark, right up to the credits, in the flashbacks
score = score, soundtrack, music, theme tune, main theme | songs, choral pieces, piano themes
  good: haunting, stirring, melodic, evocative, atmospheric, rousing, catchy, tender, well-chosen, hypnotic
  bad: intrusive, deafening, repetitive, syrupy, grating, overbearing, tuneless, bombastic, shrill, generic
  works: fit/fitted the mood, linger/lingered in the mind, give/gave {me} goosebumps, deepen/deepened every emotion
  fails: drown/drowned out the voices, spoil/spoiled the mood, distract/distracted {me}, give/gave {me} a headache
  where: over the closing credits, in the calmer scenes, at the loudest moments, in the opening minutes
pacing = pacing, rhythm, editing, tempo | transitions, scene changes
  good: brisk, lively, well-judged, steady, energetic, fluid, nimble, controlled, elegant, confident
  bad: sluggish, uneven, plodding, jerky, rushed, ponderous, slack, erratic, laboured, choppy
  works: keep/kept things moving, hold/held the tension, suit/suited the material, make/made two hours fly by
  fails: test/tested {my} patience, kill/killed the suspense, send/sent {me} to sleep, bring/brought things to a halt
  where: in the middle section, over the full two hours, ahead of the finale, in the last half hour
look = camera work, lighting, set design, cinematography, colour palette | costumes, visual effects, sets, night shots
  good: striking, sumptuous, imaginative, painterly, vivid, detailed, stylish, radiant, dreamlike, polished
  bad: drab, murky, cheap-looking, garish, unimaginative, amateurish, sloppy, dingy, artificial, dated
  works: catch/caught the eye, bring/brought the setting to life, fill/filled the screen with wonder
  fails: look/looked unfinished, hurt/hurt the eyes, break/broke the illusion, remind/reminded {me} of a school play
  where: in the outdoor scenes, in the crowd scenes, from the first frame to the last, in low light
dialogue = dialogue, humour, banter, writing, wordplay | jokes, one-liners, conversations
  good: witty, sharp, quotable, economical, playful, intelligent, well-observed, sparkling, funny, subtle
  bad: clumsy, corny, stilted, preachy, long-winded, cringeworthy, trite, heavy-handed, crude, laboured
  works: make/made {me} laugh out loud, hit/hit the mark, raise/raised a smile, reveal/revealed something new
  fails: fall/fell flat, make/made {me} wince, miss/missed the mark, sink/sank the mood, state/stated the obvious
  where: around the dinner table, in the love scenes, between the old friends, in the opening half hour
ending = ending, finale, final scene, last act, conclusion, epilogue | closing scenes, last ten minutes, final moments
  good: satisfying, moving, unforgettable, graceful, cathartic, bold, poignant, fitting, uplifting, well-earned
  bad: abrupt, unsatisfying, sentimental, silly, anticlimactic, half-hearted, baffling, hasty, lazy, perfunctory
  works: move/moved {me} to tears, tie/tied everything together, stay/stayed with {me} for days, earn/earned applause
  fails: come/came out of nowhere, leave/left too much unexplained, cheat/cheated the audience, ring/rang hollow
  where: after all that build-up, by the standards of the genre, after two hours of waiting, on a first viewing
narration = narration, commentary, research, archive footage | interviews, testimonies, eyewitness accounts
  good: informative, balanced, insightful, illuminating, absorbing, thorough, candid, lucid, humane, respectful
  bad: superficial, one-sided, dry, patronising, sensational, monotonous, rambling, misleading, shallow, manipulative
  works: teach/taught {me} something new, make/made a hard subject clear, ask/asked the right questions
  fails: skim/skimmed the surface, bury/buried the facts, lecture/lectured the viewer, bore/bored the whole room
  where: on the scientific side, in the historical chapters, for a general audience, in the first hour
photography = photography, camera work, framing, drone footage | aerial shots, close-ups, landscapes
  good: striking, breathtaking, painterly, vivid, detailed, luminous, unobtrusive, spectacular
  bad: drab, murky, shaky, unimaginative, amateurish, sloppy, blurred, hurried
  works: catch/caught the eye, bring/brought the setting to life, fill/filled the screen with wonder
  fails: look/looked unfinished, hurt/hurt the eyes, make/made {me} dizzy, add/added nothing
  where: in the outdoor scenes, in low light, from the first frame to the last, on a big screen
""")

#: `{item}` and `{head}` stand for the dish ordered, `{I}`, `{me}` and `{my}` for the reviewer
_RESTAURANT = parse_aspects("""
service = service, waiter, waitress, host, team | waiters, staff, servers
  good: friendly, attentive, courteous, helpful, gracious, cheerful, efficient, unhurried, professional, patient
  bad: rude, slow, inattentive, careless, grumpy, dismissive, impatient, forgetful, surly, disorganised, brusque
  works: make/made {me} feel at home, remember/remembered every detail, deserve/deserved a tip
  fails: ignore/ignored {me}, mix/mixed up the order, forget/forgot the drinks, keep/kept {me} waiting
  where: from the moment {I} sat down, in front of a full house, even at closing time, right up to the bill
bill = bill, set-menu price, cover charge, final total | prices, menu prices
  good: fair, reasonable, modest, honest, sensible, affordable, moderate, justified
  bad: steep, excessive, inflated, outrageous, unreasonable, shocking, unjustified, exorbitant
  works: match/matched the quality, come/came as a relief, suit/suited {my} budget, stay/stayed within reason
  fails: leave/left a bitter taste, come/came as a shock, spoil/spoiled the mood, make/made {me} gasp
  where: for this part of town, for what {I} got, even without drinks, for two courses, by local standards
portions = main course, serving, tasting plate | portions, helpings, servings
  good: generous, hearty, filling, ample, well-sized, substantial, abundant
  bad: tiny, stingy, meagre, skimpy, miserly, paltry, laughable
  works: satisfy/satisfied {my} hunger, fill/filled {me} up, do/did justice to the menu
  fails: leave/left {me} hungry, disappear/disappeared in two bites, look/looked lost on the plate
  where: for the money, for an empty stomach, at this end of the menu, on every visit
room = dining room, terrace, back room, seating area, upstairs bar | booths, surroundings, two dining rooms
  good: cosy, charming, inviting, spotless, airy, comfortable, tasteful, well-kept, snug, picturesque
  bad: cramped, draughty, gloomy, stuffy, shabby, grubby, tacky, cheerless, run-down, claustrophobic
  works: put/put {me} at ease, invite/invited {me} to linger, set/set the right mood, feel/felt like home
  fails: smell/smelled of old grease, feel/felt like a waiting room, put/put {me} off, let/let in an icy wind
  where: with every seat taken, in the evening light, away from the window, behind the plain front door
mood = atmosphere, ambience, background music, general mood
  good: relaxed, pleasant, soothing, easygoing, agreeable, welcoming, mellow, delightful
  bad: tense, hectic, oppressive, unbearable, jarring, tiresome, stressful, joyless
  works: lift/lifted {my} spirits, make/made talking easy, make/made {me} want to stay
  fails: make/made talking impossible, drive/drove {me} out early, wear/wore {me} down
  where: all through the meal, at every table, as the place filled up, late in the evening
drinks = house wine, lemonade, iced tea, draught beer, apple juice | cocktails, drinks, juices
  good: refreshing, chilled, aromatic, fragrant, smooth, well-balanced, crisp, flavourful, invigorating
  bad: watery, lukewarm, sour, watered-down, stale, sickly, insipid, overpriced, flavourless
  works: complement/complemented the food, quench/quenched {my} thirst, round/rounded off the meal
  fails: taste/tasted of soap, clash/clashed with the food, taste/tasted of tap water, arrive/arrived far too late
  where: with the main course, by the glass, straight from the bar, from the first sip
dessert = cheesecake, chocolate mousse, lemon tart, apple crumble, rice pudding | pastries, profiteroles, desserts
  good: creamy, delicate, velvety, luscious, indulgent, heavenly, moreish, dreamy, irresistible
  bad: cloying, stodgy, rubbery, grainy, sugary, gluey, leaden, bland, synthetic
  works: melt/melted on the tongue, end/ended the meal in style, bring/brought back childhood memories
  fails: taste/tasted of the freezer, stick/stuck to the spoon, spoil/spoiled the finish, taste/tasted of nothing
  where: with a cup of coffee, at the end of the meal, next to a spoonful of cream, down to the last crumb
sauce = sauce, gravy, dressing, dip, garlic butter | sauces, dips, relishes
  good: tangy, aromatic, velvety, zesty, well-seasoned, piquant, smooth, mellow, silky
  bad: bland, watery, oily, lumpy, salty, gloopy, floury, acrid, tasteless, runny
  works: bring/brought the plate together, add/added depth, lift/lifted the dish, balance/balanced the dish
  fails: drown/drowned the dish, mask/masked every other flavour, overpower/overpowered everything, curdle/curdled
  where: on the side, on every plate, with the bread, in its little bowl
bread = bread, sourdough, flatbread, garlic bread | rolls, breadsticks, chips
  good: crusty, fresh, crisp, fragrant, golden, aromatic, well-baked
  bad: stale, soggy, burnt, doughy, tough, greasy, limp, flavourless
  works: come/came straight from the oven, disappear/disappeared within minutes, crackle/crackled at the first bite
  fails: taste/tasted days old, crumble/crumbled to dust, sit/sat heavily on the stomach, come/came out cold
  where: at the start of the meal, in the basket, with a bowl of olives, with a little butter
soup = {item}, {head}
  good: warming, hearty, flavourful, velvety, comforting, well-seasoned, fragrant, wholesome, nourishing
  bad: watery, lukewarm, bland, oversalted, tepid, tasteless, gritty, murky, insipid
  works: warm/warmed {me} through, taste/tasted homemade, hit/hit the spot, burst/burst with flavour
  fails: taste/tasted of powder, arrive/arrived cold, need/needed a fistful of salt, come/came out of a packet
  where: with a slice of bread, on a cold day, to the bottom of the bowl, from the first spoonful
grill = {item}, {head}
  good: juicy, tender, succulent, smoky, well-seasoned, flavourful, well-cooked, mouth-watering, aromatic
  bad: dry, tough, chewy, overcooked, charred, gristly, greasy, tasteless, leathery
  works: fall/fell off the fork, melt/melted in the mouth, burst/burst with flavour, hit/hit the spot
  fails: taste/tasted of charcoal, resist/resisted the sharpest knife, swim/swam in grease, arrive/arrived cold
  where: right to the middle, straight off the grill, under all that pepper, from the first bite
pasta = {item}, {head}
  good: silky, comforting, creamy, flavourful, fragrant, well-balanced, well-seasoned, delicate, satisfying
  bad: mushy, gluey, stodgy, bland, overcooked, clumpy, oily, lukewarm, flavourless
  works: taste/tasted homemade, hit/hit the spot, coat/coated the tongue with flavour, fill/filled {me} up
  fails: clump/clumped together, swim/swam in oil, taste/tasted of the tin, arrive/arrived half cold
  where: under a cloud of cheese, from the first forkful, down to the last bite, with a squeeze of lemon
fish = {item}, {head}
  good: flaky, delicate, fresh, moist, tender, buttery, well-cooked, succulent, flavourful
  bad: dry, bony, rubbery, overcooked, slimy, soggy, tasteless, undercooked, mushy
  works: fall/fell into soft flakes, taste/tasted of the sea, melt/melted in the mouth, hit/hit the spot
  fails: smell/smelled of old nets, fall/fell to pieces, taste/tasted of the freezer, arrive/arrived cold
  where: with a squeeze of lemon, under the herbs, right to the middle, from head to tail
curry = {item}, {head}
  good: fragrant, aromatic, well-spiced, warming, vibrant, punchy, comforting, flavourful, tender
  bad: bland, oily, timid, watery, harsh, muddy, greasy, tasteless, stringy
  works: warm/warmed {me} through, wake/woke up every taste bud, burst/burst with flavour, hit/hit the spot
  fails: taste/tasted of the tin, swim/swam in oil, burn/burned the tongue, arrive/arrived half cold
  where: under the chopped herbs, over a bed of rice, from the first spoonful, with a spoonful of yoghurt
bake = {item}, {head}
  good: crisp, golden, flaky, savoury, well-baked, fragrant, scrumptious, buttery, flavourful
  bad: soggy, burnt, doughy, greasy, tough, undercooked, limp, bland, oily
  works: come/came straight from the oven, crackle/crackled at the first bite, vanish/vanished in minutes
  fails: stick/stuck to the plate, taste/tasted reheated, drip/dripped with grease, come/came out cold
  where: right to the edges, under the melted cheese, straight from the oven, from the first slice
salad = {item}, {head}
  good: fresh, crunchy, colourful, vibrant, zesty, well-dressed, crisp, wholesome, refreshing
  bad: limp, wilted, bland, watery, soggy, tasteless, joyless, slimy, bitter
  works: taste/tasted of summer, burst/burst with colour, wake/woke up every taste bud, fill/filled {me} up
  fails: drown/drowned in dressing, taste/tasted of the fridge, leave/left {me} hungry, hide/hid one lonely leaf
  where: under the seeds and nuts, with a squeeze of lemon, down to the last leaf, as a main course
bites = | {item}, {head}
  good: crisp, crunchy, fresh, moreish, golden, savoury, delicate, irresistible, mouth-watering
  bad: soggy, greasy, rubbery, bland, burnt, dry, limp, oily, undercooked
  works: burst/burst with flavour, vanish/vanished in minutes, melt/melted in the mouth, hit/hit the spot
  fails: taste/tasted reheated, drip/dripped with oil, fall/fell apart, arrive/arrived cold
  where: with the chilli dip, from the first bite, straight from the pan, down to the last crumb
""")

FILM_KINDS = parse_kinds(
    """
aspects: acting, acting, characters, plot, plot, score, pacing, look, dialogue, ending
modifiers: Danish, Polish, Korean, Brazilian, Italian, Irish, Turkish, Mexican, black-and-white, two-hour, old, new
heads: thriller, western, romance, courtroom drama, crime film, war film, spy film, road movie, ghost story, mystery
details: about a lighthouse keeper, about two brothers on a farm, about a missing violin, set in a mining town
aspects: acting, characters, plot, score, pacing, look, dialogue, ending
modifiers: Spanish, French, Canadian, Argentine, Swedish, Greek, low-budget, subtitled, recent, early, short
heads: comedy, heist film, costume drama, family drama, musical, sports film, fantasy, horror film, biopic, satire
details: about rival chess players, about a ferry captain, about a widow and her lodger, set on a night train
aspects: acting, characters, plot, score, pacing, look, dialogue, ending
modifiers: German, Dutch, Indian, Australian, Egyptian, Norwegian, Japanese, long, small, independent, animated
heads: adventure film, science-fiction film, disaster film, school comedy, coming-of-age film, pirate film, fairy tale
details: about a mapmaker, about three sisters and a boat, about a clockmaker, set in a mountain village
aspects: narration, narration, narration, score, pacing, photography, photography
modifiers: British, Chilean, Kenyan, ninety-minute, two-part, Portuguese, Belgian, television, feature-length, Austrian
heads: documentary, nature documentary, travel film, music documentary, history film
details: about deep-sea divers, about a closed shipyard, about migrating birds, about a village choir, about salt
""",
    _FILM,
)

RESTAURANT_KINDS = parse_kinds(
    """
aspects: soup, soup, soup, service, service, bill, room, mood, drinks, dessert, bread
modifiers: tomato, pumpkin, lentil, onion, leek, carrot, pea, beetroot, celery, parsnip, barley, bean
heads: soup, broth, stew
details: with a bread roll, with croutons, as a starter, off the lunch menu, without the cream
aspects: grill, grill, grill, sauce, service, bill, portions, room, drinks, dessert
modifiers: lamb, beef, turkey, chicken, pork, venison, veal, duck
heads: burger, kebab, roast, schnitzel, meatloaf, cutlet
details: with fried onions, with mashed potatoes, with green beans, off the set menu, with red cabbage
aspects: pasta, pasta, pasta, sauce, service, bill, portions, room, mood, drinks, dessert, bread
modifiers: mushroom, seafood, spinach, squash, asparagus, sausage, courgette, artichoke, ricotta, walnut
heads: risotto, lasagne, linguine, spaghetti, cannelloni
details: with grated cheese, with basil, off the board, as a main, to share
aspects: fish, fish, fish, sauce, service, bill, portions, room, mood, drinks, bread
modifiers: baked, grilled, poached, steamed, smoked, seared, pan-fried
heads: trout, cod, salmon, haddock, tuna, mackerel, sea bass, monkfish
details: with new potatoes, with fennel, with rice and peas, off the daily menu, with wild herbs
aspects: curry, curry, curry, bread, service, bill, portions, mood, drinks, dessert
modifiers: chickpea, prawn, cauliflower, potato, aubergine, okra, goat, coconut, jackfruit, mango
heads: curry, korma, biryani, masala
details: with rice, with two sorts of chutney, off the Sunday menu, with a flatbread, for two
aspects: bake, bake, bake, sauce, service, bill, room, mood, drinks, dessert
modifiers: anchovy, fennel, pepper, ham, salami, olive, broccoli, feta, chard, shallot
heads: pizza, tart, quiche, pie, flan
details: with a side salad, off the lunch menu, with capers, to share, with extra rosemary
aspects: salad, salad, salad, service, bill, portions, room, drinks, dessert, bread
modifiers: quinoa, halloumi, couscous, noodle, rice, cucumber, apple, radish, kale, pomegranate
heads: salad, bowl
details: with sunflower seeds, with a boiled egg, with avocado, without dressing, from the summer menu
aspects: bites, bites, bites, sauce, service, bill, portions, mood, drinks, dessert
modifiers: shrimp, corn, cheese, cabbage, vegetable, crab, pea, squid, plantain, tofu
heads: dumplings, tacos, fritters, croquettes, spring rolls
details: with a chilli dip, as a first course, to share, from the snack menu, with pickled ginger
""",
    _RESTAURANT,
)
