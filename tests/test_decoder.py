"""The decoder is causal, agrees with torch's in both norm orders, and gives one vector per position."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    assert_near,
    config,
    decoder,
    ids,
    lengths,
    mask,
    memory_for,
    noise,
    other_token,
    seeded,
    seeds,
    shapes,
    some_visible,
)
from torch import nn
from torch.testing import assert_close
from torch_layers import decoder_layer_state, torch_layer, torch_shapes

from annotated_decoder.attention import causal_mask
from annotated_decoder.decoder import Decoder, DecoderLayer, FeedForward, KeyValueCache, StackConfig
from annotated_decoder.normalization import LayerNorm
from annotated_decoder.pretrained.parts import GatedFeedForward

sizes = st.integers(1, 5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@given(seeds, shapes, sizes, st.integers(1, 8), st.integers(0, 7), st.booleans())
def test_a_token_changes_its_own_and_later_outputs_only(dropout, seed, shape, batch, target, place, training):
    dec, tokens, place = decoder(seed, dropout=dropout, **shape), ids(batch, target, seed), place % target
    memory, real = memory_for(dec, batch, 4, seed), some_visible(batch, 4, seed=seed)
    dec.train(training)

    def run(tokens):
        torch.manual_seed(seed)
        return dec(tokens, memory, real)

    differs = run(tokens) != run(other_token(tokens, place))
    assert not differs[:, :place].any()
    if dropout == 0 or not training:
        assert differs[:, place:].any(-1).all()


@given(seeds, shapes, lengths, sizes)
def test_without_dropout_training_changes_nothing(seed, shape, sources, target):
    dec, tokens = decoder(seed, **shape), ids(len(sources), target, seed)
    memory, real = memory_for(dec, len(sources), max(sources), seed), mask(*sources)
    assert torch.equal(dec.train()(tokens, memory, real), dec.eval()(tokens, memory, real))


@given(seeds, shapes, lengths, sizes)
def test_a_batch_is_its_rows_one_by_one(seed, shape, sources, target):
    dec, tokens = decoder(seed, **shape), ids(len(sources), target, seed)
    memory = memory_for(dec, len(sources), max(sources), seed)
    together = dec(tokens, memory, mask(*sources))
    for i, length in enumerate(sources):
        assert_near(together[i : i + 1], dec(tokens[i : i + 1], memory[i : i + 1, :length]))


def test_dropout_is_random_in_training_and_absent_in_evaluation():
    dec, tokens, memory = decoder(dropout=0.3), ids(2, 5), noise(2, 4, 8)
    torch.manual_seed(0)
    assert torch.equal(dec(tokens, memory), dec(tokens, memory))
    assert torch.equal(dec(tokens, memory), decoder(dropout=0.0)(tokens, memory))
    dec.train()
    assert not torch.equal(dec(tokens, memory), dec(tokens, memory))


@given(seeds, torch_shapes, sizes, sizes, sizes)
def test_a_layer_agrees_with_torch(seed, shape, batch, target, source):
    dec = decoder(seed, **shape)
    theirs = torch_layer(nn.TransformerDecoderLayer, dec, shape["dtype"])
    theirs.load_state_dict(decoder_layer_state(dec.layers[0]))
    x, memory = memory_for(dec, batch, target, seed), memory_for(dec, batch, source, seed + 1)
    real = some_visible(batch, source, seed=seed)
    expected = theirs(x, memory, tgt_mask=~causal_mask(target, target), memory_key_padding_mask=~real)
    assert_near(dec.layers[0](x, memory, real), expected)


@given(seeds, torch_shapes, sizes, sizes, sizes)
def test_a_stack_agrees_with_torch(seed, shape, batch, target, source):
    ours = decoder(seed, **shape)
    layer = torch_layer(nn.TransformerDecoderLayer, ours, shape["dtype"])
    norm = nn.LayerNorm(ours.config.d_model, dtype=shape["dtype"]) if shape["pre_norm"] else None
    theirs = nn.TransformerDecoder(layer, shape["n_layers"], norm)
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(decoder_layer_state(mine))
    if norm:
        norm.load_state_dict(ours.final_norm.state_dict())
    tokens, memory = ids(batch, target, seed), memory_for(ours, batch, source, seed)
    x, real = ours.embedding(tokens), some_visible(batch, source, seed=seed)
    expected = theirs(x, memory, tgt_mask=~causal_mask(target, target), memory_key_padding_mask=~real)
    assert_near(ours(tokens, memory, real), expected)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cross_attention_asks_with_the_sublayer_below(pre_norm):
    layer = seeded(lambda: DecoderLayer.of(config(pre_norm=pre_norm)))
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


@given(seeds, shapes, sizes, sizes)
def test_feed_forward_treats_every_position_by_itself(seed, shape, batch, length):
    dec = decoder(seed, **shape)
    ffn, x = dec.layers[0].ffn, memory_for(dec, batch, length, seed)
    alone = [ffn(x[:, i : i + 1]) for i in range(length)]
    assert_near(ffn(x), torch.cat(alone, 1))


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_feed_forward_is_not_linear(kind):
    ffn, x = seeded(lambda: kind(8, 16)), noise(1, 5, 8)
    assert not torch.allclose(ffn(2 * x) - ffn(x), ffn(x) - ffn(0 * x))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n_layers", 0, "n_layers is 0; it must be a whole number of at least 1"),
        ("d_model", 0, "d_model is 0; it must be a whole number of at least 1"),
        ("vocab_size", -3, "vocab_size is -3"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("dropout", 1.5, "dropout is 1.5; it must be at least 0 and below 1"),
        ("dropout", -0.5, "dropout is -0.5; it must be at least 0 and below 1"),
        ("end_id", 11, "end_id is 11; the vocabulary has ids 0 to 10"),
        ("pad_id", -1, "pad_id is -1; the vocabulary has ids 0 to 10"),
        ("end_id", 12, "end_id is 12; the vocabulary has ids 0 to 10"),
    ],
)
def test_a_shape_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{field: value})


def test_parts_that_do_not_fit_are_refused_where_they_are_made():
    plain = dict(vocab_size=9, max_len=4, d_model=8)
    with pytest.raises(ValueError, match="3 heads do not divide d_model = 8"):
        Decoder.of(StackConfig(**plain | dict(n_heads=3)))
    with pytest.raises(ValueError, match="= 7 must be even"):
        Decoder.of(StackConfig(**plain | dict(d_model=7, n_heads=1)))


def test_a_shape_cannot_change():
    with pytest.raises(FrozenInstanceError):
        config().n_layers = 5


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="13 positions.*max_len is 12"):
        decoder()(ids(1, 13), noise(1, 3, 8))


def test_the_defaults_make_a_decoder():
    made = Decoder.of(StackConfig(vocab_size=9, max_len=4)).eval()
    assert made(ids(1, 4, vocab_size=9), torch.zeros(1, 2, 128)).isfinite().all()
    assert (len(made.layers), made.layers[0].ffn.up_proj.out_features) == (3, 512)
    assert [layer.index for layer in made.layers] == [0, 1, 2] and DecoderLayer.of(made.config).index == 0
    assert isinstance(made.final_norm, LayerNorm)    # pre-norm


def test_a_shape_is_given_by_name():
    with pytest.raises(TypeError):
        StackConfig(9, 4)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_norms_stand_before_each_sublayer_or_after_it(pre_norm):
    layer, order = seeded(lambda: DecoderLayer.of(config(pre_norm=pre_norm))), []
    for name, module in layer.named_modules():
        if isinstance(module, LayerNorm) or name in ("self_attn", "cross_attn", "ffn"):
            letter = "N" if isinstance(module, LayerNorm) else "S"
            module.register_forward_pre_hook(lambda *_, letter=letter: order.append(letter))
    layer(noise(1, 4, 8), noise(1, 3, 8))
    assert "".join(order) == ("NS" if pre_norm else "SN") * 3


@pytest.mark.parametrize("pre_norm", [True, False])
def test_weights_of_the_other_order_are_refused_by_the_last_norms_name(pre_norm):
    ours, others = decoder(pre_norm=pre_norm), decoder(pre_norm=not pre_norm)
    with pytest.raises(RuntimeError, match="final_norm.weight"):
        ours.load_state_dict(others.state_dict())
    ours.layers.load_state_dict(others.layers.state_dict())    # a layer has the same names in either order


def test_a_decoder_asks_four_things_of_a_cache():
    class Diary:
        "Remembers nothing, and writes down what it is asked."

        def __init__(self):
            self.length, self.asked = 0, []

        def extend(self, layer, k, v):
            self.asked.append(f"extend {layer}")
            return k, v

        def keep(self, layer, project):
            self.asked.append(f"keep {layer}")
            return project()

        def advance(self, n_tokens):
            self.asked.append(f"advance {n_tokens}")

    dec, diary, tokens, memory = decoder(), Diary(), ids(1, 6), noise(1, 4, 8)
    assert isinstance(diary, KeyValueCache)
    assert torch.equal(dec(tokens, memory, cache=diary), dec(tokens, memory))
    assert diary.asked == ["extend 0", "keep 0", "extend 1", "keep 1", "advance 6"]


@given(seeds, shapes, sizes)
def test_gradients_of_a_batch_are_the_sum_of_its_rows(seed, shape, target):
    dec, tokens = decoder(seed, **shape), ids(2, target, seed)
    memory, real = memory_for(dec, 2, 5, seed), mask(3, 5)

    def gradients(*inputs):
        dec.zero_grad()
        dec(*inputs).square().sum().backward()
        return [p.grad for p in dec.parameters()]

    together = gradients(tokens, torch.where(real[..., None], memory, torch.nan), real)
    first, second = gradients(tokens[:1], memory[:1, :3]), gradients(tokens[1:], memory[1:])
    largest = max(g.abs().max() for g in together)
    for both, one, other in zip(together, first, second, strict=True):
        assert_near(both / largest, (one + other) / largest)


def test_a_layer_sees_what_its_mask_lets_it_see():
    def last_two(n_queries, n_keys, device=None):
        return causal_mask(n_queries, n_keys, device).triu(n_keys - n_queries - 1)

    papers = DecoderLayer.of(config())
    residuals = papers.self_res, papers.cross_res, papers.ffn_res
    near = DecoderLayer(papers.self_attn, papers.cross_attn, papers.ffn, residuals, mask=last_two).double()
    x, memory = noise(1, 5, 8), noise(1, 3, 8)
    changed = x.clone()
    changed[:, 1, 0] += 1
    assert (near(changed, memory) != near(x, memory)).any(-1)[0].tolist() == [False, True, True, False, False]
