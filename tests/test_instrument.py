"""The instrument's data: a run of the model with all its logits and weights, and what else could have come."""

import pytest
import torch
from speller import WORDS, small_pronouncer
from torch.testing import assert_close

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import END, START
from annotated_decoder.looking_inside import record_attention
from annotated_decoder.pronunciation.recipe import new_pronouncer
from annotated_decoder.teaching.instrument import instrument, record_run, show


def looped(trained, word, chosen=()):
    "The same run by the loop with a cache, a step at a time: tokens, logits and weights (layer head letter) of each."
    model, source, told = trained.model, torch.tensor([trained.example(word).source]), []
    cache, memory = Cache(), model.encode(source)
    tokens = [START]
    for _ in range(model.decoder.config.max_len):
        with torch.no_grad():
            seen = [record_attention(layer.cross_attn) for layer in model.decoder.layers]
            lists = [one.__enter__() for one in seen]
            logits = model.decode(torch.tensor([tokens[cache.length :]]), memory, None, cache)[0, -1]
            for one in seen:
                one.__exit__(None, None, None)
        at = len(tokens) - 1
        tokens.append(chosen[at] if at < len(chosen) else int(logits.argmax()))
        told.append((tokens[-1], logits, torch.stack([weights[0, :, -1] for (weights,) in lists])))
        if tokens[-1] == END:
            break
    return told


@pytest.mark.parametrize("word, chosen", [("bad", ()), ("abed", ()), ("bad", (4, 5)), ("bad", (END,))])
def test_a_run_is_what_the_loop_would_do_step_by_step(word, chosen):
    trained = small_pronouncer()
    run, told = record_run(trained, word, chosen), looped(trained, word, chosen)
    assert [step["token"] for step in run] == [token for token, _, _ in told]
    for step, (_, logits, weights) in zip(run, told, strict=True):
        assert_close(torch.tensor(step["logits"]), logits, atol=1e-4, rtol=1e-4)
        assert_close(torch.tensor(step["attention"]), weights, atol=1e-4, rtol=1e-4)


def test_a_run_that_finds_no_end_stops_at_the_last_position():
    trained = new_pronouncer({word: [("K",)] for word in WORDS}, d_model=8, max_len=7)
    trained.model.eval()
    trained.model.projection.bias.data[END] = -1e3
    for chosen in ((), (3, 3)):
        run = record_run(trained, "bad", chosen)
        assert len(run) == 7 and END not in [step["token"] for step in run]
        assert [step["token"] for step in run][: len(chosen)] == list(chosen)


def test_what_is_recorded_besides_is_what_would_come_after_another_likely_choice():
    trained = small_pronouncer()
    trained.model.projection.bias.data[END] = 0.0
    (told,) = instrument(trained, ["bad"], "One word").data["words"]
    run, p = told["steps"], [torch.tensor(step["logits"]).softmax(-1) for step in told["steps"]]
    assert told["other"]
    for key, after in told["other"].items():
        at, token = map(int, key.split(":"))
        assert token != run[at]["token"] and p[at][token] >= 0.02
        before = [step["token"] for step in run[:at]]
        assert after == record_run(trained, "bad", [*before, token])[at:]
    best = [(at, share, token) for at, each in enumerate(p) for share, token in zip(*each.topk(3))]
    likely = {f"{at}:{int(token)}" for at, share, token in best if share >= 0.02 and token != run[at]["token"]}
    assert set(told["other"]) == likely


def test_the_still_form_is_the_first_words_way():
    trained = small_pronouncer()
    piece = show(trained, "bad", "abed", layer=0)
    weights = torch.tensor([step["attention"] for step in record_run(trained, "bad")])[:, 0].mean(1)
    for share in weights.flatten().tolist():
        assert f"{share:.2f}" in piece.still
    assert "bad: a row for each token" in piece.still and "heads of layer 0" in piece.still
    assert "all layers and heads" in show(trained, "bad").still
    assert piece.label == "How the model says bad" and [word["name"] for word in piece.data["words"]] == ["bad", "abed"]


def test_phonemes_have_a_word_that_they_sound_as_in():
    symbols = {"cab": [("K", "AE1", "B", "AH0", "X")]}
    trained = new_pronouncer(symbols, d_model=8, max_len=6)
    trained.model.eval()
    said = show(trained, "cab").data["as_in"]
    assert said == {"K": "key", "AE1": "cat", "B": "bag", "AH0": "about"}


def test_what_cannot_be_shown_is_refused_by_name():
    trained = small_pronouncer()
    for words, layer, why in (
        ([], None, "at least one"), (["bad", "bad"], None, "each once"), (["bad"], 7, "layer is 7"),
        (["bad"], -1, "layer is -1"), (["b7d"], None, "'7'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            instrument(trained, words, "Some words", layer=layer)
