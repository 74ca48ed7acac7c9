"""Queries as people type them, in many phrasings, each with the rule that says which pictures answer it.

A rule is a list of sets of concepts; a picture answers the query if it shows at least one concept of each set. `nobody` is the
only negation: it is answered by pictures without people. A sentence such as "skip the ones with a dog" names what is to be
skipped, so its vector finds dogs: the SQL statement has to exclude them (`NOT coarse_match(...)`).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from painter import CONCEPTS


def _split(text: str) -> tuple[str, ...]:
    """Splits text into phrases at bars and line ends."""
    return tuple(phrase.strip() for line in text.strip().splitlines() for phrase in line.split("|"))


def _names(text: str) -> list[tuple[str, ...]]:
    """Splits names at semicolons, and the forms of each name at commas: bare, with article, plural."""
    return [tuple(form.strip() for form in name.split(",")) for name in text.split(";")]


# concept -> its names: bare, with article, plural. A name given twice is drawn twice as often.
NAMES = {
    "baby": _names(
        "baby, a baby, babies; baby, a baby, babies; infant, an infant, infants; newborn, a newborn, newborns"
    ),
    "child": _names("child, a child, children; kid, a kid, kids; youngster, a youngster, youngsters"),
    "adult": _names("adult, an adult, adults; grown-up, a grown-up, grown-ups; grownup, a grown up, grown ups"),
    "dog": _names("dog, a dog, dogs; dog, a dog, dogs; puppy, a puppy, puppies; doggy, a doggy, doggies"),
    "cat": _names("cat, a cat, cats; cat, a cat, cats; kitten, a kitten, kittens; kitty, a kitty, kitties"),
    "bird": _names("bird, a bird, birds; birdie, a birdie, birdies"),
    "cake": _names(
        "cake, a cake, cakes; birthday cake, a birthday cake, birthday cakes; birthday, a birthday, birthdays; "
        "candle, a cake with candles, candles on a cake; birthday party, a birthday party, birthday parties"
    ),
    "beach": _names(
        "beach, a beach, beaches; beach, the beach, beaches; seaside, the seaside, the seaside; "
        "seashore, the seashore, sandy beaches"
    ),
    "car": _names("car, a car, cars; car, a car, cars; automobile, an automobile, automobiles"),
    "bicycle": _names("bicycle, a bicycle, bicycles; bike, a bike, bikes; cycle, a cycle, cycles"),
    "tree": _names("tree, a tree, trees"),
    "snow": _names(
        "snow, snow, snow; snow, the snow, snow; winter, winter, winter scenes; snowy, a snowy day, snowy days"
    ),
    "flower": _names("flower, a flower, flowers; blossom, a blossom, blossoms; bloom, a bloom, blooms"),
    "boat": _names("boat, a boat, boats; ship, a ship, ships"),
    "house": _names("house, a house, houses; home, a home, homes; cottage, a cottage, cottages"),
    "balloon": _names("balloon, a balloon, balloons"),
}

# Names of several concepts -> (concepts, names).
GROUPS = {
    "people": (
        ("baby", "child", "adult"),
        _names("people, people, people; person, a person, persons; people, somebody, people; human, a human, humans"),
    ),
    "pet": (("dog", "cat"), _names("pet, a pet, pets")),
    "animal": (("dog", "cat", "bird"), _names("animal, an animal, animals")),
}

NOBODY = _split("""
    no people | nobody | without people | photos without people | pictures with no people
    no one in the picture | no person | nobody there | places without people | photos with nobody in them
""")
NOBODY_UNSEEN = _split("""
    no people in the photo | pictures without people | nobody in the picture
