"""Norms agree with torch, and `Residual` puts them where its switch says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, noise, seeded, seeds
from torch import nn
from torch.nn.functional import layer_norm, rms_norm
from torch.testing import assert_close
from transformers.models.t5.modeling_t5 import T5LayerNorm

from annotated_decoder.normalization import LayerNorm, Residual, RMSNorm

widths = st.integers(2, 9)


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]), st.sampled_from([1e-5, 1e-2]))
def test_layer_norm_agrees_with_torch(width, seed, dtype, scale, eps):
    norm, x = seeded(lambda: LayerNorm(width, eps), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(norm(x), layer_norm(x, (width,), norm.weight, norm.bias, norm.eps))


@given(widths, seeds, dtypes, st.sampled_from([1.0, 1e-3]), st.sampled_from([1e-6, 1e-2]))
def test_rms_norm_agrees_with_torch(width, seed, dtype, scale, eps):
    norm, x = seeded(lambda: RMSNorm(width, eps), seed, dtype), scale * noise(2, 3, width, seed=seed, dtype=dtype)
    assert_near(norm(x), rms_norm(x, (width,), norm.weight, norm.eps))


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
    else:
        assert torch.equal(found, expected)


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
