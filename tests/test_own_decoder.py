"""`check.my_decoder` lets right decoders pass, names the law that a published shape of bug breaks, and never raises."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout, scaled_dot_product_attention

from annotated_decoder import check
from annotated_decoder.caching import Cache
from annotated_decoder.check import own_decoder
from annotated_decoder.decoder import Decoder, StackConfig
from annotated_decoder.projection import Projection

PAGE = Path(__file__).parents[1] / "notebooks/check/own_decoder.ipynb"
NAMES = {each: getattr(own_decoder, each).name for each in (
    "form finite scores same_twice rows_apart causal own_token order reads padding a_set one_way half norms "
    "step_form stepwise in_chunks writes next_token").split()}  # fmt: skip


def quietly(module, **options):
    "The report; every test asks in the same words as the page."
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        report = check.my_decoder(module, **{"vocab_size": 11, "d_model": 16, **options})
    assert out.getvalue() == report.text + "\n"
    return report


class Small(nn.Module):
    "A right decoder of one layer with all that the laws can ask for; a bug overrides one method."
    start, step_scale = 1, 1.0

    def __init__(self, vocab_size=11, d=16):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.out = nn.Embedding(vocab_size, d), nn.Linear(d, vocab_size)
        self.places, self.norm, self.drop = nn.Parameter(torch.randn(20, d)), nn.LayerNorm(d), nn.Dropout(0.1)
        self.own, self.other = (nn.ModuleList(nn.Linear(d, d) for _ in range(3)) for _ in range(2))

    def may_look(self, n, past):
        return torch.ones(n, past + n, dtype=torch.bool).tril(past)

    def real(self, memory_mask):
        return memory_mask[:, None]

    def attend(self, q, k, v, mask):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def place(self, n, past):
        return self.places[past : past + n]

    def read(self, memory):
        return memory

    def forward(self, tokens, memory, memory_mask, past=None):
        return self.both(tokens, memory, memory_mask, None)[0]

    def step(self, tokens, memory, memory_mask, past):
        logits, past = self.both(tokens, memory, memory_mask, past)
        return logits * self.step_scale, past

    def both(self, tokens, memory, memory_mask, past):
        n, n_past = tokens.shape[1], 0 if past is None else past[0].shape[1]
        x = self.drop(self.embedding(tokens) + self.place(n, n_past))
        q, k, v = (part(x) for part in self.own)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        x = x + self.attend(q, k, v, self.may_look(n, n_past))
        q2, k2, v2 = self.other
        memory = self.read(memory)
        x = self.norm(x + self.attend(q2(x), k2(memory), v2(memory), self.real(memory_mask)))
        return self.out(x), (k, v)

    def generate(self, memory, memory_mask, n_tokens):
        new, past, written = torch.full((len(memory), 1), self.start), None, []
        going = torch.ones(len(memory), dtype=torch.bool)
        for _ in range(n_tokens):
            logits, past = self.step(new, memory, memory_mask, past)
            new = logits[:, -1:].argmax(-1).where(going[:, None], 0)
            written.append(new)
            going &= new[:, 0] != 2
        return torch.cat(written, 1)

    def loss(self, tokens, memory, memory_mask):
        logits = self(tokens[:, :-1], memory, memory_mask)
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)


def bug(**methods):
    return type("Bug", (Small,), methods)


class UnbiasedNorm(nn.LayerNorm):
    def forward(self, x):
        return self.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps) + self.bias


class LayerNormalization(UnbiasedNorm):    # of another name
    pass


class UnbiasedNormOfOneGain(nn.Module):
    def __init__(self, *gain):
        super().__init__()
        self.gain = nn.Parameter(*gain) if gain else 1.0

    def forward(self, x):
        return self.gain * (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


class RootMeanSquareNorm(nn.Module):
    def __init__(self, d, gain):
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(d)), gain

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (self.weight + self.gain)


def with_norm(make):
    model = Small()
    model.norm = make(16)
    return model


def minus_a_billion(self, q, k, v, mask):
    return (q @ k.mT / 4).masked_fill(~mask, -1e9).softmax(-1) @ v


def queries_padded(self, q, k, v, mask):    # padding hides queries, not keys
    return scaled_dot_product_attention(q, k, v, attn_mask=mask if mask.dim() == 2 else mask.mT)


def memory_under_the_causal_mask(self, q, k, v, mask):
    causal = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril()
    return scaled_dot_product_attention(q, k, v, attn_mask=mask if mask.dim() == 2 else mask & causal)


def future_while_testing(self, n, past):
    return torch.ones(n, past + n, dtype=torch.bool).tril(past if self.training else past + n)


def view_heads(self, q, k, v, mask):    # two heads, split without a transpose: positions mix
    q, k, v = (x.reshape(x.shape[0], 2, x.shape[1], 8) for x in (q, k, v))
    found = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None] if mask.dim() == 3 else mask)
    return found.transpose(1, 2).flatten(2)


def view_heads_twice(self, q, k, v, mask):    # split and joined without one: no position sees a later one, and yet
    found = view_heads(self, q, k, v, mask).unflatten(2, (2, 8)).transpose(1, 2)
    return found.reshape(q.shape)


def kept_on_self(self, tokens, memory, memory_mask, past):    # the keys of the first memory, for good
    self.kept = getattr(self, "kept", {})
    return Small.step(self, tokens, self.kept.setdefault(memory.shape, memory), memory_mask, past)


def squares_too_large(self, q, k, v, mask):    # in float16, the square of 300 is infinite, and x / inf is 0
    x = 1000 * scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def stop_early(tokens):
    ends = (tokens == 2).any(0).nonzero()
    return tokens[:, : ends[0, 0] + 1] if len(ends) else tokens


def merged_heads(self, q, k, v, mask):    # heads split by a view over the wrong axis: rows of the batch mix
    return scaled_dot_product_attention(q, k.flip(0), v.flip(0), attn_mask=mask)


def scaled_in_training(self, *given):
    logits = Small.forward(self, *given)
    return logits / 4 if self.training else logits


def loss_of(tokens_in, target, then=lambda logits: logits, **kwargs):
    def loss(self, tokens, memory, memory_mask):
        logits = then(self(tokens[:, tokens_in], memory, memory_mask)).flatten(0, 1)
        return cross_entropy(logits, tokens[:, target].flatten(), **{"ignore_index": 0, **kwargs})

    return loss


SHIFTED = slice(None, -1), slice(1, None)
BUGS = {    # a right decoder with one thing wrong, the law that it breaks first, and a word of the report
    "without its last axis": (bug(forward=lambda self, *given: Small.forward(self, *given)[..., 0]), "form", "shape"),
    "target first": (
        bug(forward=lambda self, *given: Small.forward(self, *given).transpose(0, 1)), "form", "(3, 6, 11)"),
    "NaN": (bug(read=lambda self, memory: memory / 0 * 0), "finite", "nan came"),
    "an error": (bug(real=lambda self, mask: 1 / 0), "form", "ZeroDivisionError"),
    "softmaxed": (bug(forward=lambda self, *given: Small.forward(self, *given).softmax(-1)), "scores", "adds up to 1"),
    "dropout always on": (bug(read=lambda self, m: dropout(m, 0.3)), "same_twice", "other logits"),
    "rows mixed": (bug(attend=merged_heads), "rows_apart", "row 0"),
    "batch second": (lambda: OfTorch(batch_first=False), "form", "raised"),
    "future while testing": (bug(may_look=future_while_testing), "causal", "in evaluation"),
    "future while training": (bug(may_look=lambda self, n, past: torch.ones(n, past + n, dtype=torch.bool).tril(
        past + n if self.training else past)), "causal", "in training"),
    "mask turned over": (bug(may_look=lambda self, n, past: Small.may_look(self, n, past).flip(0)), "causal", "moves"),
    "shifted twice": (bug(forward=lambda self, tokens, *given: Small.forward(
        self, tokens.roll(1, 1).index_fill(1, torch.tensor([0]), 1), *given)), "own_token", "position 1"),
    "no positions": (bug(place=lambda self, n, past: 0), "order", "tokens 1 and 2"),
    "memory not read": (bug(read=lambda self, memory: 0 * memory), "reads", "position 0 stays"),
    "first key only": (
        bug(real=lambda self, mask: mask[:, None] & (torch.arange(mask.shape[1]) < 1)), "reads", "key 1"),
    "padding seen": (bug(real=lambda self, mask: None), "padding", "padded key"),
    "padding seen in training": (
        bug(real=lambda self, mask: mask[:, None] | self.training), "padding", "in training; 5"),
    "padding turned over in training": (
        bug(real=lambda self, mask: mask[:, None] ^ self.training), "padding", "in training; 5"),
    "padding on queries": (bug(attend=queries_padded), "form", "raised"),
    "places in the memory": (bug(read=lambda self, m: m + self.places[: m.shape[1]]), "a_set", "change places"),
    "memory under the causal mask": (bug(attend=memory_under_the_causal_mask), "a_set", "change places"),
    "scaled in training": (bug(forward=scaled_in_training), "one_way", "without dropout"),
    "minus a billion": (bug(attend=minus_a_billion), "half", "Half"),
    "unbiased norm": (lambda: with_norm(UnbiasedNorm), "norms", "norm, with gain 1"),
    "unbiased norm of another name": (lambda: with_norm(LayerNormalization), "norms", "norm, with gain 1"),
    "unbiased norm without parameters": (
        lambda: with_norm(lambda d: UnbiasedNormOfOneGain()), "norms", "(16 − 1) / 16"),
    "unbiased norm of one gain": (
        lambda: with_norm(lambda d: UnbiasedNormOfOneGain(torch.tensor(1.3))), "norms", "(16 − 1) / 16"),
    "squares too large": (bug(attend=squares_too_large), "half", "not near those in float32"),
    "position 0 at every step": (bug(place=lambda self, n, past: self.places[:n]), "stepwise", "position 1"),
    "first key at every step": (bug(may_look=lambda self, n, past: torch.ones(n, past + n, dtype=torch.bool).tril()),
                                "stepwise", "position 1"),
    "upper-left mask": (bug(may_look=lambda self, n, past: torch.ones(n, past + n, dtype=torch.bool).tril(
        past if n == 1 else 0)), "in_chunks", "position 2"),
    "scaled in steps": (bug(step_scale=0.5), "stepwise", "position 0"),
    "only logits": (bug(step=lambda self, *given: Small.forward(self, *given)), "step_form", "a tuple of two"),
    "a list": (bug(step=lambda self, *given: [*Small.step(self, *given)]), "step_form", "came a list of shape (2,)"),
    "keys kept on self": (bug(step=kept_on_self), "stepwise", "position 0 of a second memory"),
    "another start": (bug(start=0), "writes", "the start symbol 0, and not 1"),
    "another token": (
        bug(generate=lambda self, m, mask, n: 10 - Small.generate(self, m, mask, n)), "writes", "row 0"),
    "too many": (bug(generate=lambda self, m, mask, n: torch.ones(3, n + 1, dtype=torch.long)), "writes", "1 to 6"),
    "no shift": (bug(loss=loss_of(slice(None), slice(None))), "next_token", "without a shift"),
    "second softmax": (bug(loss=loss_of(*SHIFTED, lambda x: x.softmax(-1))), "next_token", "second softmax"),
    "padding counted": (bug(loss=loss_of(*SHIFTED, ignore_index=-100)), "next_token", "padding counted"),
    "a sum": (bug(loss=loss_of(*SHIFTED, reduction="sum")), "next_token", "not the mean"),
    "no end": (bug(loss=lambda self, tokens, *given: Small.loss(self, tokens.masked_fill(tokens == 2, 0), *given)),
               "next_token", "never asks for the end"),
    "memory's padding in the loss": (bug(loss=lambda self, tokens, memory, mask: Small.loss(
        self, tokens, memory, mask | True)), "next_token", "padding of the memory is seen"),
    "padding read while writing": (bug(generate=lambda self, memory, mask, n: Small.generate(
        self, memory, mask | True, n)), "writes", "no key were padding"),
    "stops with the first": (
        bug(generate=lambda self, *given: stop_early(Small.generate(self, *given))), "writes", "row"),
    "heads by a view": (bug(attend=view_heads), "causal", "moves"),
    "heads by a view, in and out": (bug(attend=view_heads_twice), "order", "change places"),
    "smoothed": (bug(loss=loss_of(*SHIFTED, label_smoothing=0.3)), "next_token", "expected"),
    "a number of Python": (bug(loss=lambda self, *given: 1.0), "next_token", "came 1"),
}  # fmt: skip
PUBLISHED = {    # whose code had a bug of this shape, as it or a thread about it says; the page has them in this order
    "minus a billion": "harvardnlp/annotated-transformer",
    "unbiased norm": "harvardnlp/annotated-transformer",
    "another start": "harvardnlp/annotated-transformer",
    "padding on queries": "hyunwoongko/transformer",
    "memory under the causal mask": "keras-team/keras-io",
    "scaled in steps": "jadore801120/attention-is-all-you-need-pytorch",
    "heads by a view, in and out": "reczoo/FuxiCTR",
    "position 0 at every step": "ml-explore/mlx-lm",
    "first key at every step": "lucidrains/x-transformers",
}


class OfTorch(nn.Module):
    def __init__(self, batch_first=True, causal=True, real=lambda mask: ~mask):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerDecoderLayer(16, 2, 32, batch_first=batch_first)
        self.decoder, self.embedding = nn.TransformerDecoder(layer, 2), nn.Embedding(11, 16)
        self.places, self.out = nn.Parameter(torch.randn(20, 16)), nn.Linear(16, 11)
        self.causal, self.real = causal, real

    def forward(self, tokens, memory, memory_mask):
        n = tokens.shape[1]
        later = torch.ones(n, n, dtype=torch.bool).triu(1) if self.causal else None
        x = self.decoder(self.embedding(tokens) + self.places[:n], memory, later,
                         memory_key_padding_mask=self.real(memory_mask))  # fmt: skip
        return self.out(x)


class Ours(nn.Module):
    def __init__(self, pre_norm=True, n_layers=2):
        super().__init__()
        torch.manual_seed(0)
        shape = dict(d_model=16, n_heads=2, d_ff=32, n_layers=n_layers, pre_norm=pre_norm)
        self.decoder, self.projection = Decoder.of(StackConfig(vocab_size=11, max_len=20, **shape)), Projection(16, 11)

    def forward(self, tokens, memory, memory_mask, past=None):
        return self.projection(self.decoder(tokens, memory, memory_mask, past))

    def step(self, tokens, memory, memory_mask, past):
        past = past or Cache()
        return self(tokens, memory, memory_mask, past), past


@pytest.mark.parametrize("make", [Small, OfTorch, Ours, lambda: Ours(pre_norm=False)])
def test_a_right_decoder_passes(make):
    report = quietly(make())
    assert report.passed, report.text


def test_all_nineteen_laws_are_tried_where_the_methods_are():
    assert [each.name for each in quietly(Small()).laws] == [*NAMES.values()]
    assert len(quietly(OfTorch()).laws) == 14


@pytest.mark.parametrize(("name"), BUGS)
def test_a_bug_is_named_by_its_law(name):
    make, law, word = BUGS[name]
    report = quietly(make())
    assert report.broken[0] == NAMES[law], report.text
    assert word in " ".join(report.text.split()), report.text


def test_the_page_tells_whose_bugs_are_tried_here_and_which_law_breaks_first():
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    (text,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "found-text")
    rows = re.findall(r"^\|[^|]+\| \[[^]]+\]\(https://github\.com/([^/]+/[^/]+)/[^)]+\) \| (.+) \|$", text, re.M)
    assert rows == [(whose, NAMES[BUGS[name][1]]) for name, whose in PUBLISHED.items()]
    assert len({*PUBLISHED.values()}) >= 5


def test_every_law_is_broken_by_some_bug():
    assert {law for _, law, _ in BUGS.values()} == {*NAMES}


@pytest.mark.parametrize(("options", "law"), [({"causal": False}, "causal"), ({"real": lambda mask: mask}, "reads")])
def test_of_pytorchs_own_the_two_usual_slips_are_named(options, law):
    report = quietly(OfTorch(**options))
    assert NAMES[law] in report.broken or NAMES["form"] in report.broken, report.text


@pytest.mark.parametrize("make", [
    lambda d: RootMeanSquareNorm(d, 0), lambda d: RootMeanSquareNorm(d, 1), lambda d: PreLayerNorm(d),
])  # fmt: skip
def test_norms_of_other_forms_are_right_too(make):
    assert quietly(with_norm(make)).passed


class TurnedNorm(UnbiasedNorm):
    def __init__(self, d):
        nn.Module.__init__(self)
        self.bias, self.weight = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.ones(d))
        self.eps = 1e-6


class PreLayerNorm(nn.Module):    # of this name, and another thing
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x, function=None):
        return x if function is None else function(x)


def outcome(report, name):
    "What the report says of this law, and its case or reason."
    return next((each.outcome, each.case) for each in report.laws if each.name == NAMES[name])


def test_what_this_machine_cannot_try_is_said_and_is_no_alarm():
    def read(self, memory):
        if memory.dtype == torch.float16:
            raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")
        return memory

    report = quietly(bug(read=read)())
    assert outcome(report, "half") == ("not tried", "PyTorch lacks one of its operations in float16 on this CPU")
    assert report.passed and "18 of 19 laws hold, 1 was not tried." in report.text and "Hint" not in report.text


def test_dropout_that_stays_on_leaves_its_law_untried():
    report = quietly(bug(read=lambda self, memory: dropout(memory, 0.3, self.training))())
    assert report.passed and outcome(report, "one_way")[0] == "not tried", report.text
    told = quietly(bug(read=lambda self, memory: dropout(memory, 0.3, self.training), may_look=future_while_testing)())
    assert told.broken[0] == NAMES["causal"] and "Hint 1 of 3: Is there a mask" in told.text


@pytest.mark.parametrize("make", [lambda d: nn.Identity(), lambda d: PreLayerNorm(d), lambda d: nn.Linear(d, d)])
def test_without_a_norm_its_law_is_not_tried(make):
    report = quietly(with_norm(make))
    assert report.passed and outcome(report, "norms")[0] == "not tried", report.text


def test_a_decoder_without_an_encoder_breaks_the_one_law_that_the_page_says():
    gpt = bug(read=lambda self, memory: 0 * memory, real=lambda self, mask: None)
    assert quietly(gpt()).broken == (NAMES["reads"],)


def test_what_layers_share_shows_with_two():
    def shared(n_layers):
        model = Ours(n_layers=n_layers)
        for layer in model.decoder.layers:
            layer.index = 0
        return model

    assert quietly(shared(1)).passed and NAMES["stepwise"] in quietly(shared(2)).broken


def test_the_page_names_the_laws_in_full():
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(PAGE.read_text(encoding="utf-8"))["cells"]}
    listed = re.findall(r"[^|\n]+", cells["bugs-text"].partition("|---|---|")[2])
    assert {name.strip() for name in listed} - {""} == {*[*NAMES.values()][:14]}
    said = {*re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", "".join(cells[name] for name in ("about", "found-text")))}
    assert len(said) >= 5 and said <= {*NAMES.values()}, said


@pytest.mark.parametrize("width", [4, 64, 512])
@pytest.mark.parametrize("kind", [UnbiasedNorm, TurnedNorm])
def test_a_norm_of_n_minus_1_is_seen_at_any_width(width, kind):
    found = max(own_decoder._mean_square(kind(width), width, gain) for gain in range(-1, 2))
    assert abs(found - (1 - 1 / width)) < 0.1 / width


def test_zeros_at_the_start_hide_nothing():
    model = Small()
    for parameter in (*model.out.parameters(), *model.other[2].parameters()):
        nn.init.zeros_(parameter)
    assert quietly(model).passed
    leak = bug(may_look=future_while_testing)()
    nn.init.zeros_(leak.out.weight)
    assert quietly(leak).broken[0] == NAMES["causal"]


SIZES = dict(encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
             encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40)  # fmt: skip


@pytest.mark.parametrize("kind", ["BartForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration",
                                  "MBartForConditionalGeneration", "T5ForConditionalGeneration"])  # fmt: skip
def test_the_pages_adapter_of_transformers_passes(kind):
    transformers = pytest.importorskip("transformers")
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    (text,) = ("".join(cell["source"]) for cell in cells if cell["id"] == "bart-text")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "needs ten lines" in text and len([line for line in code.partition("\n\n\n")[0].splitlines() if line]) == 10
    ids = dict(pad_token_id=1, decoder_start_token_id=2, bos_token_id=0, eos_token_id=2)    # as BART has them
    sizes = dict(d_kv=8, d_ff=32, num_layers=2, num_heads=2) if kind[:2] == "T5" else SIZES
    make, called = getattr(transformers, kind), []
    model = make(make.config_class(**sizes, **ids, vocab_size=30, d_model=16))
    spy = type("check", (), {"my_decoder": lambda *given, **named: called.append(quietly(*given, **named))})
    exec(code, {"nn": nn, "model": model, "check": spy})
    assert called[0].passed and len(called[0].laws) == 17, called[0].text


def test_a_little_is_no_longer_staying_and_not_yet_moving():
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    for share, moves, stays in ((0.0, False, True), (5e-6, False, False), (1e-4, True, False)):
        other = logits + share * logits.std()
        assert own_decoder.moved(logits, other).all() == moves and own_decoder.stays(logits, other).all() == stays
    assert own_decoder.moved(logits, logits / 0 * 0).all()


def test_the_module_is_left_as_it_was():
    model = Small().train()
    model.drop.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quietly(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not model.drop.training and model.drop.p == 0.1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_of_the_callers_is_changed():
    model = Small()
    torch.manual_seed(3)
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    with contextlib.redirect_stdout(io.StringIO()):
        check.my_decoder(model, vocab_size=11, d_model=16)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == dtype


def test_nothing_that_is_kept_elsewhere_changes_its_type():
    kept = {}

    def may_look(self, n, past):
        return kept.setdefault((n, past), torch.zeros(n, past + n).masked_fill(~Small.may_look(self, n, past), -1e4))

    model = bug(may_look=may_look)().eval()
    given = torch.ones(1, 6, dtype=torch.long), torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)
    quietly(model)
    assert model(*given).dtype == torch.float32


def test_a_lambda_over_self_is_told():
    model = Small()
    model.place = lambda n, past: model.drop(model.places[past : past + n])
    report = quietly(model)
    assert report.broken == (NAMES["form"],) and "the Dropout of the original" in " ".join(report.text.split())


def test_it_may_be_asked_for_in_any_mode():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        report = quietly(Small())
    assert report.passed, report.text


def test_the_report_shows_the_first_line_that_the_decoder_prints():
    module = bug(read=lambda self, memory: print("read", len(memory)) or memory)()
    assert quietly(module).text.splitlines()[-1] == "It printed: read 3"


def test_what_only_has_the_name_of_a_method_is_not_tried():
    model = OfTorch()
    model.loss, model.step = nn.CrossEntropyLoss(), 0
    assert len(quietly(model).laws) == 14
    assert len(quietly(type("Odd", (OfTorch,), {"loss": property(lambda self: 1 / 0)})()).laws) == 14


def test_a_mask_that_is_kept_on_the_module_may_be_kept():
    def may_look(self, n, past):
        if not hasattr(self, "mask"):
            self.mask = torch.ones(20, 20, dtype=torch.bool).tril()
            self.hidden = torch.zeros_like(self.mask, dtype=self.places.dtype).masked_fill(~self.mask, -torch.inf)
        return self.hidden[past : past + n, : past + n]

    assert quietly(bug(may_look=may_look)()).passed


def test_the_line_of_an_error_is_the_readers():
    report = quietly(BUGS["an error"][0]())
    assert "1 / 0" in report.text and "forward_call" not in report.text


@pytest.mark.parametrize(("wrong", "words"), [
    (dict(module=lambda *given: None), "the decoder is a function"),
    (dict(module=Small), "the decoder is a type"),
    (dict(vocab_size=4), "vocab_size is 4; give a whole number of at least 5"),
    (dict(vocab_size="11"), "vocab_size is '11'"),
    (dict(d_model=0), "d_model is 0; give a whole number of at least 1"),
    (dict(start_id=11), "start_id is 11; the vocabulary has ids 0 to 10"),
    (dict(pad_id=None), "pad_id is None; the vocabulary has ids 0 to 10"),
])  # fmt: skip
def test_what_cannot_be_asked_is_refused(wrong, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check.my_decoder(**{"module": Small(), "vocab_size": 11, "d_model": 16, **wrong})


def test_a_wrong_size_is_told_as_a_law():
    assert quietly(Small(), vocab_size=12).broken == (NAMES["form"],)
    assert quietly(Small(), d_model=8).broken == (NAMES["form"],)


def test_a_module_that_cannot_be_copied_is_told():
    model = Small()
    model.held = (each for each in ())
    report = quietly(model)
    assert report.broken == (NAMES["form"],) and "cannot be copied" in report.text


@pytest.mark.parametrize("hint", [1, 2, 3])
def test_the_hint_is_the_first_broken_laws(hint):
    report = quietly(BUGS["future while testing"][0](), hint=hint)
    assert own_decoder.causal.hints[hint - 1].split()[0] in report.text
    assert f"Hint {hint} of 3" in report.text