""")

# {s}: bare, {a}: with article, {p}: plural. In pairs, {t}, {b} and {q} are these forms of the second name.
TEMPLATES = _split("""
    {a} | {a} | {a} | {s} | {p} | {p} | {s} photos | {s} pictures | {s} photo | {s} pics | {s} images
    {s} in a picture | photos of {p} | photos of {a} | pictures of {a} | pictures of {p} | a photo of {a}
    a picture of {a} | a photo with {a} | photo with {p} | a picture with {a} | images of {p} | an image of {a}
    pics of {p} | all the {s} photos | all {s} photos | all my {s} pictures | all our {s} photos | all {p}
    all the {p} | find {a} | find {p} | find all the {s} photos | find all {s} photos | find all {p}
    find pictures of {p} | find photos with {a} | find me {a} | find every photo of {a} | show {p} | show me {p}
    show me {a} | show me all the {p} | show me all the {s} photos | show me the {s} pictures
    show me every picture with {a} | show all photos with {p} | search for {a} | search for {p} | search {s}
    looking for {p} | I am looking for {a} | I'm looking for photos of {p} | I want to see {p}
    I want all the photos with {a} | I need pictures of {a} | we want {p} | where is {a} | where are the {p}
    the {s} | the {p} | our {s} | my {s} | some {p} | any {p} | {a} in the picture | {a} in a photo
    {p} in the photos | {a} please | {p}, please | give me all {s} photos | give me {p}
    every photo with {a} in it | every {s} | each picture with {a} | any photos of {a}?
    do we have pictures of {p}? | do you have {a}? | are there any {p}? | is there {a}? | the ones with {a}
    the ones with {p} | the one with the {s} | those with {a} | everything with {a} | skip the ones with {a}
    skip the ones with {p} | leave out the {s} photos | hide pictures of {p} | remove the {p} | only {p}
    {p} only | just {p} | mostly {p} | snapshots of {p} | a snapshot of {a} | photographs of {p}
    a photograph of {a} | an album of {p} | can you find {a} | can you show me {p} | please show the {p}
    please find all {s} photos | which photos have {a} | which pictures show {p} | list everything with {a}
    photos that show {a} | pictures showing {p} | there is {a} | here is {a} | this is {a} | we saw {a}
    look, {a} | a nice picture of {a} | good photos of {p} | my favourite {s} photos | old photos of {a}
    a drawing of {a} | a scene with {a} | family photos with {a} | {s} album | holiday pictures with {a}
    photos from the day with {a} | open the {s} pictures
""")
TEMPLATES_UNSEEN = _split("""
    photos where there is {a} | photos in which {a} can be seen | could you show me the ones that have {a}
    I'd like to see {p} | get me every {s} picture | is there {a} anywhere? | memories with {a}
    pictures that contain {p} | exclude everything with {a} | let me look at the {p}
    how many photos have {a} in them
""")

PAIRS = _split("""
    {a} and {b} | {a} and {b} | {a} with {b} | {a} together with {b} | photos of {a} and {b}
    a photo of {a} with {b} | show me {a} with {b} | show me {p} and {q} | find all photos with {a} and {b}
    both {a} and {b} | {p} and {q} | {p} with {q} | pictures with {a} as well as {b} | {s} and {t}
    {s} with {t} | {s} {t} | {a}, {b} | {a} next to {b} | find {a} and {b} | pictures of {p} with {q}
    all the photos with {a} and {b} | I want {a} and {b} in one picture | the {s} and the {t}
    my {s} with the {t}
""")
PAIRS_UNSEEN = _split("""
    {a} beside {b} | photos where {a} is with {b} | the ones with both {a} and {b}
