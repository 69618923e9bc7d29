"""What a misspelt word most likely means, and never its opposite.

A word that is only somewhat alike is no help: 'emnist' is not 'mnist', and 'max_clients'
is not 'min_clients'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product

# A typo for so many letters of the word, and one at least.
_LETTERS_PER_TYPO = 4

# Letters of an abbreviation: "mom" is momentum, and "mo" could be much.
_ABBREVIATION = 3

# Words that are offered together.
_OFFERED = 3

# Put before a word they mean its opposite.
_NEGATIONS = ("non", "not", "without", "anti", "dis", "un", "in", "im", "no", "n", "a")

# Parts of two names that say opposite things.
_OPPOSITES = {
    frozenset(pair)
    for pair in (
        ("after", "before"),
        ("begin", "end"),
        ("bottom", "top"),
        ("client", "server"),
        ("clients", "servers"),
        ("decode", "encode"),
        ("decoder", "encoder"),
        ("decrease", "increase"),
        ("disable", "enable"),
        ("disabled", "enabled"),
        ("down", "up"),
        ("downlink", "uplink"),
        ("download", "upload"),
        ("fastest", "slowest"),
        ("first", "last"),
        ("global", "local"),
        ("high", "low"),
        ("in", "out"),
        ("input", "output"),
        ("largest", "smallest"),
        ("least", "most"),
        ("left", "right"),
        ("lower", "upper"),
        ("max", "min"),
        ("maximum", "minimum"),
        ("off", "on"),
        ("receive", "send"),
        ("start", "end"),
        ("start", "stop"),
        ("test", "train"),
        ("with", "without"),
    )
}


def likely(word: str, choices: Iterable[str]) -> list[str]:
    """Return the choices that a word most likely means; three at most, mostly one or none.

    Those with the fewest typos come before those that the word abbreviates, or that it
    makes longer.
    """
    letters = word.lower()
    scores: dict[str, tuple[int, ...]] = {}
    for choice in choices:
        score = _score(letters, choice.lower())
        if score is not None and not _are_opposite(letters, choice.lower()):
            # A letter that was doubled is likelier than a wrong one.
            lacking = Counter(choice) - Counter(word)
            scores[choice] = (*score, lacking.total())
    best = min(scores.values(), default=None)
    near = [choice for choice, score in scores.items() if score == best]
    # Of many that are equally near, each is most likely the wrong one.
    return near if len(near) <= _OFFERED else []


def _score(word: str, choice: str) -> tuple[int, int] | None:
    """Return how far a choice is from a word, by kind and distance; None: too far."""
    # Hardly anybody mistypes the first letter; another one is mostly another word.
    if sorted(word[:2]) == sorted(choice[:2]) or word[:1] == choice[:1]:
        typos = distance(word, choice)
        if typos <= max(1, len(word) // _LETTERS_PER_TYPO) and typos < len(word):
            return 0, typos
    # A number at the end is a version: resnet18, mobilenet_v2.
    stem = re.sub(r"[-_ ]?v?\d+$", "", word)
    if len(stem) >= _ABBREVIATION and choice.startswith(stem):
        return 1, 0
    if len(choice) > _ABBREVIATION and word.startswith(choice):
        return 1, 1
    # A part of a longer name, such as "momentum" of "server_momentum".
    if len(word) > _ABBREVIATION and word in re.split(r"[-_. ]", choice):
        return 2, 0
    return None


def _are_opposite(word: str, choice: str) -> bool:
    words = re.split(r"[-_. ]", word)
    parts = re.split(r"[-_. ]", choice)
    if any(frozenset(pair) in _OPPOSITES for pair in product(words, parts)):
        return True
    return _negates(word, choice) or _negates(choice, word)


def _negates(longer: str, shorter: str) -> bool:
    """Tell whether a word is another one with a negation before it, typos aside."""
    bare = re.sub(r"[-_. ]", "", longer)
    plain = re.sub(r"[-_. ]", "", shorter)
    for negation in _NEGATIONS:
        if not bare.startswith(negation):
            continue
        stem = bare[len(negation) :]
        # One letter before a word is more often a typo than a negation.
        if len(negation) < len("un"):
            if stem == plain:
                return True
        elif distance(stem, plain) < distance(bare, plain):
            return True
    return False


def distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the fewest typos between two words.

    A typo is a letter too many, missing, wrong, or two letters that changed places: the
    optimal string alignment of Damerau and Levenshtein.
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        oldest = before
        before = row
        row = [i]
        for j, second in enumerate(other, 1):
            wrong = before[j - 1] + (letter != second)
            row.append(min(wrong, before[j] + 1, row[j - 1] + 1))
            swapped = one[i - 2 : i] == other[j - 2 : j][::-1]
            if swapped and i > 1 and j > 1:
                row[j] = min(row[j], oldest[j - 2] + 1)
    return row[-1]
