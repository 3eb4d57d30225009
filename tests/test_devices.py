"""What decodes stays on its inputs' device, and a device that is not there is a clear error.

No other device is needed: under `torch.device("meta")` every tensor that is made without a device lands there, and
cannot be computed with the inputs.
"""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from small import ids, mask, model
from speller import small_pronouncer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from annotated_decoder import generation, strategies
from annotated_decoder.caching import Cache
from annotated_decoder.decoder import StackConfig
from annotated_decoder.embedding import sinusoids
from annotated_decoder.fast_decoding import StaticCache, fast
from annotated_decoder.generation import EncoderDecoder, generate, generate_steps
from annotated_decoder.looking_inside import record_attention
from annotated_decoder.pretrained.parts import sinusoid_halves, sinusoids_from_two
from annotated_decoder.pretrained.rules import pooled_beam_search
from annotated_decoder.pretrained.translating import Translator
from annotated_decoder.softmax import wide
from annotated_decoder.strategies import beam_search, sampler
from annotated_decoder.teaching.attending import drag_a_query
from annotated_decoder.teaching.distribution import draggable_logits
from annotated_decoder.teaching.pencil import pencil
from annotated_decoder.teaching.storeys import position_dials
from annotated_decoder.trained import model_file
from annotated_decoder.trained.model_file import find_device
from annotated_decoder.training import Example, TrainingConfig, collate, loss_of, take_gradient


@contextlib.contextmanager
def elsewhere():
    "What is made without a device is made on another one than that of the inputs."
    with torch.device("meta"):
        yield


def drawing():
    return sampler(temperature=1.3, k=5, p=0.9, generator=torch.Generator("cpu").manual_seed(1))


SOURCE, PROMPT = (ids(2, 5), mask(5, 3)), ids(2, 3, seed=5)
WAYS = {
    "greedily": lambda made: generate(made, *SOURCE, max_steps=6),
    "with a cache": lambda made: generate(made, *SOURCE, max_steps=6, cache=Cache()),
    "in a room": lambda made: generate(made, *SOURCE, max_steps=6, cache=StaticCache(12)),
    "after a prompt": lambda made: generate(made, *SOURCE, max_steps=4, prompt=PROMPT, cache=Cache()),
    "by drawing": lambda made: generate(made, *SOURCE, max_steps=6, choose=drawing(), cache=Cache()),
    "fast": lambda made: generate(fast(made), *SOURCE, max_steps=6, cache=StaticCache(12)),
    "with a beam": lambda made: beam_search(made, *SOURCE, width=3, max_steps=6, length_penalty=0.6),
    "with a pool": lambda made: pooled_beam_search(made, *SOURCE, width=3, max_steps=6, length_penalty=0.6),
    "in log p": lambda made: [step.log_probability for step in generate_steps(made, *SOURCE, max_steps=6)],
}


def as_lists(found):
    return [each.tolist() if isinstance(each, torch.Tensor) else each for each in found]


class Narrow(TorchDispatchMode):
    "A device without double precision."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        for made in tree_leaves(found):
            assert not isinstance(made, torch.Tensor) or made.dtype != torch.float64, f"{function} made a float64"
        return found


@pytest.mark.parametrize("way", WAYS)
def test_double_precision_is_asked_for_by_one_function_alone(way, monkeypatch):
    made = model(dtype=torch.float32)
    for module in (generation, strategies):
        monkeypatch.setattr(module, "wide", torch.Tensor.float)
    with Narrow():
        WAYS[way](made)


def test_wide_is_double_but_on_apples_chips():
    class There(torch.Tensor):
        device = SimpleNamespace(type="mps")

    assert wide(torch.ones(2)).dtype == torch.float64
    assert wide(torch.ones(2).as_subclass(There)).dtype == torch.float32


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_made_elsewhere_than_beside_the_inputs(way):
    here, made = as_lists(WAYS[way](model())), model()
    with elsewhere():
        assert torch.empty(1).is_meta
        assert as_lists(WAYS[way](made)) == here


