"""Texts for who brings none: of several lengths, no two equal. Pure."""

from __future__ import annotations

import random

COUNT = 4_000
SENTENCES = (1, 2, 6, 14)  # in a text, by turns, beside those that are a title alone

_SUBJECTS = (
    "The invoice", "A damaged parcel", "The second pump", "Our northern office", "The night train",
    "An older contract", "The water meter", "Every new colleague", "The museum's archive", "A borrowed bicycle",
    "The weekly report", "The bakery on the corner", "A spare key", "The bridge across the river",
    "The library's catalogue", "This year's harvest",
)  # fmt: skip
_VERBS = (
    "was replaced after", "is kept apart from", "depends on", "arrived two days before", "was measured against",
    "must be signed together with", "has little to do with", "can be ordered without", "is cheaper than",
    "was forgotten behind", "takes longer than", "should be read before",
)  # fmt: skip
_OBJECTS = (
    "the annual inspection", "a letter from the council", "the temperature in the hall", "the list of suppliers",
    "a change of the timetable", "the first snow of the season", "the warranty of the machine", "a call from the bank",
    "the plan that everybody agreed on", "the old stone wall", "the minutes of the last meeting",
    "a paragraph in the handbook", "the colour of the roof", "the ferry to the island",
)  # fmt: skip
_ENDS = (
    "which nobody had expected", "as the table on page {} shows", "and {} people asked why", "at a cost of {} euros",
    "because the form has {} fields", "since the rules of {} were changed", "within {} minutes",
    "although it had rained for {} days",
)  # fmt: skip


def samples() -> list[str]:
    """So many texts: titles, sentences, paragraphs and passages of up to some 200 words."""
    chance = random.Random(2026)  # noqa: S311 - texts, no keys
    texts: dict[str, None] = {}
    while len(texts) < COUNT:
        kind = len(texts) % (len(SENTENCES) + 1)
        text = _title(chance) if not kind else " ".join(_sentence(chance) for _ in range(SENTENCES[kind - 1]))
        texts[text] = None
    return list(texts)


def _title(chance: random.Random) -> str:
    return f"{chance.choice(_SUBJECTS)}, {chance.choice(_OBJECTS)}, part {chance.randrange(1, 10_000)}"


def _sentence(chance: random.Random) -> str:
    end = chance.choice(_ENDS).format(chance.randrange(2, 2_000))
    return f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.choice(_OBJECTS)}, {end}."
