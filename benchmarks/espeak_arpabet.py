"""What espeak-ng's American voice says in IPA, in CMUdict's ARPAbet: the mapping as data, and its use.

How it was chosen is in the README beside this file.
"""

ARPABET = {
    # consonants
    "b": "B", "d": "D", "dʒ": "JH", "f": "F", "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P",
    "s": "S", "t": "T", "tʃ": "CH", "v": "V", "w": "W", "z": "Z", "ð": "DH", "ŋ": "NG", "ɡ": "G", "ɹ": "R", "ʃ": "SH",
    "ʒ": "ZH", "θ": "TH",
    # consonants that CMUdict does not tell from the ones above
    "ɾ": "T", "ʔ": "T", "r": "R", "x": "K", "ɬ": "L", "ɡʲ": "G Y", "nʲ": "N Y",
    # vowels
    "i": "IY", "iː": "IY", "iːː": "IY", "ɪ": "IH", "ᵻ": "IH", "eɪ": "EY", "ɛ": "EH", "æ": "AE", "ə": "AH", "ɐ": "AH",
    "ʌ": "AH", "ɚ": "ER", "ɜː": "ER", "ɑː": "AA", "ɑ̃": "AA", "ɔ": "AO", "ɔː": "AO", "ɔ̃": "AO", "oː": "AO", "o": "OW",
    "oʊ": "OW", "ʊ": "UH", "uː": "UW", "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY",
    # one unit here, two phonemes in CMUdict
    "iə": "IY AH", "aɪə": "AY AH", "aɪɚ": "AY ER", "əl": "AH L", "n̩": "AH N",
    "ɑːɹ": "AA R", "ɔːɹ": "AO R", "oːɹ": "AO R", "ɛɹ": "EH R", "ɪɹ": "IH R", "ʊɹ": "UH R",
    # nothing: a glide, or a vowel left out, that has no letter in espeak-ng's IPA
    "": "",
    # neighbours, looked up before the units alone: an r that CMUdict writes once, and IY before a vowel
    "ɚ_ɹ": "ER", "ɜː_ɹ": "ER", "ə_ɹ": "ER", "aɪɚ_ɹ": "AY ER", "ɑːɹ_ɹ": "AA R", "ʊɹ_ɹ": "UH R", "iə_ɹ": "IH R",
    "ɪ_": "IY",
}    # fmt: skip
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
STRESS = {"ˈ": "1", "ˌ": "2"}


def to_arpabet(ipa: str) -> list[str]:
    """espeak-ng's IPA, units separated by "_" and words by spaces, as phonemes with stress.

    A unit's mark of stress goes to its first vowel; a vowel without one gets 0.
    Raises ValueError for a unit that the mapping does not have, and for stress on a unit without a vowel.
    """
    phonemes = []
    for word in ipa.split():
        marked = word.split("_")
        units = [unit.lstrip("ˈˌ") for unit in marked]
        while units:
            size = 2 if "_".join(units[:2]) in ARPABET and len(units) > 1 else 1
            key, marks = "_".join(units[:size]), "".join(marked[:size])
            if key not in ARPABET:
                raise ValueError(f"{ipa!r} has the unit {key!r}, which ARPABET does not map; add it there")
            stress = next((STRESS[mark] for mark in marks if mark in STRESS), "")
            for phoneme in ARPABET[key].split():
                if phoneme in VOWELS:
                    phoneme, stress = phoneme + (stress or "0"), ""
                phonemes.append(phoneme)
            if stress:
                raise ValueError(f"{ipa!r} has stress on {key!r}, which has no vowel; map it to one that has")
            del units[:size], marked[:size]
    return phonemes
