"""Checkpoints of Marian, BART, T5, Whisper and their relatives here give the numbers of transformers."""

import json
import os
from dataclasses import replace

import pytest
import reference
import torch
from reference import KINDS, their_ids, their_logits, theirs, tokens_for, write
from torch import nn
from torch.testing import assert_close
from transformers import BartModel, T5ForConditionalGeneration
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.umt5.modeling_umt5 import UMT5LayerNorm

from annotated_decoder.caching import Cache
from annotated_decoder.embedding import sinusoids
from annotated_decoder.normalization import Residual
from annotated_decoder.pretrained import families, loading
from annotated_decoder.pretrained import folder as model_folder
from annotated_decoder.pretrained.families import FAMILIES
from annotated_decoder.pretrained.loading import AudioEmbedding, Checkpoint, generation_settings, load_pretrained
from annotated_decoder.pretrained.parts import GuardedResidual, WideLinear, sinusoid_halves, sinusoids_from_two

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "many"
# Of the largest logit. T5's norm runs in single precision there, whatever the model's own, as a test below shows.
T5S = [kind for kind in KINDS if "t5" in kind]
BOUND = {kind: 1e-6 if kind in T5S else 1e-12 for kind in KINDS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "A tiny checkpoint of each kind."
    home = tmp_path_factory.mktemp("checkpoints")
    for kind in KINDS:
        write(home / kind, kind)
    return {kind: home / kind for kind in KINDS}


@torch.no_grad()
def difference(ours, other, kind):
    "The largest difference of logits, over the largest logit; of padded rows too."
    dtype = next(ours.parameters()).dtype
    (source, mask), tokens = reference.source_for(kind, dtype=dtype), tokens_for()
    expected = their_logits(other, kind, source, mask, tokens)
    return ((ours(source, tokens, mask) - expected).abs().max() / expected.abs().max()).item()


def changed(folder, tmp_path, config=None, **files):
    "A copy of a checkpoint's folder with other fields in config.json (None: left out), or other files."
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = json.loads((folder / "config.json").read_text()) | (config or {})
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
    return tmp_path


# The numbers


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_agrees_to_the_bound(kind, folders):
    other = theirs(folders[kind], kind)
    assert other.config._attn_implementation == "eager"
    assert difference(load_pretrained(folders[kind], dtype=torch.float64), other, kind) < BOUND[kind]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_single_precision_agrees_but_for_rounding(kind, folders):
    source, mask = reference.source_for(kind, dtype=torch.float32)
    expected = their_logits(theirs(folders[kind], kind, torch.float32), kind, source, mask, tokens_for())
    found = load_pretrained(folders[kind])(source, tokens_for(), mask)
    assert found.dtype == torch.float32
    # Ours is the fused attention, theirs written out, so that they round apart.
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[1] * 7, [3, 4]])
@torch.no_grad()
def test_a_cache_changes_nothing(kind, sizes, folders):
    ours, cache = load_pretrained(folders[kind], dtype=torch.float64), Cache()
    (source, mask), tokens = reference.source_for(kind), tokens_for()
    memory = ours.encode(source, mask)
    chunks = [ours.decode(chunk, memory, mask, cache) for chunk in tokens.split(sizes, 1)]
    full = ours(source, tokens, mask)
    assert_close(torch.cat(chunks, 1), full, atol=1e-11 * full.abs().max().item(), rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "whisper"])
@torch.no_grad()
def test_more_padding_changes_nothing(kind, folders):
    ours = load_pretrained(folders[kind], dtype=torch.float64)
    (source, mask), tokens = reference.source_for(kind), tokens_for()
    for row in range(len(source)):
        n = int(mask[row].sum())
        alone = ours(source[row : row + 1, :n], tokens[row : row + 1])
        assert_close(ours(source, tokens, mask)[row : row + 1], alone, atol=1e-11 * alone.abs().max().item(), rtol=0)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_transformers(kind, beams, tmp_path):
    write(tmp_path, kind, beams, wild=True)
    settings, ours = generation_settings(tmp_path), load_pretrained(tmp_path, dtype=torch.float64)
    source, mask = reference.source_for(kind)
    expected = their_ids(theirs(tmp_path, kind), kind, source, mask, settings.prompt)
    assert len({token for row in expected for token in row}) >= 5 and len({len(row) for row in expected}) >= 2
    assert settings.width == beams and settings(ours, source, mask) == expected


