"""The dials are the table of sinusoids, the storeys are the model's own sum, and both pieces refuse what cannot be."""

import json
import math
from dataclasses import replace

import pytest
import torch

from annotated_decoder.embedding import sinusoids
from annotated_decoder.encoder_outputs import START
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.teaching.interactive import as_json
from annotated_decoder.teaching.storeys import climb, position_dials, record_climb
from annotated_decoder.trained.model_file import TrainedModel

WORD = "knowledge"


def as_read(piece):
    "The data as a page gets it, rounded."
    return json.loads(as_json(piece.data, piece.digits))


def test_the_hands_stand_where_the_formula_says_and_their_periods_are_told():
    data = as_read(position_dials(48, 192, "dials", pairs=[0, 7, 95], max_shift=12))
    assert len(data["codes"]) == 60
    for p, hands in enumerate(data["codes"]):
        for dial, (sine, cosine) in zip(data["dials"], hands, strict=True):
            angle = p / 10000 ** (2 * dial["pair"] / 192)
            assert abs(sine - math.sin(angle)) < 1e-3 and abs(cosine - math.cos(angle)) < 1e-3
            assert math.isclose(dial["period"], 2 * math.pi * 10000 ** (2 * dial["pair"] / 192), rel_tol=1e-6)
    words = [dial["words"] for dial in data["dials"]]
    assert words[::2] == ["once round in 6.3 positions", "once round in 57,084 positions"]


def test_the_dot_products_are_those_of_the_whole_codes():
    data, codes = as_read(position_dials(30, 64, "dials", max_shift=9)), sinusoids(39, 64).double()
    for p, row in enumerate(data["dots"]):
        wanted = torch.stack([codes[p] @ codes[p + k] for k in range(10)])
        assert torch.allclose(torch.tensor(row).double(), wanted, atol=1e-3)
    assert len(data["dots"]) == 30 and len({round(row[4], 3) for row in data["dots"]}) == 1
    assert data["dots"][0][0] == 32 and data["width"] == 64


@pytest.mark.parametrize("width, pairs", [(2, [0]), (8, [0, 1, 2, 3]), (192, [0, 14, 27, 41, 54, 68, 81, 95])])
def test_left_alone_the_dials_go_from_the_fastest_to_the_slowest(width, pairs):
    assert [dial["pair"] for dial in position_dials(4, width, "dials").data["dials"]] == pairs


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(n_positions=0), "n_positions is 0"), (dict(max_shift=0), "max_shift is 0"),
        (dict(d_model=5), "d_model = 5 must be even"), (dict(d_model=0), "d_model is 0"),
        (dict(pairs=[]), r"pairs are \[\]; give some of 0 to 3"), (dict(pairs=[0, 4]), r"pairs are \[0, 4\]"),
        (dict(pairs=[-1, 2]), r"pairs are \[-1, 2\]"), (dict(pairs=[2, 1]), "the fastest first"),
        (dict(pairs=[1, 1]), "each once"),
    ],
)  # fmt: skip
def test_dials_that_cannot_be_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        position_dials(**{"n_positions": 4, "d_model": 8, "label": "dials", **changes})


@pytest.fixture(scope="module")
def recorded(trained):
    return record_climb(trained, WORD)


@pytest.fixture(scope="module")
def piece(trained):
    return climb(trained, [WORD, "phone"], "a climb")


@torch.no_grad()
def test_the_last_storey_is_the_models_own_distribution(trained, recorded, piece):
    source = torch.tensor([trained.example(WORD).source])
    ids = torch.tensor([trained.target.encode(recorded.read)])
    own = trained.model(source, ids)[0].softmax(-1)
    assert ids[0, 0] == START and recorded.read[1:] == recorded.said[:-1]
    assert torch.allclose(recorded.probabilities[-1], own, atol=1e-5)
    for t, storeys in enumerate(as_read(piece)["climbs"][0]["steps"]):
        shares, best = own[t].topk(5)
        token, p = zip(*storeys[-1]["top"], strict=True)
        assert list(token) == [trained.target.symbols[i] for i in best] and token[0] == recorded.said[t]
        assert torch.allclose(torch.tensor(p), shares, atol=1e-3) and storeys[-1]["last"] == p[0]


