"""Made-up talk to hide a conversation in: everyday chats among people who do not exist, the same for the same number.

Sentences are patterns filled with words that were written down for this; none comes from a data set.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

SEED = 20_260_521
TURNS = (8, 24)  # of one chat, at least and at most
BEGIN, DAYS = datetime(2022, 1, 3, 7, tzinfo=UTC), 1_200

NAMES = """Aurelio Beatrix Casimir Dagny Edda Florian Gudrun Hakon Ilse Jarek Kasia Ludmila Matteo Nuria Odalys
Piotr Quirin Rosalind Sunniva Tadeusz Ursula Viggo Wanda Xenia Ysolde Zoltan Anselm Birgit Cosima Detlef Elodie
Fridolin Greta Henrike Ivo Jasna Klemens Lioba Mirko Nadja""".split()
TOWNS = """Aarhus Bergen Coimbra Delft Erfurt Faro Gdansk Haarlem Innsbruck Jena Kaunas Leiden Maribor Namur
Olomouc Porto Riga Siena Tartu Uppsala Vigo Wroclaw Ystad Zadar Trieste Bruges Cork Dundee Graz Lund""".split()
THINGS = """bicycle kettle ladder lantern mattress oven parcel quilt radiator sofa tent umbrella violin wardrobe
printer suitcase blender bookshelf camera compass drill fridge guitar hammock iron jacket kayak mirror notebook
oboe passport raincoat saddle telescope trombone vacuum wallet xylophone yoghurt zither accordion bench candle
doormat easel faucet globe harp inkwell jug keyboard lamp microscope napkin orchid pillow rake sewing-machine
toaster vase wheelbarrow""".split()
PLACES = """airport bakery cathedral dentist embassy ferry garage harbour allotment laundry library market
notary observatory pharmacy quarry reservoir stadium theatre university vineyard workshop aquarium barber cinema
depot festival greenhouse hostel ice-rink""".split()
SYLLABLES = (
    "ba bru cle dan dre fi fro gal hes jo kal lim mor na nel or pas pri qua ros sel tam tri u vel wen yar zo".split()
)
DOINGS = """repaired sold borrowed returned painted weighed wrapped lost found measured ordered cancelled
cleaned replaced photographed insured polished stored shipped labelled""".split()
DISHES = """barley-soup cabbage-rolls dumplings eel flatbread goulash herring jam-tarts kale-stew lentils
mussels noodles omelette pancakes quince-jelly risotto sauerkraut trout waffles beetroot-salad""".split()
MATTERS = [
    f"the {matter}"
    for matter in """tax form, insurance claim, heating bill, parking permit, rental contract, train strike, committee
minutes, chess club, choir rehearsal, roof inspection, language exam, data migration, quarterly
report, vaccination card, noise complaint, water meter, printing deadline, seating plan, recycling
calendar, harvest supper, server upgrade, translation job, lost luggage, warranty""".replace("\n", " ").split(", ")
]
FEELINGS = "relieved annoyed curious proud tired nervous delighted doubtful impatient calm".split()
TIMES = [
    "before breakfast",
    "last Tuesday",
    "on the way home",
    "during the storm",
    "at noon",
    "the day before",
    "over the weekend",
    "in the evening",
    "a fortnight ago",
    "just now",
]
PATTERNS = (
    "I {doing} the {thing} {time}, and {name} helped me carry it to the {place}.",
    "Did you hear about {matter}? {name} from {town} says it will take {number} days.",
    "We are meeting at the {place} in {town} at {hour}, bring the {thing} please.",
    "Honestly I feel {feeling} about {matter}, it cost us {number} euros.",
    "For supper I made {dish}; there is enough left for {number} people.",
    "The {thing} that {name} {doing} is still at the {place}.",
    "Somebody {doing} my {thing} in {town} {time}, can you believe it?",
    "Could you ask {name} whether {matter} is settled? I am {feeling}.",
    "My train to {town} leaves at {hour}, so I will be at the {place} rather late.",
    "That sounds good, I would rather have {dish} than {dish2} anyway.",
    "We need {number} chairs and one {thing} for the evening at the {place}.",
    "{name} moved from {town} to {town2} because of {matter}.",
    "I was {feeling} when the {thing} broke, but the {place} {doing} it {time}.",
    "No problem at all, I will see to {matter} tomorrow.",
    "What did the {place} say about the {thing}?",
    "They want {number} copies by {hour}, which has to do with {matter}.",
    "The firm is called {coined}, and {name} says their {thing} is better than the one from {coined2}.",
    "I have started to read {coined} by {name} {coined2}, chapter {number} is set in {town}.",
    "Our new neighbour, {name} {coined}, keeps a {thing} in the garden behind the {place}.",
)


def unrelated(count: int, seed: int = SEED) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield chats of `count` messages in all, each with the name of its session; messages bear ids and times."""
    made, number = 0, 0
    while made < count:
        draw = random.Random(f"{seed}/{number}")
        size = min(draw.randint(*TURNS), count - made)
        yield f"hidden/{number}", list(_chat(draw, number, size))
        made, number = made + size, number + 1


def _chat(draw: random.Random, number: int, size: int) -> Iterator[dict[str, Any]]:
    speakers = draw.sample(NAMES, 2)
    at = BEGIN + timedelta(days=draw.randrange(DAYS), minutes=draw.randrange(900))
    for place in range(size):
        at += timedelta(seconds=draw.randint(10, 240))
        yield {"name": speakers[place % 2], "content": _turn(draw), "at": at, "id": f"hidden/{number}/{place}"}


def _turn(draw: random.Random) -> str:
    return " ".join(_sentence(draw) for _ in range(draw.choice((1, 1, 2, 2, 3))))


def _coined(draw: random.Random) -> str:
    """Return a name that nobody bears: so the vocabulary grows with the talk, as that of a language does."""
    return "".join(draw.choice(SYLLABLES) for _ in range(draw.randint(2, 4))).capitalize()


def _sentence(draw: random.Random) -> str:
    return draw.choice(PATTERNS).format(
        doing=draw.choice(DOINGS),
        thing=draw.choice(THINGS),
        name=draw.choice(NAMES),
        place=draw.choice(PLACES),
        matter=draw.choice(MATTERS),
        town=draw.choice(TOWNS),
        town2=draw.choice(TOWNS),
        feeling=draw.choice(FEELINGS),
        dish=draw.choice(DISHES),
        dish2=draw.choice(DISHES),
        number=draw.randint(2, 90),
        hour=f"{draw.randint(7, 21)}:{draw.choice(('00', '15', '30', '45'))}",
        time=draw.choice(TIMES),
        coined=_coined(draw),
        coined2=_coined(draw),
    )
