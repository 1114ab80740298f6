"""The world of the stories: heroes, and four tables in which one fact decides another."""

Table = tuple[dict[str, str], ...]


def parse_table(text: str) -> Table:
    """The rows of a table by the names in its first line; ` | ` parts the columns."""
    names, *rows = (line.split(" | ") for line in text.strip().splitlines())
    return tuple(dict(zip(names, row, strict=True)) for row in rows)


#: names and their pronouns
HEROES: Table = tuple(
    {"name": name, "she": she, "her": her}
    for she, her, names in (
        (
            "she",
            "her",
            "Ada Bess Clover Della Edda Fern Greta Hanna Ines Juno Kaya Lotte Mira Nell Olive Petra Runa Sanna Tilda",
        ),
        (
            "he",
            "him",
            "Alby Bruno Caspar Dario Emil Felix Gus Hugo Ivo Jory Kit Linus Milo Noel Otto Pip Quentin Rafe Silas",
        ),
    )
    for name in names.split()
)

#: each trade has its tool
TRADES = parse_table("""
trade | tool
apothecary | pestle
baker | rolling pin
basket maker | bodkin
beekeeper | smoke pot
blacksmith | tongs
boatbuilder | adze
bookbinder | bone folder
brewer | mash paddle
candlemaker | dipping rack
carpenter | spokeshave
carter | tow chain
clockmaker | eyeglass
cobbler | awl
cooper | mallet
dyer | ladle
farrier | rasp
fiddler | tuning fork
fisher | landing net
gardener | trowel
glassblower | blowpipe
goldsmith | pincers
lamplighter | brass snuffer
locksmith | skeleton key
map maker | compass
mason | plumb line
miller | grain scoop
painter | palette knife
potter | clay knife
printer | ink roller
saddler | stitching clamp
shepherd | crook
stargazer | telescope
tailor | shears
thatcher | reed hook
weaver | shuttle
woodcutter | axe
""")

#: each village has its wise neighbour
VILLAGES = parse_table("""
village | neighbour
Ambleford | Old Wenna
Appledown | Widow Tansy
Birchwick | Uncle Perrin
Brambleton | Granny Sorrel
Coldbrook | Brother Anselm
Cragfoot | Mother Quill
Doveney | Captain Bram
Dunmere | Aunt Marigold
Eastling | Old Cuthbert
Elderby | Widow Larkin
Fennhollow | Uncle Barnaby
Foxhaven | Granny Pearl
Gorsely | Brother Ambrose
Greywater | Mother Hobday
Hazelcombe | Captain Thorne
Heronsea | Aunt Philippa
Ivydale | Old Jessamy
Kingsbarrow | Widow Crane
Larkham | Uncle Osric
Mossgate | Granny Bell
Netherfold | Brother Lucas
Oatley | Mother Ginger
Pebbleton | Captain Rook
Quernstow | Aunt Dorcas
Rookhurst | Captain Finch
Saltby | Old Tobias
Thornwell | Widow Merrow
Underhill | Uncle Fitch
Willowmere | Granny Plum
Yarrowby | Mother Agnes
""")

#: each time of year puts an obstacle on the road, and has a way past it
SEASONS = parse_table("""
season | obstacle | way
apple picking time | locked orchard | through a gap in the fence
blossom time | swarming bees | under a fine veil
bonfire week | burning stubble | along a wet ditch
carnival week | masked parade | in a paper mask
harvest time | field of uncut barley | along the hedge
haymaking week | loaded hay wagons | by the water meadow
lambing time | jostling flock | along the top of a wall
leaf fall | hidden bog | over the stepping stones
midsummer | ring of dancers | with a hop and a curtsy
midwinter | great snowdrift | on borrowed skis
mushroom season | dark wood | by the old cart track
nutting time | steep quarry | with a knotted rope
ploughing time | stubborn bull | behind a wooden hurdle
sheep shearing week | barking dogs | with a ham bone
autumn fair week | noisy market | by a back alley
the first thaw | flooded ford | by the high bridge
goose fair week | angry gander | with a handful of corn
the month of great heat | dusty moor | under a straw parasol
the week of hard frost | icy hill | with sacking round both boots
herring season | tangled nets | in a rowing boat
the hungry month | prowling wolf | with a flaming torch
the season of drought | stranded ferry | across the dry river bed
the rainy season | muddy lane | on tall stilts
the week of high tides | drowned causeway | on a tall horse
the time of fog | misty marsh | behind a bright lantern
the time of gales | swaying rope bridge | on hands and knees
the turn of the year | barred toll gate | with a silver penny
the week of storms | fallen oak | by a narrow fox path
""")

#: each thing that is amiss has its remedy
TROUBLES = parse_table("""
thing | state | mend | mended | remedy
bread oven | has gone cold | relight | relit | dry heather
cheese press | has warped | straighten | straightened | hot sand
church bell | has cracked | mend | mended | melted tin
church organ | wheezes | mend | mended | a strip of kidskin
cider cask | drips | seal | sealed | chalk and tallow
dance fiddle | has split | mend | mended | fish glue
festival kite | hangs in the elm | free | freed | a hooked cane
great drum | has torn | patch | patched | a goatskin
harbour lamp | has gone dark | relight | relit | beeswax
harvest cart | has lost a wheel | mend | mended | an ash spoke
iron gate | will not open | free | freed | warm vinegar
mail coach | is stuck in the mire | free | freed | straw mats
market fountain | has clogged | clear | cleared | willow rods
mill wheel | has jammed | free | freed | goose grease
music box | has fallen silent | mend | mended | clove oil
old well | has turned bitter | sweeten | sweetened | a basket of charcoal
parish map | has faded | restore | restored | walnut ink
prize hen | has stopped laying | cheer | cheered | a bowl of warm mash
queen bee | has flown away | lure | lured | a drop of honey
river barge | has sprung a leak | seal | sealed | pine pitch
rose bush | has withered | revive | revived | cold tea
runaway goat | eats the washing | lure | lured | a lump of salt
school roof | leaks | patch | patched | birch bark
school stove | smokes | clear | cleared | a holly branch
signpost | has fallen over | raise | raised | a barrel of stones
sundial | leans to one side | straighten | straightened | slate chips
tavern door | creaks all night | quieten | quietened | butter
village banner | has been torn | patch | patched | red silk
village clock | has stopped | mend | mended | a copper pin
water pump | has run dry | mend | mended | a leather washer
weathercock | has rusted | free | freed | linseed oil
wedding ring | lies in the pond | raise | raised | a horseshoe magnet
wooden footbridge | sags | raise | raised | oak wedges
""")
