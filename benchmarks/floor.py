"""The floor: each letter says what it says most often, whatever stands around it."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

Part = tuple[str, ...]    # what one letter says: 0, 1 or 2 phonemes


def spread(word: str, phonemes: Part) -> list[Part]:
    "The phonemes cut into as many parts as there are letters, evenly."
    cuts = [round(i * len(phonemes) / len(word)) for i in range(len(word) + 1)]
    return [phonemes[a:b] for a, b in zip(cuts, cuts[1:])]


def align(word: str, phonemes: Part, costs: Mapping[str, Mapping[Part, float]]) -> list[Part]:
    "The cheapest way to give each letter 0, 1 or 2 phonemes in order; no parts where there is none."
    best: dict[int, tuple[float, list[Part]]] = {0: (0.0, [])}    # phonemes used so far -> cost, parts
    for letter in word:
        reached: dict[int, tuple[float, list[Part]]] = {}
        for start, (cost, parts) in best.items():
            for end in range(start, min(start + 2, len(phonemes)) + 1):
                total = cost + costs[letter].get(phonemes[start:end], 20.0)    # 20: a part not seen before
                if end not in reached or total < reached[end][0]:
                    reached[end] = (total, [*parts, phonemes[start:end]])
        best = reached
    return best.get(len(phonemes), (0.0, []))[1]


def learn(pairs: Sequence[tuple[str, Part]]) -> dict[str, Part]:
    """Each letter's most frequent part, by hard expectation–maximisation over words with their pronunciations.

    The phonemes are first spread evenly over the letters, then aligned anew until no letter's choice changes.
    """
    parts, before = [spread(word, phonemes) for word, phonemes in pairs], None
    while True:
        said: dict[str, Counter[Part]] = defaultdict(Counter)
        for (word, _), cut in zip(pairs, parts):
            for letter, part in zip(word, cut):
                said[letter][part] += 1
        best = {letter: said[letter].most_common(1)[0][0] for letter in sorted(said)}
        if best == before:
            return best
        before = best
        costs = {x: {part: -math.log(n / found.total()) for part, n in found.items()} for x, found in said.items()}
        parts = [align(word, phonemes, costs) for word, phonemes in pairs]
