"""The decoder is causal, agrees with torch's in both norm orders, and gives one vector per position."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import config, decoder, ids, mask, noise, seeded, seeds, shapes
from torch import nn
from torch.testing import assert_close
from torch_layers import decoder_layer_state

from annotated_decoder.attention import causal_mask
from annotated_decoder.decoder import Decoder, DecoderLayer, FeedForward, StackConfig

orders = st.booleans()
activations = st.sampled_from(["relu", "gelu"])


def other_token(tokens, place):
    "The same tokens but for one, at `place`."
    changed = tokens.clone()
    changed[:, place] = 3 + (changed[:, place] - 2) % 8
    assert not torch.equal(changed, tokens)
    return changed


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@given(seeds, shapes, st.integers(0, 5), st.booleans())
def test_a_token_changes_its_own_and_later_outputs_only(dropout, seed, shape, place, training):
    dec, tokens, memory = decoder(seed, dropout=dropout, **shape).train(training), ids(2, 6, seed), noise(2, 4, 8)

    def run(tokens):
        torch.manual_seed(seed)
        return dec(tokens, memory)

    differs = run(tokens) != run(other_token(tokens, place))
    assert not differs[:, :place].any()
    if dropout == 0 or not training:
        assert differs[:, place:].any(-1).all()


@given(seeds, shapes)
def test_without_dropout_training_changes_nothing(seed, shape):
    dec, tokens, memory = decoder(seed, **shape), ids(2, 5, seed), noise(2, 4, 8, seed=seed)
    assert torch.equal(dec.train()(tokens, memory), dec.eval()(tokens, memory))


def test_dropout_is_random_in_training_and_absent_in_evaluation():
    dec, tokens, memory = decoder(dropout=0.3), ids(2, 5), noise(2, 4, 8)
    torch.manual_seed(0)
    assert torch.equal(dec(tokens, memory), dec(tokens, memory))
    assert torch.equal(dec(tokens, memory), decoder(dropout=0.0)(tokens, memory))
    dec.train()
    assert not torch.equal(dec(tokens, memory), dec(tokens, memory))


@given(seeds, orders, activations)
def test_a_layer_agrees_with_torch(seed, pre_norm, activation):
    ours = seeded(lambda: DecoderLayer(config(pre_norm=pre_norm, activation=activation)), seed)
    theirs = nn.TransformerDecoderLayer(
        8, 2, 16, 0.0, activation, batch_first=True, norm_first=pre_norm, dtype=torch.float64
    )
    theirs.load_state_dict(decoder_layer_state(ours))
    x, memory, real = noise(2, 5, 8, seed=seed), noise(2, 4, 8, seed=seed + 1), mask(4, 2)
    expected = theirs(x, memory, tgt_mask=~causal_mask(5, 5), memory_key_padding_mask=~real)
    assert_close(ours(x, memory, real), expected)


@given(seeds, orders, activations)
def test_a_stack_agrees_with_torch(seed, pre_norm, activation):
    ours = decoder(seed, pre_norm=pre_norm, activation=activation)
    layer = nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=pre_norm)
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(8) if pre_norm else None).double()
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(decoder_layer_state(mine))
    if pre_norm:
        theirs.norm.load_state_dict(ours.final_norm.state_dict())
    tokens, memory, real = ids(2, 5, seed), noise(2, 4, 8, seed=seed), mask(4, 3)
    x = ours.embedding(tokens)
    expected = theirs(x, memory, tgt_mask=~causal_mask(5, 5), memory_key_padding_mask=~real)
    assert_close(ours(tokens, memory, real), expected)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cross_attention_asks_with_the_sublayer_below(pre_norm):
    layer = seeded(lambda: DecoderLayer(config(pre_norm=pre_norm)))
    asked = []
    layer.cross_attn.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    x, memory = noise(1, 4, 8), noise(1, 3, 8, seed=1)
    layer(x, memory)

    def self_attend(h):
        return layer.self_attn(h, *layer.self_attn.keys_values(h), causal_mask(4, 4))

    norm_1, norm_2 = layer.self_res.norm, layer.cross_res.norm
    expected = norm_2(x + self_attend(norm_1(x))) if pre_norm else norm_1(x + self_attend(x))
    assert_close(asked[0], expected)


def test_every_layer_reads_the_memory():
    dec, memory = decoder(n_layers=3), noise(1, 3, 8).requires_grad_()
    dec(ids(1, 4), memory).square().sum().backward()
    for layer in dec.layers:
        assert layer.cross_attn.v_proj.weight.grad.abs().sum() > 1e-6
        assert layer.cross_attn.k_proj.weight.grad.abs().sum() > 1e-6
    assert torch.all(memory.grad != 0)


def test_the_output_is_one_vector_of_the_models_width_per_position():
    assert decoder(vocab_size=50)(ids(3, 5), noise(3, 4, 8)).shape == (3, 5, 8)


def test_the_last_norm_is_pre_norms_alone_and_the_other_names_are_shared():
    names = {pre_norm: set(decoder(pre_norm=pre_norm).state_dict()) for pre_norm in (True, False)}
    assert names[True] - names[False] == {"final_norm.weight", "final_norm.bias"}
    assert names[False] < names[True]


def test_feed_forward_treats_every_position_by_itself():
    ffn, x = seeded(lambda: FeedForward(8, 16)), noise(2, 5, 8)
    alone = [ffn(x[:, i : i + 1]) for i in range(5)]
    assert_close(ffn(x), torch.cat(alone, 1))


def test_feed_forward_is_not_linear():
    ffn, x = seeded(lambda: FeedForward(8, 16)), noise(1, 5, 8)
    assert not torch.allclose(ffn(2 * x) - ffn(x), ffn(x) - ffn(0 * x))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n_layers", 0, "n_layers is 0; it must be at least 1"),
        ("vocab_size", -3, "vocab_size is -3"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("head_dim", 0, "head_dim is 0; it must be at least 1, or None"),
        ("end_id", 11, "end_id is 11; the vocabulary has ids 0 to 10"),
        ("pad_id", -1, "pad_id is -1; the vocabulary has ids 0 to 10"),
        ("norm", "batch", "norm is 'batch'; known are layer, rms"),
        ("activation", "tanh", "activation is 'tanh'; known are relu, gelu"),
        ("positions", "rotary", "positions is 'rotary'; known are sinusoidal, learned"),
    ],
)
def test_a_shape_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{field: value})


def test_a_shape_cannot_change():
    with pytest.raises(FrozenInstanceError):
        config().n_layers = 5


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="13 positions.*max_len is 12"):
        decoder()(ids(1, 13), noise(1, 3, 8))


def test_the_defaults_make_a_decoder():
    made = Decoder(StackConfig(vocab_size=9, max_len=4)).eval()
    assert made(ids(1, 4, vocab_size=9), torch.zeros(1, 2, 128)).isfinite().all()
