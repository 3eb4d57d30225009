"""Norms are their formulas, and `Residual` puts them where its switch says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, noise, seeded, seeds
from torch import nn
from torch.testing import assert_close
from transformers.models.t5.modeling_t5 import T5LayerNorm

from annotated_decoder.normalization import LayerNorm, Residual, RMSNorm

widths = st.integers(2, 9)


def around(residual, x, f):
    "As a layer writes it."
    return residual.add(x, f(residual.read(x)))


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]), st.sampled_from([1e-5, 1e-2]))
def test_layer_norm_is_its_formula(width, seed, dtype, scale, eps):
    norm, x = seeded(lambda: LayerNorm(width, eps), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    centred = x - x.mean(-1, keepdim=True)
    assert_near(norm(x), centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * norm.weight + norm.bias)


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]), st.sampled_from([1e-6, 1e-2]))
def test_rms_norm_is_its_formula(width, seed, dtype, scale, eps):
    norm, x = seeded(lambda: RMSNorm(width, eps), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(norm(x), x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * norm.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(widths, seeds, st.sampled_from([1.0, 300.0]), st.sampled_from([1e-6, 1e-2]))
def test_rms_norm_is_t5s(dtype, width, seed, scale, eps):
    ours, theirs = seeded(lambda: RMSNorm(width, eps), seed).to(dtype), T5LayerNorm(width, eps).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = (scale * noise(2, 3, width, seed=seed)).to(dtype)
    found, expected = ours(x), theirs(x)
    assert found.dtype == dtype
    if dtype == torch.float64:    # T5's squares are in single precision even here
        assert_close(found, expected, atol=1e-6, rtol=1e-6)
    elif dtype == torch.float32:
        assert torch.equal(found, expected)
    else:    # T5 rounds to half precision once more, before the weight
        assert_close(found, expected)


def test_in_half_precision_large_numbers_are_not_wiped_out():
    x = torch.full((1, 4), 300.0, dtype=torch.float16)    # its square is beyond the largest number
    assert RMSNorm(4).half()(x).tolist() == [[1.0] * 4]


def test_layer_norm_ignores_scale_and_shift_and_rms_norm_only_scale():
    x, layer, rms = noise(5, 8), LayerNorm(8).double(), RMSNorm(8).double()
    assert_close(layer(30 * x + 7), layer(x), atol=1e-4, rtol=0)
    assert_close(rms(30 * x), rms(x), atol=1e-4, rtol=0)
    assert not torch.allclose(rms(x + 7), rms(x), atol=0.1)


def test_a_constant_vector_stays_finite():
    for norm in (LayerNorm(4), RMSNorm(4)):
        assert norm(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


@given(widths, seeds, dtypes, st.sampled_from([LayerNorm, RMSNorm]))
def test_residual_normalizes_before_the_sublayer_or_after_the_sum(width, seed, dtype, kind):
    norm, f = seeded(lambda: kind(width), seed, dtype), seeded(lambda: nn.Linear(width, width), seed, dtype)
    x = noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(around(Residual(norm, 0.0, pre_norm=True), x, f), x + f(norm(x)))
    assert_near(around(Residual(norm, 0.0, pre_norm=False), x, f), norm(x + f(x)))


def test_a_silent_sublayer_leaves_pre_norm_the_identity():
    norm, x = seeded(lambda: LayerNorm(6)), noise(2, 3, 6)
    assert torch.equal(around(Residual(norm, 0.0, pre_norm=True), x, torch.zeros_like), x)
    assert_close(around(Residual(norm, 0.0, pre_norm=False), x, torch.zeros_like), norm(x))


def test_dropout_falls_on_the_sublayer_and_never_on_the_shortcut():
    x = torch.full((1, 50, 20), 10.0)
    out = around(Residual(nn.Identity(), 0.5, pre_norm=True), x, torch.ones_like)
    assert set(out.unique().tolist()) == {10.0, 12.0}
    assert 0.4 < (out == 10.0).double().mean() < 0.6


def test_a_constant_vector_becomes_the_shift():
    norm = seeded(lambda: LayerNorm(4))
    assert_close(norm(torch.full((1, 4), 7.0).double())[0], norm.bias)    # 0 over √ε, no division by 0


@pytest.mark.parametrize("kind, other", [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)])
def test_norms_take_the_weights_of_torchs_modules(kind, other):
    ours, x = seeded(lambda: kind(16)), noise(2, 5, 16)
    theirs = other(16, eps=ours.eps).double()
    theirs.load_state_dict(ours.state_dict())
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_each_position_is_normalized_by_itself(kind):
    norm, x = seeded(lambda: kind(6)), noise(2, 5, 6)
    changed = x.clone()
    changed[:, 3] = torch.arange(6.0)
    assert (norm(changed) != norm(x)).any(-1).tolist() == [[False, False, False, True, False]] * 2


def test_in_training_without_dropout_a_residual_is_the_same():
    res, x = Residual(LayerNorm(6).double(), 0.0, pre_norm=True), noise(2, 3, 6)
    assert torch.equal(around(res.train(), x, torch.sin), around(res.eval(), x, torch.sin))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_residuals_around_the_parts_of_torchs_layer_give_its_output(pre_norm):
    theirs = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=pre_norm).double()
    x = noise(2, 5, 16)
    y = around(Residual(theirs.norm1, 0.0, pre_norm), x, lambda h: theirs.self_attn(h, h, h)[0])
    y = around(Residual(theirs.norm2, 0.0, pre_norm), y, lambda h: theirs.linear2(theirs.linear1(h).relu()))
    assert_near(y, theirs(x))