def test_a_folder_is_read_once_for_all_that_follows_from_it(folders, monkeypatch):
    seen = []

    def counted(name):
        whole = getattr(loading, name)
        monkeypatch.setattr(loading, name, lambda *a: seen.append(name) or whole(*a))

    for name in ("local_folder", "family_of", "stack_shape", "stored_tensors"):
        counted(name)
    read = loading.JsonFile.read
    monkeypatch.setattr(loading.JsonFile, "read", lambda path, *a: seen.append(path.name) or read(path, *a))
    checkpoint = Checkpoint(folders["bart"])
    one, two = checkpoint.model(), checkpoint.model(torch.float64)
    assert checkpoint.decoding() == checkpoint.decoding() == generation_settings(folders["bart"])
    assert torch.equal(one.projection.weight.double(), two.projection.weight)
    first = seen[: len(seen) - 6]    # the last call read anew: folder, two files, family, two shapes
    files = ["config.json", "generation_config.json"]
    assert sorted(first) == sorted(["local_folder", *files, "family_of", *2 * ["stack_shape"], "stored_tensors"])


# How it is stored


@pytest.mark.parametrize("kind", KINDS)
def test_shards_hold_the_same_model(kind, folders, tmp_path):
    write(tmp_path, kind, shards="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    one, several = load_pretrained(folders[kind]).state_dict(), load_pretrained(tmp_path).state_dict()
    assert one.keys() == several.keys() and all(torch.equal(one[name], several[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_is_whole_and_ready_and_draws_no_random_numbers(kind, folders):
    state = torch.get_rng_state()
    ours = load_pretrained(folders[kind], dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in ours.modules())
    tensors = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16} and not any(t.is_meta for t in tensors.values())


def test_one_table_is_shared_as_in_the_file(folders):
    for kind in KINDS:
        ours = load_pretrained(folders[kind])
        tables = ours.projection.weight, ours.decoder.embedding.tokens.weight
        assert tables[0] is tables[1], kind
        if kind not in ("marian, two vocabularies", "whisper"):
            assert ours.encoder.embedding.tokens.weight is tables[0]
    apart = load_pretrained(folders["marian, two vocabularies"])
    assert apart.encoder.embedding.tokens.weight.shape != apart.decoder.embedding.tokens.weight.shape


@pytest.mark.parametrize("kind", ["marian", "bart", "mbart", "blenderbot", "pegasus", "m2m_100", "whisper"])
def test_an_untied_head_is_its_own(kind, tmp_path):
    write(tmp_path, kind, tie_word_embeddings=False)
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert not torch.equal(ours.projection.weight, ours.decoder.embedding.tokens.weight)
    assert difference(ours, theirs(tmp_path, kind), kind) < BOUND[kind]


def test_equal_tables_under_several_names_become_one(folders, tmp_path):
    tensors = stored(folders["bart"])
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors["model.shared.weight"].clone()
    ours = load_pretrained(resaved(folders["bart"], tmp_path, tensors))
    assert len({id(table) for table in (ours.projection.weight, ours.encoder.embedding.tokens.weight)}) == 1


def test_a_table_may_be_stored_under_the_heads_name_alone(folders, tmp_path):
    tensors = stored(folders["t5"])
    tensors["lm_head.weight"] = tensors.pop("shared.weight")
    resaved(folders["t5"], tmp_path, tensors)
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert difference(ours, theirs(tmp_path, "t5"), "t5") < BOUND["t5"]


@pytest.mark.parametrize("kind", ["t5, gated", "mt5", "umt5"])
@pytest.mark.parametrize("tied", [True, False, None])    # as newer files say, older ones, and where nothing is said
def test_a_t5_with_a_head_of_its_own(kind, tied, folders, tmp_path):
    tensors = stored(folders[kind])
    tensors["lm_head.weight"] = torch.randn(tensors["shared.weight"].shape)
    resaved(folders[kind], tmp_path, tensors, tie_word_embeddings=tied, scale_decoder_outputs=None)
    ours, other = load_pretrained(tmp_path, dtype=torch.float64), theirs(tmp_path, kind)
    assert ours.projection.weight is not ours.decoder.embedding.tokens.weight
    assert difference(ours, other, kind) < BOUND[kind]
    assert ours.projection.scale == (1.0 if kind == "mt5" or tied is False else 0.25)


def test_a_file_written_without_its_head_has_shorter_names(folders, tmp_path):
    BartModel.from_pretrained(folders["bart"]).save_pretrained(tmp_path)
    tensors = stored(tmp_path)
    assert not any(name.startswith("model.") for name in tensors) and "final_logits_bias" not in tensors
    ours, whole = (load_pretrained(folder, dtype=torch.float64) for folder in (tmp_path, folders["bart"]))
    assert not ours.projection.bias.any()
    with torch.no_grad():
        ours.projection.bias.copy_(whole.projection.bias)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), whole.parameters(), strict=True))


