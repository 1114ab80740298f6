"""What product reviews judge, and the words that fit each thing judged."""

from triplex.data.review_words import parse_aspects, parse_kinds

_ASPECTS = parse_aspects("""
battery = battery, battery pack, spare battery | two batteries
  good: reliable, long-lasting, dependable, powerful, enduring, trusty, durable
  bad: unreliable, faulty, feeble, short-lived, temperamental, hopeless, defective
  works: last/lasted all week, hold/held a full charge, outlive/outlived every rival, recharge/recharged fast
  fails: die/died within a week, overheat/overheated, drain/drained overnight, refuse/refused to charge
  where: in cold weather, on long days, under heavy load, after a month of use
motor = motor, drive, mechanism | moving parts
  good: powerful, smooth, tireless, dependable, sturdy, well-built, vigorous
  bad: feeble, underpowered, jerky, sluggish, deafening, rough, fragile
  works: handle/handled every job, run/ran without a hitch, start/started at the first touch
  fails: stall/stalled under load, smell/smelled of burning, rattle/rattled, cut/cut out without warning
  where: at full speed, on the lowest setting, after an hour of work, under pressure
controls = control panel, main switch, timer, dial | buttons, controls, switches
  good: intuitive, responsive, precise, logical, well-placed, sensible, user-friendly
  bad: fiddly, confusing, unresponsive, sticky, awkward, illogical, imprecise
  works: respond/responded at once, make/made sense at first glance, work/worked first time
  fails: jam/jammed, need/needed three tries, confuse/confused the whole family, come/came loose
  where: even with wet hands, in the dark, after months of use, for a first-time user
parts = lid, filter, jug, drip tray | removable parts, attachments
  good: sturdy, well-fitting, practical, durable, handy, washable, rustproof
  bad: flimsy, leaky, brittle, ill-fitting, fiddly, grimy, warped
  works: come/came off with ease, wash/washed up in a minute, fit/fitted like a glove, survive/survived the dishwasher
  fails: leak/leaked, crack/cracked, trap/trapped old crumbs, come/came loose, rust/rusted
  where: in daily use, after a dozen uses, for everyday cooking, in a small kitchen
manual = manual, instruction booklet, quick-start guide, handbook | instructions, diagrams
  good: helpful, readable, thorough, well-illustrated, concise, understandable, instructive
  bad: confusing, vague, garbled, incomplete, cryptic, misleading, unreadable
  works: answer/answered every question, lead/led {me} through each step, save/saved {me} an hour
  fails: skip/skipped the crucial steps, leave/left {me} guessing, contradict/contradicted the labels
  where: from the first page on, for a beginner, in every language, on the tricky steps
delivery = delivery, shipping, courier, delivery service
  good: prompt, swift, punctual, reliable, speedy, professional, efficient
  bad: slow, tardy, careless, unreliable, disorganised, sloppy, clueless
  works: keep/kept its promises, beat/beat the estimate by a day, keep/kept {me} informed
  fails: drag/dragged on for weeks, miss/missed two agreed dates, leave/left the box in the rain
  where: from order to doorstep, in the holiday rush, over a long distance, on both occasions
price = price, asking price, sale price
  good: fair, reasonable, modest, sensible, affordable, moderate, justified
  bad: steep, excessive, inflated, unreasonable, shocking, unjustified, exorbitant
  works: match/matched the quality, suit/suited {my} budget, beat/beat every rival, stay/stayed within reason
  fails: make/made {me} gasp, come/came as a shock, exceed/exceeded all reason, empty/emptied the wallet
  where: for the quality, for what {I} got, next to other brands, for a {head}
build = finish, build quality, workmanship, construction | joints, edges, corners
  good: solid, sturdy, robust, durable, well-made, seamless, neat
  bad: flimsy, brittle, shoddy, wobbly, crude, uneven, second-rate
  works: survive/survived a fall, feel/felt built to last, shrug/shrugged off scratches
  fails: crack/cracked, bend/bent, chip/chipped, creak/creaked, come/came apart
  where: after weeks of daily use, after a few knocks, at close range, in this price class
hinge = hinge, latch, clasp, locking mechanism | hinges, catches
  good: sturdy, smooth, secure, dependable, well-oiled, solid, precise
  bad: wobbly, squeaky, rusty, flimsy, rickety, crooked, unreliable
  works: click/clicked shut every time, move/moved without effort, stay/stayed firmly in place
  fails: squeak/squeaked, jam/jammed, snap/snapped, pinch/pinched {my} fingers
  where: after a hundred openings, in damp weather, under full load, on both sides
sound = sound, bass, tone, audio quality | high notes, voices
  good: rich, crisp, balanced, detailed, natural, melodious, lifelike
  bad: tinny, muffled, distorted, harsh, boomy, hollow, fuzzy
  works: fill/filled the whole room, bring/brought old recordings to life, carry/carried across the garden
  fails: crackle/crackled, hum/hummed, cut/cut out, hurt/hurt {my} ears
  where: at low volume, at full volume, across the room, on spoken programmes
screen = screen, display, image, picture quality | colours, letters
  good: sharp, crisp, vivid, readable, brilliant, faithful, lifelike
  bad: blurry, grainy, washed-out, smudged, faint, hazy, illegible
  works: show/showed every detail, please/pleased the eye, stand/stood out at once
  fails: flicker/flickered, fade/faded within weeks, strain/strained {my} eyes, vanish/vanished in sunlight
  where: in bright sunlight, from every angle, at night, on the train
software = software, companion app, start-up routine | menus, settings, updates
  good: stable, intuitive, fast, well-designed, flexible, tidy, user-friendly
  bad: buggy, slow, cluttered, confusing, unstable, outdated, clumsy
  works: load/loaded in a second, run/ran without a crash, make/made life easier
  fails: crash/crashed, wipe/wiped {my} data, demand/demanded endless passwords, slow/slowed everything down
  where: on an old phone, out of the box, on a single bar of signal, after the third restart
comfort = seat, cushion, backrest, padding | armrests, cushions
  good: comfortable, supportive, plush, springy, luxurious, ergonomic, adjustable
  bad: lumpy, saggy, scratchy, uncomfortable, narrow, rock-hard, wobbly
  works: support/supported the back, invite/invited a long nap, ease/eased every ache
  fails: sag/sagged, make/made sitting painful, slip/slipped out of place, leave/left {me} sore
  where: after a whole day, through long evenings, from the first minute, for a tall person
assembly = assembly, setup, initial installation
  good: easy, quick, painless, straightforward, simple, effortless, fuss-free
  bad: tedious, fiddly, exhausting, confusing, frustrating, complicated, maddening
  works: take/took only ten minutes, go/went without a hitch, give/gave {me} confidence
  fails: take/took a whole afternoon, demand/demanded four hands, fray/frayed {my} nerves, end/ended in chaos
  where: for one person, with the tools provided, on a living-room floor, step by step
fabric = fabric, cloth, outer layer, stitching | seams
  good: breathable, durable, hard-wearing, luxurious, well-woven, robust, supple
  bad: scratchy, flimsy, coarse, leaky, shabby, itchy, threadbare
  works: keep/kept {me} dry, resist/resisted every stain, feel/felt good to the touch, stand/stood up to daily wear
  fails: tear/tore, let/let the rain through, fray/frayed, lose/lost colour
  where: in all weathers, after one season, on long trips, after a day in the rain
straps = main zip, buckle, shoulder strap | straps, zips, buckles
  good: sturdy, secure, adjustable, reliable, well-sewn, robust, dependable
  bad: flimsy, fragile, badly-sewn, awkward, ill-fitting, unreliable, feeble
  works: hold/held under full load, stay/stayed in place, survive/survived two flights
  fails: snap/snapped, come/came loose, break/broke on day one, need/needed constant care
  where: under heavy load, on mountain paths, after a dozen journeys, at the airport
fit = fit, cut, collar, waist | sleeves, shoulders
  good: flattering, comfortable, neat, true-to-size, elegant, well-tailored, forgiving
  bad: baggy, awkward, shapeless, uneven, unflattering, lopsided, constricting
  works: sit/sat just right, flatter/flattered the figure, earn/earned {me} compliments
  fails: ride/rode up, pinch/pinched, bunch/bunched up, make/made {me} look shapeless
  where: across the back, after the first wash, from morning to night, in the mirror
coating = coating, base, cooking surface
  good: durable, hard-wearing, smooth, scratch-proof, flawless, robust, easy-to-clean
  bad: sticky, uneven, patchy, fragile, flaky, pitted, stained
  works: release/released every egg, spread/spread the heat evenly, wipe/wiped clean
  fails: burn/burned everything, peel/peeled, warp/warped, ruin/ruined {my} dinner
  where: over a high flame, after a dozen dinners, with a drop of oil, around the edges
play = gameplay, first round, theme, scoring system | rounds, challenges
  good: exciting, absorbing, varied, clever, addictive, balanced, entertaining
  bad: tedious, repetitive, unfair, dull, chaotic, monotonous, drawn-out
  works: keep/kept everyone at the table, make/made the whole family laugh, reward/rewarded clever moves
  fails: drag/dragged, end/ended in arguments, bore/bored the children, depend/depended on luck alone
  where: with four players, with young children, for a family evening, to the very end
pieces = box, artwork, storage tray | pieces, cards, figures
  good: sturdy, colourful, well-made, detailed, charming, beautiful, tactile
  bad: flimsy, drab, shoddy, faded, misprinted, warped, lacklustre
  works: delight/delighted the children, survive/survived small hands, please/pleased the eye
  fails: fall/fell apart, arrive/arrived damaged, look/looked nothing like the photo
  where: after a dozen games, up close, right out of the wrapping, down to the smallest detail
light = light, beam, glow, brightest setting
  good: uniform, steady, pleasant, gentle, generous, well-aimed, adjustable
  bad: dim, harsh, patchy, glaring, gloomy, murky, feeble
  works: reach/reached every corner, spare/spared {my} eyes, make/made reading easy
  fails: flicker/flickered, tire/tired {my} eyes, fade/faded within weeks, attract/attracted complaints
  where: on dark evenings, at close range, across the room, through the small hours
ride = ride, steering, handling | brakes, tyres, wheels
  good: smooth, responsive, reliable, precise, stable, safe, nimble
  bad: wobbly, bumpy, squeaky, unreliable, sluggish, jerky, dangerous
  works: inspire/inspired confidence, cope/coped with every hill, make/made commuting a joy
  fails: squeal/squealed, pull/pulled to one side, need/needed constant care, scare/scared {me}
  where: on long climbs, in wet weather, over cobbled streets, at top speed
blade = blade, cutting edge, steel
  good: sharp, keen, precise, rustproof, well-balanced, durable, razor-sharp
  bad: blunt, rusty, brittle, crooked, notched, useless, uneven
  works: glide/glided through everything, stay/stayed keen for weeks, leave/left clean cuts
  fails: chip/chipped, bend/bent, lose/lost all bite, snap/snapped, tear/tore instead of cutting
  where: with a light touch, after a month of use, straight out of the box, on thick material
grip = grip, handle
  good: comfortable, secure, ergonomic, non-slip, well-shaped, snug, smooth
  bad: slippery, awkward, splintery, uncomfortable, greasy, wobbly, ill-fitting
  works: sit/sat well in the hand, stay/stayed cool, absorb/absorbed every shock
  fails: slip/slipped, give/gave {me} blisters, come/came loose, make/made {my} hands ache
  where: with wet hands, for small hands, during long jobs, after an hour of work
""")

