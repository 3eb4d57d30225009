"""A fast model computes less and says the same; what int8 changes is bounded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    assert_near,
    decoder,
    few,
    ids,
    lengths,
    mask,
    memory_for,
    model,
    noise,
    seeds,
    shapes,
    some_visible,
)  # fmt: skip
from torch import nn
from torch.testing import assert_close

from annotated_decoder.caching import Cache
from annotated_decoder.decoder import StackConfig
from annotated_decoder.fast_decoding import (
    FastLayer,
    Int8Linear,
    StaticCache,
    fast,
    in_whole_numbers,
    joined,
    step_bytes,
    whole_rows,
)  # fmt: skip
from annotated_decoder.generation import EncoderDecoder, generate, generate_steps
from annotated_decoder.pretrained.parts import ScaledProjection
from annotated_decoder.pronunciation.model import pronouncer
from annotated_decoder.strategies import beam_search, sampler

chunkings = st.lists(st.integers(1, 4), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) <= 12)
kinds = st.sampled_from([Cache, lambda: StaticCache(12), lambda: StaticCache(30)])


def all_ids(made, source, real, cache=Cache):
    "Greedily, drawn, and by a beam of four."
    dice = torch.Generator().manual_seed(5)
    asked = made, source, real
    beams = beam_search(*asked, width=4, max_steps=6, cache=cache())
    drawn = generate(*asked, choose=sampler(generator=dice), max_steps=8, cache=cache())
    return generate(*asked, cache=cache()).tolist(), drawn.tolist(), [[h.tokens for h in found] for found in beams]


# The cache with room.
@given(seeds, shapes, chunkings, st.integers(1, 3), st.integers(1, 5), st.booleans())
def test_reading_in_any_chunks_into_a_room_is_reading_all(seed, shape, chunks, batch, source, quick):
    dec, cache = decoder(seed, **shape), StaticCache(12)
    tokens, memory = ids(batch, sum(chunks), seed), memory_for(dec, batch, source, seed)
    real = some_visible(batch, source, seed=seed)
    expected = dec(tokens, memory, real)
    if quick:
        dec.layers = nn.ModuleList(FastLayer(layer) for layer in dec.layers)
        assert_near(dec(tokens, memory, real), expected)
    parts = [dec(chunk, memory, real, cache) for chunk in tokens.split(chunks, 1)]
    assert_near(torch.cat(parts, 1), expected)
    assert cache.length == sum(chunks)


@given(seeds, shapes, st.lists(st.integers(0, 11), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 6))
def test_after_a_reorder_each_row_goes_on_from_the_row_it_took(seed, shape, rows, n_past, n_new):
    dec, cache, batch = decoder(seed, **shape), StaticCache(12), len(rows)
    rows, memory = torch.tensor(rows) % batch, memory_for(dec, 1, 4, seed).expand(batch, -1, -1)
    past, new = ids(batch, n_past, seed), ids(batch, n_new, seed + 1)
    dec(past, memory, cache=cache)
    cache.reorder(rows)
    expected = dec(torch.cat([past[rows], new], 1), memory)[:, n_past:]
    assert_near(dec(new, memory, cache=cache), expected)


@pytest.mark.parametrize("rows", [[0], [0, 1, 1]])
def test_a_room_is_not_reordered_to_another_number_of_rows(rows):
    dec, cache = decoder(), StaticCache(12)
    dec(ids(2, 2), noise(2, 4, 8), cache=cache)
    with pytest.raises(ValueError, match=f"{len(rows)} rows for a cache of 2; where rows leave, take a Cache"):
        cache.reorder(torch.tensor(rows))


def test_the_room_is_made_once_and_its_bytes_are_counted():
    dec, cache = decoder(n_layers=3), StaticCache(12)
    assert cache.nbytes == 0
    for _ in range(3):
        dec(ids(2, 2), noise(2, 4, 8), cache=cache)
        places = {layer: (k.data_ptr(), v.data_ptr()) for layer, (k, v) in cache.room.items()}
        first = dict(places) if cache.length == 2 else first
        cache.reorder(torch.tensor([1, 0]))
        assert places == first == {i: (k.data_ptr(), v.data_ptr()) for i, (k, v) in cache.self_kv.items()}
    assert cache.self_kv[0][0].shape == (2, 2, 6, 4)
    assert cache.nbytes == 3 * 2 * 2 * 8 * (12 + 4) * 8    # layers · (k, v) · batch · width · positions · bytes


def test_two_rooms_do_not_meet():
    dec, memory, tokens = decoder(), noise(1, 4, 8), ids(1, 6)
    first, second = StaticCache(12), StaticCache(12)
    dec(tokens[:, :3], memory, cache=first)
    dec(ids(1, 5, seed=9), memory + 1, cache=second)
    assert_close(dec(tokens[:, 3:], memory, cache=first), dec(tokens, memory)[:, 3:])


def test_what_does_not_fit_is_refused():
    dec, memory, cache = decoder(), noise(1, 4, 8), StaticCache(3)
    dec(ids(1, 2), memory, cache=cache)
    with pytest.raises(ValueError, match="4 tokens, but the cache has room for 3; make a larger one"):
        dec(ids(1, 2), memory, cache=cache)
    dec(ids(1, 1), memory, cache=cache)    # the last place is taken too
    for max_len in (0, -1):
        with pytest.raises(ValueError, match=f"max_len is {max_len}; make it at least 1"):
            StaticCache(max_len)


@pytest.mark.parametrize("n_past", [0, 3])
def test_a_decode_that_broke_off_cannot_go_on(n_past):
    dec, cache, memory = decoder(), StaticCache(12), noise(1, 4, 8)
    if n_past:
        dec(ids(1, n_past), memory, cache=cache)
    breaks = dec.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dec(ids(1, 2), memory, cache=cache)
    breaks.remove()
    message = f"layer 0 has keys of {n_past + 2} tokens, the decoder has read {n_past}; make a new cache"
    with pytest.raises(ValueError, match=message):
        dec(ids(1, 2), memory, cache=cache)


# Fast layers.
@given(seeds, st.integers(1, 4), st.booleans(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_a_joined_product_gives_its_parts_side_by_side(seed, inputs, bias, outputs):
    torch.manual_seed(seed)
    parts = [nn.Linear(inputs, n, bias).double() for n in outputs]
    whole, x = joined(*parts), noise(2, 3, inputs, seed=seed)
    assert (whole.in_features, whole.out_features) == (inputs, sum(outputs))
    assert_close(whole(x), torch.cat([part(x) for part in parts], -1))


@few
@given(seeds, shapes, lengths, kinds)
def test_a_fast_model_gives_the_same_steps(seed, shape, sources, cache):
    made, source, real = model(seed, end_bias=1.0, **shape), ids(len(sources), max(sources), seed), mask(*sources)
    plain = list(generate_steps(made, source, real, cache=Cache()))
    quick = list(generate_steps(fast(made), source, real, cache=cache()))
    for a, b in zip(plain, quick, strict=True):
        assert torch.equal(a.tokens, b.tokens)
        assert_near(a.logits, b.logits)
    assert_near(fast(made)(source, ids(len(sources), 4), real), made(source, ids(len(sources), 4), real))


@few
@given(seeds, shapes.map(lambda shape: shape | {"dtype": torch.float64}), lengths, kinds)
def test_a_fast_model_says_the_same_however_it_is_asked(seed, shape, sources, cache):
    made = model(seed, end_bias=1.0, **shape)
    source, real = ids(len(sources), max(sources), seed), mask(*sources)
    assert all_ids(fast(made), source, real, cache) == all_ids(made, source, real)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_shipped_model_says_the_same_when_it_is_fast(batch):
    trained = pronouncer()
    examples = [trained.example(word).source for word in ("queue", "a", "nebulizing", "psalm", "xylophone")[:batch]]
    source, real = torch.zeros(batch, max(map(len, examples)), dtype=torch.long), mask(*map(len, examples))
    source[real] = torch.tensor(sum(map(list, examples), []))
    quick = fast(trained.model)
    assert all_ids(quick, source, real, lambda: StaticCache(48)) == all_ids(trained.model, source, real)


@pytest.mark.parametrize("positions, of_one", [("learned", None), ("relative", (2, 1, 3))])
def test_a_single_query_gets_no_mask_unless_the_family_needs_one(positions, of_one):
    made, asked = model(positions=positions), []
    quick, memory = fast(made), noise(1, 3, 8)
    for layer in quick.decoder.layers:
        layer.read = lambda q, k, v, mask, read=layer.read: asked.append(mask) or read(q, k, v, mask)
    cache = StaticCache(12)
    for n in (2, 1):
        quick.decoder(ids(1, n), memory, cache=cache)
    of_two = (2, 2) if of_one is None else (2, 2, 2)
    assert [None if m is None else tuple(m.shape) for m in asked] == [of_two, None] * 2 + [of_one, None] * 2


def test_the_copy_is_a_copy_for_decoding():
    made = model(positions="relative", tied=True)
    made.train()
    before = {name: p.clone() for name, p in made.state_dict().items()}
    quick = fast(made)
    assert made.training and not quick.training and all(p.requires_grad for p in made.parameters())
    assert not any(p.requires_grad for p in quick.parameters())
    assert quick.projection.weight is quick.decoder.embedding.tokens.weight
    assert quick.decoder.layers[0].mask.__self__ is quick.decoder.relative is not made.decoder.relative
    with torch.no_grad():
        for p in quick.parameters():
            p.zero_()
    assert all(torch.equal(p, before[name]) for name, p in made.state_dict().items())


def test_a_padded_memory_does_not_matter_to_a_fast_layer():
    dec, real = decoder(), mask(3, 1)
    layer, x, memory = FastLayer(dec.layers[0]), noise(2, 4, 8), noise(2, 3, 8)
    spoiled = memory.masked_fill(~real[..., None], torch.nan)
    assert torch.equal(layer(x, spoiled, real), layer(x, memory, real))


def test_what_cannot_be_made_fast_is_refused(monkeypatch):
    made = model(dtype=torch.float32)
    with pytest.raises(ValueError, match="the model is fast already; give the one it came from"):
        fast(fast(made))
    with pytest.raises(ValueError, match="int8 goes with torch.float32, and dtype is torch.bfloat16"):
        fast(made, torch.bfloat16, int8=True)
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack", "none"])
    with pytest.raises(ValueError, match="torch has qnnpack, none here, int8 needs x86 or onednn; leave int8 out"):
        fast(made, int8=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_fast_model_has_the_numbers_that_were_asked_for(dtype):
    quick = fast(model(positions="relative", norm="rms"), dtype)
    assert {p.dtype for p in quick.parameters()} == {dtype}
    for beams in all_ids(quick, ids(2, 3), mask(3, 2), lambda: StaticCache(12)):
        assert len(beams) == 2


# Whole numbers.
@given(seeds, st.integers(1, 5), st.integers(1, 40), st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_weight_is_off_by_half_a_scale_of_its_own_row_at_most(seed, outputs, inputs, size):
    weight = noise(outputs, inputs, seed=seed, dtype=torch.float32) * size
    weight[seed % outputs] *= 100
    rows, scale = whole_rows(weight), weight.abs().amax(1, keepdim=True) / 127
    whole = rows.int_repr().int()
    assert whole.abs().amax(1).tolist() == [127] * outputs
    assert ((rows.dequantize() - weight).abs() <= scale * (0.5 + 1e-4)).all()
    assert_close(rows.dequantize(), whole * scale)


def test_rows_of_zeros_stay_zeros():
    weight = torch.zeros(2, 3)
    weight[1, 0] = -2.0
    rows = whole_rows(weight)
    assert rows.int_repr().tolist() == [[0, 0, 0], [-127, 0, 0]]
    assert (rows.q_per_channel_scales() > 0).all()    # a kernel may divide by it
    assert Int8Linear(weight, torch.ones(2))(torch.ones(1, 3)).isfinite().all()


@given(seeds, st.integers(1, 3), st.integers(2, 40), st.booleans())
def test_a_product_of_whole_numbers_is_off_by_the_rounding_of_both(seed, rows, inputs, bias):
    weight, x = (noise(n, inputs, seed=seed + n, dtype=torch.float32) for n in (5, rows))
    shift = noise(5, seed=seed, dtype=torch.float32) if bias else None
    scale = weight.abs().amax(1) / 127
    step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 127    # 7 bits for what comes in, 0 among them
    off = (Int8Linear(weight, shift)(x) - nn.functional.linear(x, weight, shift)).abs()
    most = inputs * (0.5 * scale * x.abs().max() + step * weight.abs().amax(1) + 0.5 * scale * step)
    assert (off <= most + 1e-4).all()


def test_int8_stands_in_every_linear_layer_and_the_engine_is_as_before(monkeypatch):
    before = "onednn"    # the second choice, where both are there
    monkeypatch.setattr(torch.backends.quantized, "engine", before)
    made = model(dtype=torch.float32, gated=True, tied=True)
    small = fast(made, int8=True)
    assert torch.backends.quantized.engine == before
    kinds_of = [type(part) for part in small.modules()]
    assert nn.Linear not in kinds_of and kinds_of.count(Int8Linear) == 2 * 7 + 2 * (5 + 3) + 1
    assert {type(part) for part in made.modules()}.isdisjoint({Int8Linear, FastLayer})
    assert small.decoder.embedding.tokens.weight.dtype == torch.float32


@few
@given(seeds, shapes)
def test_int8_changes_logits_by_little(seed, shape):
    made = model(seed, **shape | {"dtype": torch.float64})
    small, source, tokens = fast(made, int8=True), ids(2, 4, seed), ids(2, 3, seed)
    right, found = made(source, tokens), small(source, tokens)
    assert found.dtype == torch.float32
    assert (found - right).norm() <= 0.5 * right.norm() + 0.5
    assert len(all_ids(small, source, mask(4, 2), lambda: StaticCache(12))[0]) == 2


def test_a_familys_factor_of_the_logits_is_kept():
    made = model(dtype=torch.float32)
    made.projection = ScaledProjection(8, 11, made.projection.weight, bias=True, scale=0.25)
    x = noise(3, 8, dtype=torch.float32)
    expected = made.projection(x)
    assert (in_whole_numbers(made).projection(x) - expected).abs().max() < 0.1


# What a step reads.
def test_step_bytes_are_those_of_the_layers_and_the_projection_without_the_memorys():
    d, d_ff, v, n = 8, 16, 11, 3
    side = StackConfig(vocab_size=v, max_len=12, d_model=d, n_heads=2, d_ff=d_ff, n_layers=n)
    made = EncoderDecoder.of(side, side)
    layer = 6 * d * d + 6 * d + 2 * d * d_ff + d + d_ff + 3 * 2 * d
    assert step_bytes(made) == 4 * (n * layer + 2 * d + v * d + v)
    assert step_bytes(made.double()) == 8 * (n * layer + 2 * d + v * d + v)
    made.float()
    assert step_bytes(fast(made)) == step_bytes(made)
    assert step_bytes(fast(made, torch.bfloat16)) == step_bytes(made) // 2
    in_bytes = n * (6 * d * d + 2 * d * d_ff) + v * d                             # of the weights, and then a
    rows = n * (6 * d + d_ff + d) + v                                             # scale and a bias for each row,
    norms = n * 6 * d + 2 * d
    assert step_bytes(fast(made, int8=True)) == in_bytes + 8 * rows + 4 * norms   # and the norms