""")
PLACES = {
    "beach": _split("""
        {a} on the beach | {a} at the beach | {p} on the beach | {p} at the seaside | {a} by the sea
        photos of {a} on the beach | show me {p} at the beach | the {s} on the beach | our {s} at the seaside
    """),
    "snow": _split("""
        {a} in the snow | {p} in the snow | {a} in winter | {p} in winter | photos of {a} in the snow
        show me {p} in the snow | the {s} in the snow | our {s} in winter
    """),
}
PLACES_UNSEEN = {
    "beach": _split("""
        pictures of {p} by the beach
    """),
    "snow": _split("""
        {a} out in the snow
    """),
}

# Words that say nothing about the contents of a picture. Training puts them at random around the names, so that the model
# learns to recognise the name in a sentence.
FILLERS = (
    "the this that these those all any some many most my our your his her their its in on at of for from to by near"
    " there here where when which who what why how can could would should will may might must do does did is are was"
    " were be been being have has had having get gets got see sees saw seen look looks show shows showing find found"
    " give take took want wanted like liked love need please just maybe really also again now today yesterday ever"
    " always never mind photo photos picture pictures image images shot shots frame one ones anything something"
    " everything somewhere time day week year old new good nice best great first last few lots bunch pile set me us you"
    " I we they it he she and so or but then than very too quite still let's I'd I've we've it's that's there's"
).split()

# Instructions given with queries. None means the recipe's default.
INSTRUCTIONS = (None,) * 12 + (
    "Find the photos that match.", "Retrieve images for the query.", "Search the photo album.",
    "Represent the query for image search.",
)  # fmt: skip

Rule = tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Query:
    text: str
    rule: Rule
    nobody: bool = False
    instruction: str | None = None

    def answered_by(self, concepts: frozenset[str]) -> bool:
        if self.nobody:
            return not concepts & {"baby", "child", "adult"}
        return all(concepts & wanted for wanted in self.rule)


def _polish(text: str, rng: Random) -> str:
    """Adds capitals and final punctuation at random, as people use them."""
    style = rng.random()
    if style < 0.12:
        text = text[0].upper() + text[1:]
    elif style < 0.15:
        text = text.upper()
    if rng.random() < 0.08 and text[-1].isalpha():
        text += rng.choice(".!?")
    return text


def _called(concept: str) -> tuple[frozenset[str], list[tuple[str, ...]]]:
    if concept in GROUPS:
        concepts, names = GROUPS[concept]
        return frozenset(concepts), names
    return frozenset([concept]), NAMES[concept]


def _strew(names: list[str], rng: Random) -> str:
    """The names in this order, with random filler words before, between and after them."""
    words = rng.choices(FILLERS, k=rng.randint(0, 4))
    for i, name in enumerate(names):
        words.append(name)
        words += rng.choices(FILLERS, k=rng.randint(0, 3) if i + 1 == len(names) else rng.randint(1, 2))
    return " ".join(words)


def single(concept: str, rng: Random, *, unseen: bool = False, loose: bool = False) -> Query:
    """A query for one concept or group: in a phrasing of training, in one that only the evaluation uses (`unseen`), or among
    random words (`loose`)."""
    wanted, names = _called(concept)
    bare, article, plural = rng.choice(names)
    if loose:
        return Query(_polish(_strew([rng.choice((bare, article, plural))], rng), rng), (wanted,))
    template = rng.choice(TEMPLATES_UNSEEN if unseen else TEMPLATES)
    text = template.format(s=bare, a=article, p=plural)
    return Query(
        text if unseen else _polish(text, rng), (wanted,), instruction=None if unseen else rng.choice(INSTRUCTIONS)
    )


def pair(one: str, other: str, rng: Random, *, unseen: bool = False, loose: bool = False) -> Query:
    """A query for two concepts in one picture; `unseen` and `loose` have the same meaning as in `single`."""
    if one in PLACES:
        one, other = other, one
    (wanted, names), (also, others) = _called(one), _called(other)
    s, a, p = rng.choice(names)
    t, b, q = rng.choice(others)
    if loose:
        return Query(_polish(_strew([rng.choice((s, a, p)), rng.choice((t, b, q))], rng), rng), (wanted, also))
    if other in PLACES and one not in PLACES and rng.random() < 0.6:
        template = rng.choice((PLACES_UNSEEN if unseen else PLACES)[other])
    else:
        template = rng.choice(PAIRS_UNSEEN if unseen else PAIRS)
    text = template.format(s=s, a=a, p=p, t=t, b=b, q=q)
    return Query(
        text if unseen else _polish(text, rng),
        (wanted, also),
        instruction=None if unseen else rng.choice(INSTRUCTIONS),
    )


def nobody(rng: Random, *, unseen: bool = False) -> Query:
    text = rng.choice(NOBODY_UNSEEN if unseen else NOBODY)
    return Query(text if unseen else _polish(text, rng), (), nobody=True)


def corpus(count: int, seed: int = 0) -> list[str]:
    """The phrases on which the tokenizer is trained."""
    rng = Random(f"corpus {seed}")
    lines = []
    names = list(CONCEPTS) + list(GROUPS)
    for _ in range(count):
        lines.append(single(rng.choice(names), rng).text)
        lines.append(pair(*rng.sample(CONCEPTS, 2), rng).text)
        lines.append(single(rng.choice(names), rng, loose=True).text)
    return lines + list(NOBODY) + [i for i in INSTRUCTIONS if i]