@pytest.fixture
def narrow(monkeypatch):
    "Meta is taken for a device without double precision."
    monkeypatch.setattr("annotated_decoder.embedding._NARROW", {"mps", "meta"})


class NarrowElsewhere(TorchDispatchMode):
    "A device without double precision beside a processor that has it; meta stands for it."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        for made in tree_leaves(found):
            narrow = isinstance(made, torch.Tensor) and made.is_meta
            assert not narrow or made.dtype != torch.float64, f"{function} made a float64 where there are none"
        return found


@pytest.mark.parametrize("table", [sinusoids, sinusoid_halves, sinusoids_from_two])
@pytest.mark.usefixtures("narrow")
def test_positions_are_computed_on_the_processor_and_put_on_the_default_device(table):
    with NarrowElsewhere(), elsewhere():
        there = table(7, 8)
    assert there.is_meta and there.dtype == torch.float32 and there.shape == (7, 8)
    assert table(7, 8).device.type == "cpu"


def test_positions_are_as_precise_as_the_default_dtype():
    single, before = sinusoids(50, 8), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        double = sinusoids(50, 8)
    finally:
        torch.set_default_dtype(before)
    assert double.dtype == torch.float64 and not torch.equal(double.float().double(), double)
    assert torch.equal(double.float(), single)    # rounded once, at the end


@pytest.mark.usefixtures("narrow")
def test_a_model_is_made_on_a_device_without_double_precision():
    shape = StackConfig(vocab_size=9, max_len=8, d_model=8, n_heads=2, d_ff=8, n_layers=1)
    with NarrowElsewhere(), elsewhere():
        made = EncoderDecoder.of(shape, shape)
    assert {tensor.device.type for tensor in [*made.parameters(), *made.buffers()]} == {"meta"}


def test_positions_of_no_numbers_take_no_memory():
    with elsewhere():
        assert sinusoids(10**6, 10**6).is_meta


PIECES = {  # what is computed in double precision for a page
    "dials": lambda: position_dials(4, 8, "dials"),
    "a step's settings": lambda: draggable_logits(["a", "b"], [0.0, 1.0], "logits", "a"),
    "a query of two": lambda: drag_a_query(torch.tensor([1.0, 2], device="cpu"), *KEYS_VALUES, "query"),
}
KEYS_VALUES = torch.tensor([[[1.0, 0], [0, 2], [1, 1]], [[3.0, 1], [0, 2], [1, 5]]])


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_a_piece_is_computed_on_the_processor(piece):
    here = piece()
    with NarrowElsewhere(), elsewhere():
        assert piece() == here


