"""IPA has every sound of the ARPAbet, and its stress mark before the syllable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotated_decoder.pronunciation.phonemes import _ONSETS, PHONEMES, _onset_of, ipa

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = sorted(set(PHONEMES) - set(VOWELS))
phonemes = st.sampled_from(CONSONANTS + [vowel + digit for vowel in VOWELS for digit in "012"])


@pytest.mark.parametrize(
    "arpabet, signs",
    [
        ("K AE1 T", "kæt"), ("AH0 B AW1 T", "əˈbaʊt"), ("EH1 K S T R AH0", "ˈɛkstɹə"), ("B AH1 T ER0", "ˈbʌtɚ"),
        ("S IH1 NG IH0 NG", "ˈsɪŋɪŋ"), ("N EH1 B Y AH0 L AY2 Z IH0 NG", "ˈnɛbjəˌlaɪzɪŋ"), ("", ""), ("S T", "st"),
        ("B IY0 AE1 T R IH0 S", "biˈætɹɪs"), ("P ER0 F EH1 K T", "pɚˈfɛkt"), ("TH R IH1 L ER0", "ˈθɹɪlɚ"),
        ("B EY2 ZH IH1 NG", "ˌbeɪˈʒɪŋ"), ("AE2 M B IH0 G Y UW1 AH0 T IY0", "ˌæmbɪˈɡjuəti"),
    ],
)    # fmt: skip
def test_words_are_written_as_dictionaries_write_them(arpabet, signs):
    assert ipa(arpabet.split()) == signs


@given(st.lists(phonemes, max_size=12))
def test_no_sound_is_lost_and_each_stressed_vowel_has_its_mark(spoken):
    signs = ipa(spoken)
    plain = "".join({"AH0": "ə", "ER0": "ɚ"}.get(p, PHONEMES[p.rstrip("012")][0]) for p in spoken)
    assert signs.replace("ˈ", "").replace("ˌ", "") == plain
    vowels = [p for p in spoken if p[-1].isdigit()]
    for mark, digit in (("ˈ", "1"), ("ˌ", "2")):
        assert signs.count(mark) == (sum(p[-1] == digit for p in vowels) if len(vowels) > 1 else 0)


@given(st.lists(st.sampled_from(CONSONANTS), max_size=5))
def test_an_onset_is_the_longest_that_can_begin_a_word(consonants):
    n = _onset_of(consonants)
    assert n == 0 or tuple(consonants[len(consonants) - n :]) in _ONSETS
    assert not any(tuple(consonants[-m:]) in _ONSETS for m in range(n + 1, len(consonants) + 1))


def test_an_unknown_phoneme_is_named():
    with pytest.raises(ValueError, match=r"\['QQ', 'x'\] are no ARPAbet phonemes; they are AA AE "):
        ipa(["K", "x", "AE1", "QQ"])


def test_a_consonant_has_no_stress():
    with pytest.raises(ValueError, match=r"\['AH', 'K1'\] are no ARPAbet phonemes"):
        ipa(["K1", "AH"])