@torch.no_grad()
def test_what_the_storeys_add_sums_up_to_the_vector_that_the_final_norm_is_given(trained, recorded):
    given, source = [], torch.tensor([trained.example(WORD).source])
    norm = trained.model.decoder.final_norm
    listener = norm.register_forward_hook(lambda _, inputs, output: given.append(inputs[0]))
    trained.model(source, torch.tensor([trained.target.encode(recorded.read)]))
    listener.remove()
    assert torch.allclose(recorded.added.sum(0), given[0][0], atol=1e-4)
    assert torch.equal(recorded.vectors[0], recorded.added[0])
    assert recorded.added.shape[0] == 1 + 3 * trained.model.decoder.config.n_layers


@torch.no_grad()
def test_every_storey_is_what_the_layers_hand_on_and_is_read_by_the_models_head(trained, recorded, piece):
    model, decoder = trained.model, trained.model.decoder
    memory = model.encode(torch.tensor([trained.example(WORD).source]))
    x = decoder.embedding(torch.tensor([trained.target.encode(recorded.read)]))
    told = as_read(piece)
    for n, layer in enumerate([None, *decoder.layers]):
        x = layer(x, memory) if layer else x
        assert torch.allclose(recorded.vectors[3 * n], x[0], atol=1e-4)
        answers = model.projection(decoder.final_norm(x))[0].softmax(-1)
        assert torch.allclose(recorded.probabilities[3 * n], answers, atol=1e-4)
        for t, storeys in enumerate(told["climbs"][0]["steps"]):
            assert abs(storeys[3 * n]["length"] - x[0, t].norm()) < 1e-3
            assert abs(storeys[3 * n]["added"] - recorded.added[3 * n, t].norm()) < 1e-3
            assert abs(storeys[3 * n]["last"] - answers[t, trained.target.encode([recorded.said[t]])[0]]) < 1e-3
    assert [" ".join(storey) for storey in told["storeys"][:2]] == [" embedding", "layer 0 self-attention"]


def test_listening_leaves_the_model_as_it_was(trained, recorded):
    assert not any(module._forward_hooks for module in trained.model.modules())


def test_the_still_figure_is_one_step_with_the_highest_storey_first(trained, recorded):
    still = climb(trained, [WORD], "a climb", step=1).still
    rows = still.split("<tr>")[2:]
    assert len(rows) == 10 and "layer 2 feed-forward" in rows[0] and "embedding" in rows[-1]
    assert f"step 2, after {recorded.read[1]}" in still
    assert f"<strong>{recorded.probabilities[-1, 1].max():.2f}</strong>" in rows[0]
    assert f"<strong>{recorded.probabilities[0, 1].max():.2f}</strong>" in rows[-1]


def test_pieces_are_light_enough_for_a_page(piece):
    assert len(piece.html) < 60_000 and len(position_dials(48, 192, "dials").html) < 60_000


def test_climbs_that_cannot_be_are_refused(trained):
    for words, step, named in (
        ([], 0, r"the words are \[\]"), (["a", "a"], 0, "each once"), (["a"], 9, "step is 9; 'a' has steps 0 to"),
        (["a"], -1, "step is -1"), (["a1"], 0, "'1'"),
    ):    # fmt: skip
        with pytest.raises(ValueError, match=named):
            climb(trained, words, "a climb", step=step)
    stacks = [replace(stack.config, pre_norm=False) for stack in (trained.model.encoder, trained.model.decoder)]
    other = TrainedModel(EncoderDecoder.of(*stacks).eval(), trained.source, trained.target, {})
    with pytest.raises(ValueError, match="pre_norm is False"):
        record_climb(other, "a")
