"""Symbols and ids translate both ways, and a padded batch knows what is real."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from annotated_decoder.encoder_outputs import END, PAD, START, Vocabulary, pad

LETTERS = Vocabulary.of("zebra")


def test_special_symbols_have_the_first_ids():
    assert [LETTERS.symbols[i] for i in (PAD, START, END)] == ["<pad>", "<s>", "</s>"]
    assert LETTERS.symbols[3:] == ("a", "b", "e", "r", "z")
    assert len(LETTERS) == 8


@given(st.text("zebra"))
def test_decode_undoes_encode(word):
    assert "".join(LETTERS.decode(LETTERS.encode(word))) == word


def test_encode_takes_any_iterable():
    assert LETTERS.encode(letter for letter in "bear") == LETTERS.encode("bear")


def test_decode_stops_at_the_first_end_and_skips_padding_and_start():
    assert LETTERS.decode([START, 4, PAD, 5, END, 6, END]) == ["b", "e"]


@pytest.mark.parametrize("unknown", [-1, 8])
def test_an_unknown_id_is_named_with_those_known(unknown):
    with pytest.raises(ValueError, match=f"id {unknown} is not in this vocabulary; it has 0 to 7"):
        LETTERS.decode([4, unknown])
    assert LETTERS.decode([4, END, unknown]) == ["b"]


def test_unknown_symbols_are_named_with_those_known():
    with pytest.raises(ValueError, match=r"\['!', 'x'\].*a b e r z"):
        LETTERS.encode("braxe!")


def test_a_symbol_twice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"\['e'\]"):
        Vocabulary.of("eel")


def test_a_vocabulary_without_special_symbols_is_refused():
    with pytest.raises(ValueError, match="<pad>"):
        Vocabulary(("a", "b", "c", "d"))


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5), st.integers(0, 9))
def test_padding_keeps_every_row_and_marks_exactly_the_rest(rows, pad_id):
    tokens, real = pad(rows, pad_id)
    assert tokens.shape == real.shape == (len(rows), max(map(len, rows)))
    for row, found, is_real in zip(rows, tokens, real, strict=True):
        assert found[is_real].tolist() == row
        assert is_real.tolist() == sorted(is_real.tolist(), reverse=True)
        assert torch.all(found[~is_real] == pad_id)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(0, 9))
def test_padding_agrees_with_torch(rows, pad_id):
    expected = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad_id)
    assert torch.equal(pad(rows, pad_id)[0], expected)


def test_the_mask_knows_a_padding_id_that_is_real():
    _, real = pad([[0, 5, 6], [0, 7]], pad_id=0)
    assert real.tolist() == [[True, True, True], [True, True, False]]


def test_no_sequence_is_refused():
    with pytest.raises(ValueError, match="no sequence to pad; give at least one"):
        pad([])


def test_a_vocabulary_says_what_is_wrong_with_it():
    with pytest.raises(ValueError) as refused:
        Vocabulary(("<a>", "<b>", "<c>", "x"))    # "<a>" is before "<pad>", as strings go
    assert str(refused.value).endswith("starts with ('<pad>', '<s>', '</s>'), not with ('<a>', '<b>', '<c>')")
    with pytest.raises(ValueError) as refused:
        Vocabulary.of("xyz").encode("xa")
    assert str(refused.value) == "unknown symbols ['a']; this vocabulary has x y z"


def test_a_large_vocabulary_is_told_in_part_and_nothing_steers():
    many = Vocabulary.of(["\u200f", *(f"{i}{'x' * 90}" for i in range(1_000))])
    with pytest.raises(ValueError) as refused:
        many.encode([f"{i}\u202e" * 50 for i in range(99)])
    said = str(refused.value)
    assert len(said) < 700 and said.endswith(" …") and said.isprintable()
    with pytest.raises(ValueError, match=r"this vocabulary has \\u200f$"):
        Vocabulary.of(["\u200f"]).encode("x")


def test_a_vocabulary_is_frozen():
    with pytest.raises(AttributeError):
        Vocabulary.of("xyz").symbols = ()