def test_half_precision_weights_are_widened(folders, tmp_path):
    tensors = {name: tensor.half() for name, tensor in stored(folders["marian"]).items()}
    resaved(folders["marian"], tmp_path, tensors)
    assert difference(load_pretrained(tmp_path, dtype=torch.float64), theirs(tmp_path, "marian"), "marian") < 1e-12


def stored(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def resaved(folder, tmp_path, tensors, **config):
    from safetensors.torch import save_file

    changed(folder, tmp_path, config)
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


# Traps: each nearly right, and far outside the bound


def scaled(model, side, factor):
    getattr(model, side).embedding.scale *= factor


def each(kind, change):
    def apply(model):
        for module in model.modules():
            if isinstance(module, kind):
                change(module)

    return apply


def activation(name, **options):
    def apply(model):
        for layer in [*model.encoder.layers, *model.decoder.layers]:
            layer.ffn.activation = getattr(nn, name)(**options)

    return apply


def attentions(model):
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        yield layer.self_attn
    for layer in model.decoder.layers:
        yield layer.cross_attn


def divide_scores(model):
    for attn in attentions(model):
        attn.scale = attn.head_dim**-0.5


def interleave(model):
    for side in (model.encoder, model.decoder):
        side.embedding.positions = sinusoids(*side.embedding.positions.shape).double()


def post_to_pre(model):
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        for name in ("self_res", "cross_res", "ffn_res"):
            if hasattr(layer, name):
                res = getattr(layer, name)
                res.pre_norm = not res.pre_norm


def set_positions(model, make):
    for side in (model.encoder, model.decoder):
        side.embedding.positions = make(*side.embedding.positions.shape).double()


def share_relative(model):
    for layer in model.decoder.layers:
        layer.mask = model.decoder.layers[0].relative.causal


TRAPS = {  # the kind of checkpoint, and what is wrong with the model
    "Marian: the rows of tokens are not scaled": ("marian", lambda m: scaled(m, "decoder", 0.25)),
    "BART: the rows of tokens are scaled": ("bart", lambda m: scaled(m, "encoder", 4.0)),
    "T5: the rows of tokens are scaled": ("t5", lambda m: scaled(m, "decoder", 4.0)),
    "Whisper: the rows of tokens are scaled": ("whisper", lambda m: scaled(m, "decoder", 4.0)),
    "Marian: sines and cosines in turn": ("marian", interleave),
    "Marian: no bias on the logits": ("marian", lambda m: m.projection.bias.data.zero_()),
    "Marian: pre-norm": ("marian", post_to_pre),
    "Whisper: post-norm": ("whisper", post_to_pre),
    "BART: no norm after the sum": ("bart", lambda m: setattr(m.decoder.embedding, "norm", nn.Identity())),
    "BART: gelu by tanh": ("bart", activation("GELU", approximate="tanh")),
    "gated T5: gelu by erf": ("t5, gated", activation("GELU")),
    "gated T5: gate and value exchanged": (
        "t5, gated",
        lambda m: [
            setattr(layer.ffn, "up_proj", gate) or setattr(layer.ffn, "gate_proj", up)
            for layer in m.encoder.layers
            for gate, up in [(layer.ffn.gate_proj, layer.ffn.up_proj)]
        ],
    ),
    "T5: scores over the root of the head's width": ("t5", divide_scores),
    "T5: logits not divided": ("t5", lambda m: setattr(m.projection, "scale", 1.0)),
    "gated T5: logits divided": ("t5, gated", lambda m: setattr(m.projection, "scale", 0.25)),
    "T5: the encoder looks back only": ("t5", lambda m: setattr(m.encoder.relative, "bidirectional", False)),
    "T5: another largest distance": ("t5", lambda m: setattr(m.decoder.relative, "max_distance", 6)),
    "mBART: post-norm": ("mbart", post_to_pre),
    "mBART: no norm after the sum": ("mbart", lambda m: setattr(m.encoder.embedding, "norm", nn.Identity())),
    "mBART: no last norm": ("mbart", lambda m: setattr(m.decoder, "final_norm", nn.Identity())),
    "Blenderbot: the rows of tokens are not scaled": ("blenderbot", lambda m: scaled(m, "decoder", 0.25)),
    "Pegasus: sines and cosines in turn": ("pegasus", interleave),
    "M2M100: Marian's wavelengths": ("m2m_100", lambda m: set_positions(m, sinusoid_halves)),
    "M2M100: positions begin with 3": (
        "m2m_100",
        lambda m: set_positions(m, lambda n, d: sinusoids_from_two(n + 1, d)[1:]),
    ),
    "mT5: logits divided": ("mt5", lambda m: setattr(m.projection, "scale", 0.25)),
    "umT5: one table for all layers": ("umt5", share_relative),
    "Whisper: no positions of sound": ("whisper", lambda m: m.encoder.embedding.positions.zero_()),
    "Whisper: no last norm in the encoder": ("whisper", lambda m: setattr(m.encoder, "final_norm", nn.Identity())),
}


@pytest.mark.parametrize("kind, change", TRAPS.values(), ids=TRAPS)
def test_a_trap_is_seen_by_the_bound(kind, change, folders):
    ours, other = load_pretrained(folders[kind], dtype=torch.float64), theirs(folders[kind], kind)
    with torch.no_grad():
        change(ours)
    assert difference(ours, other, kind) > 20 * BOUND[kind]


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_an_offset_forgotten_is_refused_by_the_shapes(offset, folders, monkeypatch):
    wrong = [replace(family, offset=offset) if family.name == "BART" else family for family in FAMILIES]
    monkeypatch.setattr(families, "FAMILIES", tuple(wrong))
    with pytest.raises(ValueError, match="embed_positions.weight is F32 .34, 16., and config.json needs"):
        load_pretrained(folders["bart"])


def test_the_first_rows_for_the_last_are_seen(folders, monkeypatch):
    def first(raw, family, ours, shape):
        return raw[: shape[0]] if "positions" in ours else raw.reshape(shape)

    monkeypatch.setattr(loading, "_shaped", first)
    ours = load_pretrained(folders["bart"], dtype=torch.float64)
    assert difference(ours, theirs(folders["bart"], "bart"), "bart") > 0.01


POSITIONS = {"marian": "weight", "pegasus": "weight", "m2m_100": "weights"}


def with_positions(folder, tmp_path, kind, change):
    "A copy of a checkpoint that has stored its computed positions, after `change`."
    made, tensors = reference.made(kind).model, stored(folder)
    for side in ("encoder", "decoder"):
        module, leaf = getattr(made, side).embed_positions, POSITIONS[kind]
        numbers = module.get_embedding(34, 16, 1) if leaf == "weights" else module.create_weight()
        tensors[f"model.{side}.embed_positions.{leaf}"] = change(numbers)
    return resaved(folder, tmp_path, tensors)


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_stored_sinusoids_are_compared_and_then_computed(kind, dtype, folders, tmp_path):
    made = with_positions(folders[kind], tmp_path, kind, lambda numbers: numbers.to(dtype))
    ours, plain = (load_pretrained(folder, dtype=torch.float64) for folder in (made, folders[kind]))
    assert torch.equal(ours.decoder.embedding.positions, plain.decoder.embedding.positions)
    assert difference(ours, theirs(folders[kind], kind), kind) < BOUND[kind]


OTHERS = {
    "NaN": (0, lambda numbers: torch.full_like(numbers, torch.nan)),
    "zeros": (0, torch.zeros_like),
    "in turn": (1, lambda numbers: numbers.unflatten(1, (2, -1)).transpose(1, 2).flatten(1)),
    "one position late": (0, lambda numbers: numbers.roll(1, 0)),
    "one number": (7, lambda numbers: numbers.index_put((torch.tensor(9), torch.tensor(3)), torch.tensor(2.0))),
}


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("other", OTHERS)
def test_other_stored_positions_are_refused(kind, other, folders, tmp_path):
    row, change = OTHERS[other]
    with_positions(folders[kind], tmp_path, kind, change)
    if kind != "m2m_100":    # whose first position is row 2
        row = {"in turn": 0, "one number": 9}.get(other, row)
    elif other == "in turn":
        row = 0
    what = f"model.encoder.embed_positions.{POSITIONS[kind]} is not what is computed, from position {row} on; give"
    with pytest.raises(ValueError, match=what):
        load_pretrained(tmp_path)


def test_stored_positions_of_another_length_are_refused(folders, tmp_path):
    with_positions(folders["marian"], tmp_path, "marian", lambda numbers: numbers[:20])
    with pytest.raises(ValueError, match=r"embed_positions.weight is F32 \(20, 16\), and config.json needs"):
        load_pretrained(tmp_path)


def test_computed_sinusoids_are_transformers_own():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    for n, d in ((32, 16), (512, 512), (1024, 1024)):
        assert torch.equal(MarianSinusoidalPositionalEmbedding(n, d).create_weight(), sinusoid_halves(n, d))


def test_positions_from_two_are_transformers_own():
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

    for n, d in ((32, 16), (1024, 1024), (5, 4)):
        theirs = M2M100SinusoidalPositionalEmbedding.get_embedding(n + 2, d, 1)
        assert torch.equal(theirs[2:], sinusoids_from_two(n, d)) and not theirs[1].any()


@torch.no_grad()
def test_real_tokens_count_wherever_their_padding_is(folders):
    ours, other = load_pretrained(folders["m2m_100"], dtype=torch.float64), theirs(folders["m2m_100"], "m2m_100")
    (source, mask), tokens = reference.source_for("m2m_100"), tokens_for()
    right = ours(source.where(mask, 1), tokens, mask)
    order = mask.long().argsort(dim=1, stable=True)
    source, mask = source.where(mask, 1).gather(1, order), mask.gather(1, order)
    assert not mask[1, 0] and mask[:, -1].all()
    assert_close(ours(source, tokens, mask), right, atol=1e-11, rtol=1e-11)
    assert_close(ours(source, tokens, mask), their_logits(other, "m2m_100", source, mask, tokens), atol=1e-11, rtol=0)


def test_a_bias_of_keys_is_zero_where_there_is_none_and_would_do_nothing(folders):
    ours = load_pretrained(folders["whisper"], dtype=torch.float64)
    assert not any(attn.k_proj.bias.any() for attn in attentions(ours))
    with torch.no_grad():
        for attn in attentions(ours):
            attn.k_proj.bias.normal_()
    assert difference(ours, theirs(folders["whisper"], "whisper"), "whisper") < 1e-12


@pytest.mark.parametrize("kind", T5S)
def test_what_keeps_t5_from_the_bound_is_its_norm_in_single_precision(kind, folders, monkeypatch):
    ours, other = load_pretrained(folders[kind], dtype=torch.float64), theirs(folders[kind], kind)
    assert 1e-10 < difference(ours, other, kind) < 1e-6

    def in_double(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for norm in (T5LayerNorm, MT5LayerNorm, UMT5LayerNorm):
        monkeypatch.setattr(norm, "forward", in_double)
    assert difference(ours, other, kind) < 1e-12


@pytest.mark.parametrize("kind", ["t5", "t5, gated", "umt5"])
@pytest.mark.parametrize(
    "fields",
    [
        {"scale_decoder_outputs": True, "tie_word_embeddings": True},
        {"scale_decoder_outputs": False, "tie_word_embeddings": True},
        {"scale_decoder_outputs": None, "tie_word_embeddings": True},
        {"scale_decoder_outputs": None, "tie_word_embeddings": False},
        {"scale_decoder_outputs": None, "tie_word_embeddings": None},
    ],
    ids=str,
)
def test_whether_t5_divides_its_logits_the_saved_configuration_says(kind, fields, folders, tmp_path):
    changed(folders[kind], tmp_path, fields)
    other, ours = theirs(tmp_path, kind), load_pretrained(tmp_path, dtype=torch.float64)
    assert ours.projection.scale == (0.25 if other.config.scale_decoder_outputs else 1.0)
    assert difference(ours, other, kind) < 1e-6


@pytest.mark.parametrize("act, ours", [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("silu", "silu"), ("relu", "relu")])
@pytest.mark.parametrize("kind", ["bart", "t5, gated"])
def test_an_activation_is_the_one_that_the_configuration_names(kind, act, ours, folders, tmp_path):
    changed(folders[kind], tmp_path, {"activation_function" if kind == "bart" else "dense_act_fn": act})
    model = load_pretrained(tmp_path, dtype=torch.float64)
    assert model.decoder.parts.activation == ours
    assert difference(model, theirs(tmp_path, kind), kind) < BOUND[kind]


def test_another_epsilon_is_read(folders, tmp_path):
    changed(folders["t5"], tmp_path, {"layer_norm_epsilon": 0.5})
    ours = load_pretrained(tmp_path, dtype=torch.float64)
    assert difference(ours, theirs(tmp_path, "t5"), "t5") < 1e-6 < difference(ours, theirs(folders["t5"], "t5"), "t5")


# Half precision, and other devices


def loud(kind, tmp_path):
    "A T5 whose feed-forward networks make numbers that float16 does not have."
    model = reference.made(kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(20.0 if ".wi" in name else 3e3 if ".wo" in name else 1.0)
    model.generation_config = reference.settings(kind, model, 1)
    model.save_pretrained(tmp_path)
    return tmp_path


# Their own distance from single precision is of this size, as the assertion says.
@pytest.mark.parametrize("dtype, most", [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str)
@pytest.mark.parametrize("kind", T5S)
@torch.no_grad()
def test_a_loud_t5_is_finite_in_half_precision(kind, dtype, most, tmp_path, monkeypatch):
    ours, seen = load_pretrained(loud(kind, tmp_path), dtype=dtype), []
    ours.decoder.layers[0].ffn.register_forward_hook(lambda _, inputs, out: seen.append(out.abs().max().item()))
    (source, mask), tokens = reference.source_for(kind), tokens_for()
    found, other = ours(source, tokens, mask), theirs(tmp_path, kind, dtype)
    expected = their_logits(other, kind, source, mask, tokens)
    assert found.dtype == expected.dtype == dtype and seen[0] > torch.finfo(torch.float16).max
    assert (found.float() - expected.float()).abs().max() < most * expected.float().abs().max()
    single = their_logits(theirs(tmp_path, kind, torch.float32), kind, source, mask, tokens)
    assert (single - expected.float()).abs().max() < most * single.abs().max()
    kept = {part.weight.dtype for part in ours.modules() if isinstance(part, WideLinear)}
    assert kept == {torch.float32 if dtype == torch.float16 else dtype}
    if dtype == torch.float16:
        monkeypatch.setattr(GuardedResidual, "add", Residual.add)    # without what is guarded
        assert not ours.half()(source, tokens, mask).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_family_runs_in_each_precision_wherever_it_is(kind, dtype, folders):
    ours, (source, mask), tokens = load_pretrained(folders[kind], dtype=dtype), reference.source_for(kind), tokens_for()
    source = source.to(dtype) if source.is_floating_point() else source
    found = ours(source, tokens, mask)
    assert found.dtype == dtype and found.isfinite().all()
    with torch.device("meta"):    # what is made without a device is made elsewhere
        assert torch.equal(ours(source, tokens, mask), found)
    other = ours.to("meta")
    assert {t.device.type for t in [*other.parameters(), *other.buffers()]} == {"meta"}
    assert other(source.to("meta"), tokens.to("meta"), mask if mask is None else mask.to("meta")).is_meta


@pytest.mark.parametrize("kind", KINDS)
def test_positions_and_other_buffers_are_as_precise_as_the_model(kind, folders):
    ours, double = load_pretrained(folders[kind]), load_pretrained(folders[kind], dtype=torch.float64)
    moved = ours.to(torch.float64)
    assert {t.dtype for t in [*moved.parameters(), *moved.buffers()]} == {torch.float64}
    pairs = zip([*moved.parameters(), *moved.buffers()], [*double.parameters(), *double.buffers()], strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


# Configurations


@pytest.mark.parametrize("kind", ["nllb-moe", "blenderbot-small", "bigbird_pegasus", "longt5"])
def test_a_relative_that_is_not_built_is_refused_by_name(kind, folders, tmp_path):
    changed(folders["m2m_100"], tmp_path, {"model_type": kind})
    with pytest.raises(ValueError, match=f"config.json: model_type is '{kind}'; known are bart, blenderbot, m2m_100"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "kind, key, value",
    [
        ("mbart", "normalize_before", False),
        ("mbart", "normalize_embedding", False),
        ("mbart", "extra_pos_embeddings", 0),
        ("blenderbot", "normalize_embedding", True),
        ("pegasus", "add_final_layer_norm", False),
        ("pegasus", "static_position_embeddings", False),
        ("m2m_100", "pad_token_id", 0),
        ("mt5", "feed_forward_proj", "relu"),
        ("umt5", "feed_forward_proj", "gated-tanh"),
    ],
)
def test_a_flag_that_asks_for_other_maths_is_refused(kind, key, value, folders, tmp_path):
    changed(folders[kind], tmp_path, {key: value})
    if key == "pad_token_id":
        (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ValueError, match=f"{key} is {value!r}; .*another"):
        Checkpoint(tmp_path)


def test_of_several_end_symbols_the_stack_knows_the_first(folders, tmp_path):
    changed(folders["bart"], tmp_path, {"eos_token_id": [2, 5]})
    (tmp_path / "generation_config.json").unlink()
    assert Checkpoint(tmp_path).decoder[0].end_id == 2
    for wrong in ([], [47], ["2"]):
        changed(folders["bart"], tmp_path, {"eos_token_id": wrong})
        (tmp_path / "generation_config.json").unlink()
        with pytest.raises(ValueError, match="eos_token_id is .*; it must be a whole number from 0 to 46"):
            Checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["bart", "mbart", "marian", "pegasus"])
def test_without_a_start_symbol_the_first_one_begins(kind, folders, tmp_path):
    nothing = dict(decoder_start_token_id=None)
    changed(folders[kind], tmp_path, nothing | dict(bos_token_id=7))
    (tmp_path / "generation_config.json").unlink()
    assert Checkpoint(tmp_path).decoder[0].start_id == 7
    changed(folders[kind], tmp_path, nothing | dict(bos_token_id=None))
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ValueError, match="config.json: decoder_start_token_id is None; it must be a whole number"):
        Checkpoint(tmp_path)


def test_t5_begins_with_its_padding(folders, tmp_path):
    changed(folders["umt5"], tmp_path, dict(decoder_start_token_id=None, bos_token_id=7, pad_token_id=3))
    (tmp_path / "generation_config.json").unlink()
    assert Checkpoint(tmp_path).decoder[0].start_id == 3


# Settings


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 2.0])
def test_a_beam_ends_when_and_with_what_the_settings_say(early_stopping, penalty, tmp_path):
    write(tmp_path, "bart", 3, wild=True)
    path = tmp_path / "generation_config.json"
    asked = json.loads(path.read_text()) | {"early_stopping": early_stopping, "length_penalty": penalty}
    path.write_text(json.dumps(asked))
    settings, (source, mask) = generation_settings(tmp_path), reference.source_for("bart")
    expected = their_ids(theirs(tmp_path, "bart"), "bart", source, mask, settings.prompt)
    assert settings(load_pretrained(tmp_path, dtype=torch.float64), source, mask) == expected


@pytest.mark.parametrize(
    "change, max_steps",
    [
        ({}, 13),
        ({"max_length": None}, 20),
        ({"max_new_tokens": 5}, 5),
        ({"max_length": 500}, 32),
        ({"min_new_tokens": 6}, 13),
    ],
)
def test_lengths_are_counted_as_transformers_counts_them(change, max_steps, folders, tmp_path):
    changed(folders["bart"], tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None}))
    settings, (source, mask) = generation_settings(tmp_path), reference.source_for("bart")
    assert settings.max_steps == max_steps
    if max_steps < 32:    # with more, transformers runs out of positions
        expected = their_ids(theirs(tmp_path, "bart"), "bart", source, mask, settings.prompt)
        assert settings(load_pretrained(tmp_path, dtype=torch.float64), source, mask) == expected


