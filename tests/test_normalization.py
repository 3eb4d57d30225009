"""Norms agree with torch, and `Residual` puts them where its switch says."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, noise, seeded, seeds
from torch import nn
from torch.nn.functional import layer_norm, rms_norm
from torch.testing import assert_close

from annotated_decoder.normalization import LayerNorm, Residual, RMSNorm

widths = st.integers(2, 9)


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]))
def test_layer_norm_agrees_with_torch(width, seed, dtype, scale):
    norm, x = seeded(lambda: LayerNorm(width), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(norm(x), layer_norm(x, (width,), norm.weight, norm.bias, norm.eps))


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]))
def test_rms_norm_agrees_with_torch(width, seed, dtype, scale):
    norm, x = seeded(lambda: RMSNorm(width), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(norm(x), rms_norm(x, (width,), norm.weight, norm.eps))


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
    assert_near(Residual(norm, 0.0, pre_norm=True)(x, f), x + f(norm(x)))
    assert_near(Residual(norm, 0.0, pre_norm=False)(x, f), norm(x + f(x)))


def test_a_silent_sublayer_leaves_pre_norm_the_identity():
    norm, x = seeded(lambda: LayerNorm(6)), noise(2, 3, 6)
    assert torch.equal(Residual(norm, 0.0, pre_norm=True)(x, torch.zeros_like), x)
    assert_close(Residual(norm, 0.0, pre_norm=False)(x, torch.zeros_like), norm(x))


def test_dropout_falls_on_the_sublayer_and_never_on_the_shortcut():
    x = torch.full((1, 50, 20), 10.0)
    out = Residual(nn.Identity(), 0.5, pre_norm=True)(x, torch.ones_like)
    assert set(out.unique().tolist()) == {10.0, 12.0}
    assert 0.4 < (out == 10.0).double().mean() < 0.6