PRODUCT_KINDS = parse_kinds(
    """
aspects: battery, motor, motor, grip, manual, delivery, price, build
modifiers: cordless, rechargeable, twelve-volt, reconditioned, two-speed, brushless
heads: drill, sander, jigsaw, hedge trimmer, leaf blower, chainsaw
details: for the shed, for {my} workshop, to renovate the kitchen, for odd jobs around the house
aspects: controls, parts, parts, manual, delivery, price, build
modifiers: glass, steel, two-litre, black, ceramic, programmable, retro
heads: kettle, coffee maker, rice cooker, pressure cooker, hot plate, juicer, blender, food processor
details: for the office kitchen, for {my} first flat, as a wedding present, for the holiday cottage
aspects: motor, motor, controls, manual, delivery, price, build
modifiers: bagless, upright, 900-watt, canister, handheld
heads: vacuum cleaner, steam cleaner, floor polisher, carpet washer
details: for the stairs, for the whole house, to replace {my} broom, for a flat with two cats
aspects: sound, sound, controls, manual, delivery, price, build
modifiers: wireless, portable, vintage, solar, digital, waterproofed, pocket-sized
heads: radio, speaker, record player, clock radio, keyboard, cassette player
details: for the garage, for the bathroom shelf, to listen to the news, for {my} daily practice
aspects: screen, screen, software, battery, controls, delivery, price, build
modifiers: refurbished, ten-inch, second-hand, silver, entry-level, pre-owned
heads: tablet, e-reader, camera, smartwatch, laptop, phone, game console
details: for work trips, for {my} studies, to take on holiday, for reading recipes
aspects: comfort, comfort, assembly, delivery, price, build
modifiers: oak, green, leather, wicker, striped, high-backed, velvet
heads: armchair, office chair, sofa, rocking chair, garden chair, recliner
details: for the reading corner, for {my} home office, for the terrace, for the hallway
aspects: assembly, assembly, manual, delivery, price, build
modifiers: pine, walnut, white, corner, bamboo, four-shelf, flat-pack
heads: desk, bookcase, wardrobe, bed frame, coffee table, filing cabinet, shoe rack
details: for the spare room, for {my} new study, for the nursery, after the house move
aspects: straps, straps, fabric, fabric, delivery, price
modifiers: canvas, nylon, grey, forty-litre, roll-top, corduroy, leather
heads: backpack, rucksack, satchel, travel bag, laptop bag, holdall
details: for the daily commute, for a month of trains, for a walking holiday, to replace {my} school bag
aspects: hinge, hinge, grip, build, delivery, price
modifiers: metal, tin, hard-shell, lockable, aluminium, two-tier
heads: tool box, jewellery box, briefcase, lunch box, storage chest, instrument case
details: for the attic, for {my} collection of stamps, for the allotment, for {my} papers
aspects: fit, fit, fabric, fabric, delivery, price
modifiers: wool, cotton, linen, navy, hooded, checked, padded
heads: raincoat, jacket, coat, shirt, waistcoat, jumpsuit
details: for a wedding in May, for the winter, for {my} new job, to wear on the boat
aspects: fabric, fabric, assembly, manual, delivery, price
modifiers: three-person, dome, orange, pop-up, six-metre
heads: tent, awning, beach shelter, gazebo, party tent
details: for a week by the lake, for the village fete, for {my} first festival, for the back garden
aspects: coating, coating, grip, build, delivery, price
modifiers: cast-iron, copper, enamel, 28-centimetre, induction, deep
heads: frying pan, saucepan, wok, griddle, milk pan
details: for {my} new stove, for Sunday pancakes, to cook for six, for the camper van
aspects: play, play, pieces, manual, delivery, price
modifiers: cooperative, two-player, family, trivia, railway, farming
heads: board game, card game, dice game, strategy game, memory game
details: for the holidays, for {my} game night, for a rainy week, as a birthday present
aspects: ride, ride, grip, assembly, delivery, price, build
modifiers: folding, used, red, 24-inch, single-speed, blue
heads: bicycle, scooter, cargo bike, mountain bike, tricycle
details: for the school run, for the ride to work, for {my} Sunday tours, to explore the coast
aspects: blade, blade, grip, build, delivery, price
modifiers: stainless, Japanese-style, curved, hand-forged, long-handled
heads: pruning saw, hatchet, vegetable slicer, pizza cutter, cheese plane, hand saw
details: for the orchard, for {my} kitchen drawer, for the scout camp, to replace a borrowed tool
aspects: light, light, light, controls, build, delivery, price
modifiers: brass, dimmable, clip-on, solar-powered, adjustable-arm, paper
heads: desk lamp, floor lamp, bedside lamp, reading lamp, lantern
details: for the landing, for {my} evening reading, for the porch, for the sewing table
""",
    _ASPECTS,
)
