"""Documents of ten to twenty short sentences about people of one place, with a question about one of them.

Each document is drawn from its own number alone. Four or five people have two or three facts each; a fact of the same
kind may be told of several of them, so that words shared with the question do not point at one sentence. After a
person's first sentence the others say "she" or "he" half of the time: those share no name with the question. Sentences
about the place stand between. `evidence` is the sentence that tells the fact asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

ATTRIBUTES: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    # the question, how the answer begins, how the fact is told, and what may be told
    "job": (
        "What does {name} work as?",
        "{name} works as a",
        ("{who} works as a {what} near the station.", "{who} has worked as a {what} for years."),
        ("baker", "nurse", "carpenter", "teacher", "plumber", "painter", "tailor", "gardener"),
    ),
    "pet": (
        "Which animal does {name} keep at home?",
        "At home {name} keeps a",
        ("{who} keeps a small {what} at home.", "At home {who} keeps an old {what}."),
        ("parrot", "rabbit", "turtle", "goat", "snake", "cat", "hamster", "dog"),
    ),
    "instrument": (
        "Which instrument does {name} play?",
        "{name} plays the",
        ("{who} plays the {what} every evening.", "On Sundays {who} plays the {what} with friends."),
        ("violin", "piano", "trumpet", "flute", "guitar", "drums", "cello", "harp"),
    ),
    "origin": (
        "Which city does {name} come from?",
        "{name} came here from",
        ("{who} came here from {what} by train.", "Long ago {who} moved here from {what}."),
        ("Lisbon", "Oslo", "Cairo", "Prague", "Boston", "Madrid", "Athens", "Dublin"),
    ),
    "food": (
        "What does {name} like to eat most?",
        "Most of all {name} likes to eat",
        ("{who} likes to eat {what} most of all.", "Most of all {who} likes to eat {what}."),
        ("soup", "rice", "pancakes", "fish", "noodles", "cheese", "apples", "bread"),
    ),
    "colour": (
        "What colour is the car of {name}?",
        "The car of {name} is",
        ("{who} drives a {what} car to work.", "The car that {who} drives is {what}."),
        ("red", "green", "blue", "white", "black", "yellow", "purple", "brown"),
    ),
    "sport": (
        "Which sport does {name} train?",
        "{name} trains",
        ("{who} trains {what} twice a week.", "Twice a week {who} trains {what} in the park."),
        ("tennis", "boxing", "rowing", "judo", "hockey", "fencing", "golf", "football"),
    ),
}
WOMEN = ("Maria", "Anna", "Julia", "Clara", "Nina", "Helen", "Laura", "Eva")
MEN = ("Peter", "Thomas", "Daniel", "Martin", "Oscar", "Simon", "Victor", "Paul")
PLACE = (
    "The market opens at eight on Saturdays.",
    "A narrow river runs behind the old church.",
    "Most of the houses here have steep roofs.",
    "In winter the road over the hill is closed.",
    "The library was painted again last summer.",
    "Every June there is a fair by the lake.",
    "Two buses a day stop in front of the school.",
    "The bridge is older than the town hall.",
)


@dataclass(frozen=True)
class Document:
    """One document with its question.

    Attributes:
        index: what it was drawn from.
        sentences: in their order.
        question: about one of the people.
        beginning: of the answer, which the prompt gives.
        attribute: what is asked, a name of ATTRIBUTES.
        expected: the word that answers it.
        evidence: the sentence that tells it.
        pronoun: whether that sentence says "she" or "he".
    """

    index: int
    sentences: tuple[str, ...]
    question: str
    beginning: str
    attribute: str
    expected: str
    evidence: int
    pronoun: bool

    @property
    def text(self) -> str:
        """The sentences as one paragraph."""
        return " ".join(self.sentences)

    @property
    def prompt(self) -> str:
        """The document, the question and the answer's beginning."""
        return f"{self.text}\n\nQuestion: {self.question}\nAnswer: {self.beginning}"


def document(index: int) -> Document:
    """The document of that number, the same at every call."""
    random = Random(f"segments {index}")
    names = random.sample([(name, "she") for name in WOMEN] + [(name, "he") for name in MEN], random.randint(4, 5))
    told = {attribute: random.sample(values, len(values)) for attribute, (_, _, _, values) in ATTRIBUTES.items()}
    runs: list[list[tuple[str, tuple[str, str, str, bool] | None]]] = [
        [(text, None)] for text in random.sample(PLACE, 2)
    ]
    for name, pronoun in names:
        run = []
        for order, attribute in enumerate(random.sample(list(ATTRIBUTES), random.randint(2, 3))):
            what, short = told[attribute].pop(), order > 0 and random.random() < 0.5
            text = random.choice(ATTRIBUTES[attribute][2]).format(who=pronoun if short else name, what=what)
            run.append((text[0].upper() + text[1:], (name, attribute, what, short)))
        runs.append(run)
    random.shuffle(runs)
    lines = [line for run in runs for line in run]
    evidence = random.choice([place for place, (_, fact) in enumerate(lines) if fact is not None])
    fact = lines[evidence][1]
    assert fact is not None
    name, attribute, what, short = fact
    sentences = tuple(text for text, _ in lines)
    question, beginning = (text.format(name=name) for text in ATTRIBUTES[attribute][:2])
    return Document(index, sentences, question, beginning, attribute, what, evidence, short)