def test_shares_of_what_is_forbidden_are_given_on_where_the_settings_say_so(tmp_path):
    write(tmp_path, "marian", 4)
    settings, ours = generation_settings(tmp_path), load_pretrained(tmp_path, dtype=torch.float64)
    assert settings.renormalize and settings.constraints.suppressed == (46,)
    logits, tokens = torch.randn(2, reference.VOCAB), torch.full((2, 1), 46)
    found = settings.constrain(logits, tokens)
    assert_close(found.exp().sum(-1), torch.ones(2))
    assert (found[:, 46] == -torch.inf).all()
    plain = replace(settings, renormalize=False)
    assert_close(plain.constrain(logits, tokens)[:, :46], logits[:, :46])
    source, mask = reference.source_for("marian")
    expected = their_ids(theirs(tmp_path, "marian"), "marian", source, mask, settings.prompt)
    assert settings(ours, source, mask) == expected


def test_settings_of_an_older_checkpoint_are_in_its_configuration(folders, tmp_path):
    asked = json.loads((folders["marian"] / "generation_config.json").read_text())
    changed(folders["marian"], tmp_path, asked)
    (tmp_path / "generation_config.json").unlink()
    assert generation_settings(tmp_path) == generation_settings(folders["marian"])


def test_the_ids_of_the_settings_win(folders, tmp_path):
    changed(folders["bart"], tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [7], "pad_token_id": 5}))
    config = load_pretrained(tmp_path).decoder.config
    assert (config.end_id, config.pad_id, config.start_id) == (7, 5, 2)
    assert generation_settings(tmp_path).constraints.end_id == 7


