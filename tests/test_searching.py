"""The tree is the package's beam search, the counts are what the formulas say, and a watched training is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import few
from speller import WORDS, examples_of, small_pronouncer

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import END
from annotated_decoder.strategies import beam_search
from annotated_decoder.teaching import searching
from annotated_decoder.teaching.searching import (
    Moments,
    beam_tree,
    cache_race,
    count_decode,
    record_beginnings,
    scrub,
    search_beginnings,
)
from annotated_decoder.training import TrainingConfig, train

PENALTIES = [0.0, 0.5, 1.2]


@few
@given(st.integers(0, 30), st.sampled_from([*WORDS]))
def test_the_recorded_beginnings_hold_every_search(seed, word):
    trained = small_pronouncer(seed, tied=seed % 2 == 0)
    recorded = record_beginnings(trained, word, 3, PENALTIES)
    source = torch.tensor([trained.example(word).source])
    for width in (1, 2, 3):
        for penalty in PENALTIES:
            [expected] = beam_search(trained.model, source, width=width, length_penalty=penalty)
            found = search_beginnings(recorded.__getitem__, width, penalty, 12)[-1]
            assert [said for said, _ in found] == [h.tokens for h in expected]
            assert [total for _, total in found] == pytest.approx([h.log_probability for h in expected], abs=1e-4)


def test_no_more_is_recorded_than_searches_go_on_from():
    recorded = record_beginnings(small_pronouncer(tied=False), "bed", 2, PENALTIES)
    assert () in recorded and all(END not in said for said in recorded)
    assert {len(likely) for likely in recorded.values()} == {2 + searching._DROPPED}


@given(st.integers(0, 30), st.sampled_from([*WORDS]), st.integers(1, 3))
def test_what_is_counted_is_what_the_formulas_say(seed, word, layers):
    trained = small_pronouncer(seed, tied=False, n_layers=layers)
    heads, s = 2, len(trained.example(word).source)
    naive, cache = count_decode(trained, word), Cache()
    cached = count_decode(trained, word, cache)
    for t, (anew, kept) in enumerate(zip(naive, cached, strict=True), 1):
        assert (anew["read"], anew["chosen"]) == (kept["read"], kept["chosen"])
        assert (anew["vectors"], kept["vectors"]) == (layers * (4 * t + 2 * s), layers * (4 + 2 * s * (t == 1)))
        assert (anew["products"], kept["products"]) == (layers * heads * t * (t + s), layers * heads * (t + s))
        assert (anew["bytes"], kept["bytes"]) == (0, 2 * layers * 32 * 4 * (t + s))    # width 32, four bytes a number
    hooks = [module._forward_hooks for module in trained.model.modules()]
    assert not any(hooks) and cache.nbytes == cached[-1]["bytes"]


def watched(at=(0, 4, 8), words=("bed", "dab"), **changes):
    trained = small_pronouncer(tied=False, dropout=0.1)
    moments = Moments(trained, words, at, **changes)
    config = TrainingConfig(epochs=12, letters_per_batch=1_000, peak_lr=1e-2)
    return moments, train(trained.model, examples_of(trained), config, False, moments)


def test_a_training_that_is_watched_is_the_same():
    moments, losses = watched()
    none, alone = watched(at=())
    assert losses == alone and none.taken == []
    assert all(map(torch.equal, moments.trained.model.parameters(), none.trained.model.parameters()))
    assert [moment["step"] for moment in moments.taken] == [0, 4, 8]
    before = small_pronouncer(tied=False, dropout=0.1).transcribe(["bed", "dab"])
    assert moments.taken[0]["said"] == [" ".join(said) for said in before.values()]


def test_what_is_asked_is_the_token_after_the_beginning():
    first, second = Moments(small_pronouncer(), ["bed"], ()), Moments(small_pronouncer(), ["bed"], (), ["B", "EH1"])
    source = torch.tensor([first.asked.source])
    for moments, prompt in ((first, [[1]]), (second, [[1, *second.asked.target]])):
        moments.look(0)
        [taken], model = moments.taken, moments.trained.model
        expected = model(source, torch.tensor(prompt))[0, -1].softmax(-1)
        assert torch.allclose(torch.tensor(taken["shares"]), expected, atol=1e-5)
    assert first.taken != second.taken


def test_the_scrubber_has_the_losses_and_what_was_said():
    moments, losses = watched()
    moments.look(len(losses))
    listed = {word: [WORDS[word].split()] for word in moments.words}
    data = scrub(moments, losses, listed, "A training").data
    assert data["steps"] == len(losses) and data["losses"] == [[n, loss] for n, loss in enumerate(losses)]
    assert data["asked"] == "the first token of bed"
    assert [m["said"] for m in data["moments"]] == [m["said"] for m in moments.taken]
    last = {token: share for token, share in zip(data["tokens"], data["moments"][-1]["shares"])}
    assert [*last.values()] == sorted(last.values(), reverse=True)
    assert max(last.values()) == pytest.approx(max(moments.taken[-1]["shares"]))


@pytest.mark.parametrize("make", [
    lambda words: beam_tree(small_pronouncer(), words, "A tree"),
    lambda words: cache_race(small_pronouncer(), words, "A race"),
    lambda words: Moments(small_pronouncer(), words, ()),
])    # fmt: skip
@pytest.mark.parametrize("words, told", [([], "the words are"), (["bed", "bed"], "each once"), ("bed", "give a list"),
                                         (["bed", "zoo"], "'z'")])    # fmt: skip
def test_words_that_cannot_be_are_refused(make, words, told):
    with pytest.raises(ValueError, match=told):
        make(words)


@pytest.mark.parametrize("changes, told", [
    ({"width": 1}, "width is 1"), ({"penalties": [0.5]}, r"penalties are \[0.5\]"),
    ({"penalties": [1.0, 0.0]}, "in their order"), ({"penalties": [-1.0, 0.0]}, "from 0 to 10"),
    ({"penalties": [0.0, 11.0]}, "from 0 to 10"), ({"penalties": [0.0, 0.0]}, "each once"),
])    # fmt: skip
def test_settings_that_cannot_be_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        beam_tree(small_pronouncer(), ["bed"], "A tree", **changes)


def test_two_decodes_that_differ_are_refused(monkeypatch):
    class Wrong(Cache):
        def extend(self, layer, k, v):
            k, v = super().extend(layer, k, v)
            return -k, 9 * v

    monkeypatch.setattr(searching, "Cache", Wrong)
    with pytest.raises(ValueError, match="'dead' is said as .* they must be the same"):
        cache_race(small_pronouncer(tied=False), ["dead"], "A race")


def test_moments_that_do_not_fit_are_refused():
    moments, losses = watched(at=(0,))
    listed = {word: [WORDS[word].split()] for word in moments.words}
    with pytest.raises(ValueError, match=r"the moments are \[0\] of 12 losses"):
        scrub(moments, losses, listed, "A training")
    moments.look(5)
    with pytest.raises(ValueError, match="none after the last loss"):
        scrub(moments, losses[:3], listed, "A training")
    with pytest.raises(ValueError, match=r"\['dab'\] are not listed"):
        scrub(moments, losses, {"bed": listed["bed"]}, "A training")