def test_the_pencil_sized_decoder_is_made_on_the_processor():
    (decoder, _, memories), source = pencil(), torch.tensor([[1, 2]])
    with NarrowElsewhere(), elsewhere():
        again, projection, same = pencil()
    assert projection.weight.device.type == "cpu" and torch.equal(same, memories)
    assert torch.equal(again(source, same[:1]), decoder(source, memories[:1]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("search", [beam_search, pooled_beam_search])
def test_a_beam_that_sums_in_single_precision_finds_the_same_tokens(search, seed, penalty, monkeypatch):
    made, source = model(seed, torch.float32, end_bias=1.0), ids(4, 5, seed)
    doubled = search(made, source, width=4, length_penalty=penalty, max_steps=10)
    monkeypatch.setattr(strategies, "wide", torch.Tensor.float)
    with Narrow():
        single = search(made, source, width=4, length_penalty=penalty, max_steps=10)
    assert [[h.tokens for h in row] for row in single] == [[h.tokens for h in row] for row in doubled]


def test_a_step_of_training_asks_for_no_double_precision():
    made = model(dtype=torch.float32, dropout=0.1)
    with Narrow():
        take_gradient(made, collate([Example([4, 5, 2], [4, 5])]), TrainingConfig(), 0)


ELSEWHERE = {  # what is on another device than the model: the call
    "source": lambda decode: decode(model(), SOURCE[0].to("meta"), SOURCE[1]),
    "source mask": lambda decode: decode(model(), SOURCE[0], SOURCE[1].to("meta")),
    "prompt": lambda decode: decode(model(), *SOURCE, prompt=PROMPT.to("meta")),
}


@pytest.mark.parametrize("decode", [generate, beam_search])
@pytest.mark.parametrize("name, call", ELSEWHERE.items(), ids=ELSEWHERE)
def test_what_is_elsewhere_than_the_model_is_refused(name, call, decode):
    with pytest.raises(ValueError, match=rf"the {name} is on meta, the model on cpu; move it there, with .to\('cpu'\)"):
        call(decode)


def test_a_model_elsewhere_than_its_source_is_refused():
    with pytest.raises(ValueError, match="the source is on cpu, the model on meta; move it there"):
        generate(model().to("meta"), *SOURCE)


def test_attention_is_recorded_beside_the_inputs():
    made = model()
    with elsewhere(), record_attention(made.decoder.layers[0].cross_attn) as recorded:
        made(SOURCE[0], PROMPT, SOURCE[1])
    assert [weights.device.type for weights in recorded] == ["cpu"]


def test_what_is_made_elsewhere_would_be_found():
    with elsewhere(), pytest.raises(RuntimeError, match="meta"):
        torch.ones(2).mul(torch.zeros(2)).add(PROMPT[0, :2]).tolist()


@pytest.fixture
def places():
    return []


def test_words_go_to_where_the_model_is(places, monkeypatch):
    trained = small_pronouncer()
    trained.model.to("meta")

    def steps(model, source, source_mask, **options):
        places.extend([source.device.type, source_mask.device.type])
        raise StopAsyncIteration

    monkeypatch.setattr(model_file, "generate_steps", steps)
    with pytest.raises(StopAsyncIteration):
        list(trained.stream(["dead"]))
    assert places == ["meta", "meta"]


def test_lines_go_to_where_the_model_is(places):
    class Tokens:
        encode = staticmethod(lambda line: [4, 5, 2])
        decode = staticmethod(lambda ids: "".join(map(str, ids)))

    class Settings:
        width, max_steps = 1, 9
        is_cut = staticmethod(lambda tokens: False)

        def sequences(self, model, source, mask):
            places.extend([source.device.type, mask.device.type])
            return [[[3]]] * len(source)

        def greedy_steps(self, model, source):
            places.append(source.device.type)
            return iter(())

    translator = Translator.__new__(Translator)
    for name, value in dict(model=model().to("meta"), tokenizer=Tokens(), settings=Settings()).items():
        object.__setattr__(translator, name, value)
    assert [answer.text for answer in translator.stream(["a", "b"])] == ["3", "3"]
    assert list(translator.pieces("a")) == []
    assert places == ["meta"] * 3


def test_a_batch_goes_to_where_the_model_is_trained(places):
    trained = small_pronouncer()
    example = trained.example("dead", ("D", "EH1", "D"))

    def objective(made, batch, config, step):
        places.extend(tensor.device.type for tensor in batch)
        return loss_of(made, batch, config, step)

    batch = collate([example])
    assert {tensor.device.type for tensor in batch} == {"cpu"}
    trained.model.to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):    # a loss there has no value
        take_gradient(trained.model, batch, TrainingConfig(bfloat16=False), 0, objective)
    assert {*places} == {"meta"}


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_named_with_a_remedy(name):
    with pytest.raises(ValueError, match=f"there is no device '{name}' here .*cpu is always there"):
        find_device(name)
    assert find_device("cpu") == torch.device("cpu")


def test_int8_is_refused_off_the_processor():
    with pytest.raises(ValueError, match="int8 is for processors, and the model is on meta; move the model"):
        fast(model().float().to("meta"), int8=True)