# Sound


def test_sound_of_another_length_or_with_a_mask_is_refused():
    ear = AudioEmbedding(5, 16, 12)
    assert ear(torch.zeros(2, 5, 24)).shape == (2, 12, 16)
    for source in (torch.zeros(2, 5, 22), torch.zeros(2, 4, 24), torch.zeros(2, 5, 24).double()):
        with pytest.raises(ValueError, match=r"give torch.float32 of shape \(batch, 5, 24\), silence added"):
            ear.check(source, None)
    with pytest.raises(ValueError, match="hears padding as silence; give none"):
        ear.check(torch.zeros(2, 5, 24), torch.ones(2, 12, dtype=torch.bool))


# The hub


def test_an_id_is_fetched_without_code_and_pickles(folders, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **o: asked.append((a, o)) or str(folders["marian"])
    )
    assert load_pretrained("owner/name@v1").decoder.config.vocab_size == reference.VOCAB
    ((name,), options), *_ = asked
    assert name == "owner/name" and options["revision"] == "v1"
    there = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin", "source.spm"]
    there += ["modeling.py", "onnx/config.json", "tf_model.h5", "tokenizer.json", "model.safetensors.index.json"]
    patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
    taken = set(filter_repo_objects(there, **patterns))
    assert taken == {*there} - {"pytorch_model.bin", "modeling.py", "onnx/config.json", "tf_model.h5"}


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    import huggingface_hub

    def fail(*args, **options):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match=r"'owner/name' is no folder here and could not be fetched .*no network.*; check"):
        load_pretrained("owner/name")
    monkeypatch.setattr(model_folder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"huggingface_hub is needed: pip install 'annotated-decoder\[pretrained\]'"):
        load_pretrained("owner/name")


