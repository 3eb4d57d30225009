"""A word as people write it is read into pieces: in lower case for the network, in capitals to be spelled."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotated_decoder.pronunciation import words
from annotated_decoder.pronunciation.dictionary import without_stress
from annotated_decoder.pronunciation.words import read_word, spell

READ = {
    "cat": "cat", "NEBULIZING": "nebulizing", "nEbUlIzInG": "nebulizing", "McDonald": "mcdonald",
    # apostrophes of all kinds, and quotes
    "don't": "don't", "don’t": "don't", "don‘t": "don't", "donʼt": "don't", "don′t": "don't", "don`t": "don't",
    "don´t": "don't", "don＇t": "don't", "DON’T": "don't", "o’clock": "o'clock", "'tis": "'tis", "dogs'": "dogs'",
    "'hello'": "hello", "Hawaiʻi": "hawaii",
    # accents, ligatures and letters of their own, composed and not
    "café": "cafe", "cafe\u0301": "cafe", "naïve": "naive", "CAFÉ": "cafe", "Ærø": "aero", "cœur": "coeur",
    "ﬁne": "fine",
    "straße": "strasse", "STRAẞE": "strasse", "Łódź": "lodz", "Đặng": "dang", "Þór": "thor", "Iğdır": "igdir",
    "ｗｉｄｅ": "wide", "İzmir": "izmir", "co\u00adoperate": "cooperate", "\ufeffcat": "cat",
    "zero\u200bwidth": "zerowidth",
    # hyphens of all kinds, and single letters beside them
    "well-known": "well known", "mother-in-law": "mother in law", "x-ray": "X ray", "X-ray": "X ray",
    "e‑mail": "E mail",
    "a‐b": "a B", "pre-": "pre", "-ing": "ing", "T-shirts": "T shirts", "Paris–London": "paris london",
    "one−two": "one two",
    # capitals
    "NASA": "nasa", "THE": "the", "HELLO": "hello", "CSR": "CSR", "OECD": "OECD", "USA": "USA", "UK": "UK", "US": "US",
    "AI": "AI", "IT": "it", "IT'S": "it's", "OF": "of", "X": "X", "A": "a", "I": "i", "I'm": "i'm", "As": "as",
    "Is": "is",
    "CSRs": "CSRs", "CDs": "CDs", "DJ's": "DJ's", "DJ’S": "DJ's", "NASA's": "nasa's", "A's": "A's", "FFQKH": "FFQKH",
    "FFQKHN": "ffqkhn",
    # full stops
    "U.S.": "US", "U.S": "US", "a.m.": "AM", "e.g.": "EG", "Ph.D.": "PHD", "U.S.'s": "US's", "U.S.-led": "US led",
    "J.": "J",
}    # fmt: skip


@pytest.mark.parametrize("word", READ)
def test_a_word_is_read_as_people_mean_it(word):
    assert read_word(word) == READ[word].split()


def test_a_listed_word_is_read_as_it_stands(dictionary):
    assert [word for word in dictionary if read_word(word) != [word]] == []


REFUSED = {    # the word: the characters that are named, and the remedy
    "r2d2": ("['2']", "write numbers in words"), "3.14": ("['.', '1', '3', '4']", "write numbers in words"),
    "m²": ("['²']", "write numbers in words"), "½": ("['½']", "write numbers in words"), "Ⅳ1": ("['1']",
    "numbers in words"),
    "слово": ("['в', 'л', 'о', 'с']", "in the letters a to z"), "λόγος": ("'λ'", "in the letters a to z"),
    "日本": ("['日', '本']", "in the letters a to z"), "two words": ("[' ']", "one word at a time"),
    "cat\n": (r"['\n']", "one word at a time"), "cat!": ("['!']", "as it is said"), "b\udcff": (r"['\udcff']",
    "as it is said"),
    "so.it": ("['.']", "as it is said"), "St.": ("['.']", "as it is said"), "a@b.com": ("['.', '@']", "as it is said"),
    "": ("is empty", "made of letters"), "'": ("has no letter", "made of letters"), "--": ("has no letter",
    "of letters"),
    "x" * 101: ("has 101 characters", "at most 100"), "é" * 10**6: ("has 1000000 characters", "at most 100"),
}    # fmt: skip


@pytest.mark.parametrize("word, parts", REFUSED.items(), ids=range(len(REFUSED)))
def test_what_cannot_be_read_is_refused_by_one_sentence(word, parts):
    with pytest.raises(ValueError) as error:
        read_word(word)
    message = str(error.value)
    assert message.startswith(repr(word) if len(word) <= 100 else f"{word[:50]!r}…")
    assert [part for part in parts if part not in message] == [] and "\n" not in message and len(message) < 200


@given(st.text(max_size=120) | st.text("aBcD'’-.é s2", max_size=12))
def test_whatever_is_given_is_read_or_refused(word):
    try:
        pieces = read_word(word)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert pieces
    for piece in pieces:
        assert re.fullmatch("[a-z']*[a-z][a-z']*|[A-Z]+('?s)?", piece)
        if piece[0].isupper():
            assert spell(piece)


def test_the_names_of_letters_are_those_of_the_dictionary(dictionary):
    names = {letter: spell(letter.upper()) for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert {letter for letter in names if names[letter] not in dictionary[letter]} == set()
    assert spell("CSR") == names["c"] + names["s"] + names["r"]


@pytest.mark.parametrize(
    "piece, ending",
    [("CSRs", "Z"), ("DJ's", "Z"), ("FFs", "S"), ("XXs", "IH0 Z"), ("S's", "IH0 Z"), ("H's", "IH0 Z"), ("A's", "Z")],
)
def test_a_plural_ends_as_its_last_sound_asks(piece, ending, dictionary):
    letters = piece.rstrip("s'")
    assert spell(piece) == spell(letters) + tuple(ending.split())


def test_endings_are_those_of_the_dictionarys_plurals(dictionary):
    for word, plural in (("bus", "buses"), ("cat", "cats"), ("dog", "dogs"), ("church", "churches"), ("myth", "myths"),
                         ("rose", "roses"), ("dish", "dishes"), ("judge", "judges"), ("cuff", "cuffs")):    # fmt: skip
        said = dictionary[word][0]
        assert said + words._ending(said[-1]) in dictionary[plural], word


@pytest.mark.parametrize("piece", ["", "csr", "CSR'", "cS", "CSRS's "])
def test_only_capitals_are_spelled(piece):
    with pytest.raises(ValueError, match="is no row of capitals"):
        spell(piece)


def test_capitals_that_the_dictionary_spells_are_spelled(dictionary):
    for word in ("usa", "oecd", "ibm", "fbi"):
        assert without_stress(spell(word.upper())) in map(without_stress, dictionary[word])
        assert read_word(word.upper()) == [word.upper()]


def test_the_dictionary_is_read_for_capitals_alone(monkeypatch):
    monkeypatch.setattr(words, "_dictionary", lambda: pytest.fail("the dictionary is read"))
    for word in ("cat", "Café", "x-ray", "don't", "NEBULIZING", "U.S.", "US", "IT"):
        read_word(word)