# True shapes, with random weights

FLAN = dict(d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6, feed_forward_proj="gated-gelu")
OPUS = dict(vocab_size=58101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048)
OPUS |= dict(decoder_ffn_dim=2048, encoder_attention_heads=8, decoder_attention_heads=8, activation_function="swish")
OPUS |= dict(scale_embedding=True, max_position_embeddings=512, pad_token_id=58100, decoder_start_token_id=58100)
BASE = dict(vocab_size=50265, d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072)
BASE |= dict(decoder_ffn_dim=3072, encoder_attention_heads=12, decoder_attention_heads=12, decoder_start_token_id=2)
TRUE = {
    "opus-mt-en-de": ("marian", OPUS | dict(eos_token_id=0)),
    "bart-base": ("bart", BASE | dict(pad_token_id=1, eos_token_id=2)),
    "t5-small": ("t5", dict(decoder_start_token_id=0)),
    "flan-t5-small": ("t5, gated", FLAN | dict(decoder_start_token_id=0, tie_word_embeddings=False)),
    "whisper-tiny": ("whisper", dict(decoder_start_token_id=50258, pad_token_id=50257, eos_token_id=50257)),
}


@pytest.mark.skipif(not MANY, reason="slow; HYPOTHESIS_PROFILE=many runs it")
@pytest.mark.parametrize("name", TRUE)
def test_true_shapes_agree(name, tmp_path):
    kind, sizes = TRUE[name]
    model_class, config_class, _ = KINDS[kind]
    torch.manual_seed(0)
    model_class(config_class(**sizes)).save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 30_000, (2, 24), generator=generator)
    source, mask = torch.randint(3, 30_000, (2, 40), generator=generator), torch.arange(40) < torch.tensor([[40], [23]])
    for dtype in (torch.float64, torch.float32):
        if kind == "whisper":
            source, mask = torch.randn(2, 80, 3000, generator=generator, dtype=dtype), None
        ours, other = load_pretrained(tmp_path, dtype=dtype), theirs(tmp_path, kind, dtype)
        with torch.no_grad():
            found, expected = ours(source, tokens, mask), their_logits(other, kind, source, mask, tokens)
        if dtype == torch.float32:
            assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
            for module in other.modules():    # theirs is written out, torch's own rounds otherwise; logits are large
                if hasattr(module, "act") and kind == "t5, gated":
                    module.act = nn.GELU(approximate="tanh")
            with torch.no_grad():
                assert_close(found, their_logits(other, kind, source, mask, tokens))
        else:
            assert (found - expected).abs().max() < BOUND[kind] * expected.abs().max()
        del ours, other


def test_the_slow_shapes_are_those_of_the_named_checkpoints():
    assert T5ForConditionalGeneration.config_class().d_model == 512
    assert set(TRUE) == {"opus-mt-en-de", "bart-base", "t5-small", "flan-t5-small", "whisper-tiny"}
