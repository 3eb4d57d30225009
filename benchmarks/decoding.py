"""Tokens a second, all in turns in this one script: this book's model plain, fast and in whole numbers, transformers,
and CTranslate2, on the same weights, with the share of ids that are those of the plain model; then the pronunciation
model, one word at a time and in bulk.

The translator has the shape of opus-mt and random weights: 32 source tokens, 64 to be written, at batch 1 and 8, on one
and two threads, greedily and by a beam of four. `python benchmarks/decoding.py` prints what it finds; with `--save` it
writes `decoding_speed.json` into the package, where the chapter *Fast decoding* draws it. A peer that is not installed
is left out, with a sentence that says so.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from transformers import MarianConfig, MarianMTModel

from annotated_decoder.fast_decoding import StaticCache, fast, step_bytes
from annotated_decoder.generation import generate
from annotated_decoder.pretrained.loading import load_pretrained
from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of
from annotated_decoder.pronunciation.model import pronouncer
from annotated_decoder.pronunciation.recipe import machine
from annotated_decoder.pronunciation.saying import speaker
from annotated_decoder.strategies import beam_search
from annotated_decoder.trained.model_file import TrainedModel

try:
    import ctranslate2
    from ctranslate2.converters.transformers import MarianMTLoader
    from ctranslate2.specs import TransformerSpec, common_spec
except ImportError:
    ctranslate2 = None

STORED = Path(__file__).parents[1] / "src" / "annotated_decoder" / "teaching" / "decoding_speed.json"
SOURCE, WRITTEN, END = 32, 64, 0
RATIOS = {    # ours over theirs
    "fast / transformers": ("fast", "transformers"), "int8 / transformers": ("int8", "transformers"),
    "fast / CTranslate2": ("fast", "CTranslate2"), "int8 / CTranslate2 int8": ("int8", "CTranslate2 int8"),
    "fast / plain": ("fast", "plain"), "int8 / plain": ("int8", "plain"),
    "NumPy / CTranslate2": ("NumPy", "CTranslate2"),
}  # fmt: skip


def rates(runs, amount, rounds):
    "What each run gives, and its amounts a second in each round; the runs take turns."
    found, taken = {name: run() for name, run in runs.items()}, {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(amount / (time.perf_counter() - start))
    return found, taken


def same_share(found, expected):
    "The share of places at which the ids are equal."
    pairs = [(a, b) for row, right in zip(found, expected, strict=True) for a, b in zip(row, right)]
    return round(sum(a == b for a, b in pairs) / sum(map(len, expected)), 4)


def summary(runs, amount, rounds, unit):
    found, taken = rates(runs, amount, rounds)
    ratios = {name: pair for name, pair in RATIOS.items() if {*pair} <= runs.keys()}
    return {
        unit: {name: round(statistics.median(each), 1) for name, each in taken.items()},
        "same": {name: same_share(each, found["plain"]) for name, each in found.items()},
        "ratios": {
            name: round(statistics.median(a / b for a, b in zip(taken[ours], taken[theirs], strict=True)), 2)
            for name, (ours, theirs) in ratios.items()
        },
    }


def bandwidth(threads):
    "Bytes a second at which the weights of a large matrix pass by, in a product with one vector."
    torch.set_num_threads(threads)
    matrix, vector = torch.randn(16_384, 4_096), torch.randn(1, 4_096)
    _, taken = rates({"product": partial(torch.nn.functional.linear, vector, matrix)}, matrix.nbytes, 10)
    return max(taken["product"])


class Translator:
    "One Marian model of opus-mt's shape in each of the systems, on the same random weights."

    def __init__(self, layers, vocab_size, folder):
        torch.manual_seed(0)
        self.vocab_size, pad = vocab_size, vocab_size - 1
        sides = {f"{side}_{name}": n for side in ("encoder", "decoder")
                 for name, n in (("layers", layers), ("attention_heads", 8), ("ffn_dim", 2048))}    # fmt: skip
        config = MarianConfig(
            **sides, vocab_size=vocab_size, d_model=512, max_position_embeddings=512, activation_function="swish",
            pad_token_id=pad, eos_token_id=END, decoder_start_token_id=pad, forced_eos_token_id=None,
            scale_embedding=True, init_std=0.05,
        )    # fmt: skip
        self.theirs = MarianMTModel(config).eval()
        self.theirs.final_logits_bias[0, pad] = -1e9    # nobody is to write padding
        self.theirs.save_pretrained(folder)
        plain = load_pretrained(folder)
        self.ours = {"plain": plain, "fast": fast(plain), "int8": fast(plain, int8=True)}
        self.words = ["</s>", "<unk>", *(f"t{i}" for i in range(2, pad))]
        self.ids, self.converted = {word: i for i, word in enumerate(self.words)}, f"{folder}/converted"
        if ctranslate2:
            spec = MarianMTLoader().get_model_spec(self.theirs)
            for each in (spec.register_source_vocabulary, spec.register_target_vocabulary):
                each(self.words)
            spec.config.eos_token = spec.config.bos_token = spec.config.decoder_start_token = "</s>"
            spec.config.unk_token, spec.config.add_source_eos = "<unk>", False
            write_converted(spec, self.converted)

    def runs(self, source, beam, threads):
        "For each system, a function that gives the ids it writes."
        runs = {name: partial(self.ours_writes, model, source, beam) for name, model in self.ours.items()}
        runs["transformers"] = partial(self.theirs_writes, source, beam)
        for name, kind in (("CTranslate2", "float32"), ("CTranslate2 int8", "int8")):
            if ctranslate2:
                made = translator(self.converted, kind, threads)
                runs[name] = partial(self.converted_writes, made, source, beam)
        return runs

    def ours_writes(self, model, source, beam):
        asked = dict(max_steps=WRITTEN, constrain=lambda logits, tokens: logits.index_fill(-1, at_end, -torch.inf))
        at_end = torch.tensor([END])
        if beam == 1:
            return generate(model, source, cache=StaticCache(WRITTEN), **asked).tolist()
        found = beam_search(model, source, width=beam, length_penalty=1.0, cache=StaticCache(WRITTEN), **asked)
        return [list(hypotheses[0].tokens) for hypotheses in found]

    def theirs_writes(self, source, beam):
        asked = dict(num_beams=beam, do_sample=False, min_new_tokens=WRITTEN, max_new_tokens=WRITTEN)
        return self.theirs.generate(source, length_penalty=1.0, **asked)[:, 1:].tolist()

    def converted_writes(self, made, source, beam):
        rows = [[self.words[i] for i in row] for row in source.tolist()]
        lengths = dict(min_decoding_length=WRITTEN, max_decoding_length=WRITTEN)
        found = made.translate_batch(rows, beam_size=beam, length_penalty=1.0, **lengths)
        return [[self.ids[word] for word in each.hypotheses[0]] for each in found]


def translator(folder, kind, threads):
    return ctranslate2.Translator(folder, device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1)


def write_converted(spec, folder):
    spec.validate()
    spec.optimize("float32")
    Path(folder).mkdir()
    spec.save(folder)


def linear_to(spec, *parts):
    "Several of our linear layers as one of theirs."
    spec.weight = np.concatenate([part.weight.detach().numpy() for part in parts])
    spec.bias = np.concatenate([part.bias.detach().numpy() for part in parts])


def norm_to(spec, norm):
    spec.gamma, spec.beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()


def converted_pronouncer(trained, folder):
    "The pronunciation model in CTranslate2's form: pre-norm, sinusoids from a table."
    model, stacks = trained.model, (trained.model.encoder, trained.model.decoder)
    layers, heads = tuple(stack.config.n_layers for stack in stacks), model.decoder.config.n_heads
    spec = TransformerSpec.from_config(layers, heads, pre_norm=True, activation=common_spec.Activation.RELU)
    for side, stack in zip((spec.encoder, spec.decoder), stacks, strict=True):
        embeddings = side.embeddings[0] if side is spec.encoder else side.embeddings
        embeddings.weight = stack.embedding.tokens.weight.detach().numpy()
        side.position_encodings.encodings = stack.embedding.positions.numpy()
        norm_to(side.layer_norm, stack.final_norm)
        for theirs, ours in zip(side.layer, stack.layers, strict=True):
            attn = ours.self_attn
            linear_to(theirs.self_attention.linear[0], attn.q_proj, attn.k_proj, attn.v_proj)
            linear_to(theirs.self_attention.linear[1], attn.out_proj)
            norm_to(theirs.self_attention.layer_norm, ours.self_res.norm)
            linear_to(theirs.ffn.linear_0, ours.ffn.up_proj)
            linear_to(theirs.ffn.linear_1, ours.ffn.down_proj)
            norm_to(theirs.ffn.layer_norm, ours.ffn_res.norm)
            if side is spec.decoder:
                attn = ours.cross_attn
                linear_to(theirs.attention.linear[0], attn.q_proj)
                linear_to(theirs.attention.linear[1], attn.k_proj, attn.v_proj)
                linear_to(theirs.attention.linear[2], attn.out_proj)
                norm_to(theirs.attention.layer_norm, ours.cross_res.norm)
    linear_to(spec.decoder.projection, model.projection)
    spec.decoder.projection.weight *= model.projection.scale
    for register, words in ((spec.register_source_vocabulary, trained.source),
                            (spec.register_target_vocabulary, trained.target)):    # fmt: skip
        register(list(words.symbols))
    start, end = trained.target.symbols[1:3]
    spec.config.bos_token = spec.config.decoder_start_token = start
    spec.config.eos_token, spec.config.unk_token = end, trained.source.symbols[0]
    spec.config.add_source_bos, spec.config.add_source_eos = False, True
    write_converted(spec, folder)


def pronunciation(folder, threads, rounds, words):
    "Words a second, one at a time and all at once."
    torch.set_num_threads(threads)
    trained = pronouncer()
    forms = {"plain": trained.model, "fast": fast(trained.model), "int8": fast(trained.model, int8=True)}
    ours = {name: TrainedModel(model, trained.source, trained.target, {}) for name, model in forms.items()}
    ask = {name: partial(answers, made) for name, made in ours.items()}
    ask["NumPy"] = lambda asked: [list(speaker().transcribe(word, 1, 1)[0].symbols) for word in asked]
    if ctranslate2:
        if not os.path.exists(folder):
            converted_pronouncer(trained, folder)
        for name, kind in (("CTranslate2", "float32"), ("CTranslate2 int8", "int8")):
            ask[name] = partial(converted_answers, translator(folder, kind, threads))
    few = words[:: max(1, len(words) // 100)]
    alone = {name: partial(one_by_one, many, few) for name, many in ask.items()}
    bulk = {name: partial(many, words) for name, many in ask.items() if name != "NumPy"}
    return {
        "one at a time": summary(alone, len(few), rounds, "words_per_second"),
        "in bulk": summary(bulk, len(words), rounds, "words_per_second"),
    }


def one_by_one(many, words):
    return [many([word])[0] for word in words]


def answers(made, words):
    return list(made.transcribe(words).values())


def converted_answers(made, words):
    asked = [list(word) for word in words]
    found = made.translate_batch(asked, beam_size=1, max_batch_size=256, max_decoding_length=47)
    return [each.hypotheses[0] for each in found]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    options.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--vocabulary", type=int, default=58_101)
    options.add_argument("--words", type=int, default=2_000)
    options.add_argument("--save", action="store_true")
    args = options.parse_args()
    warnings.filterwarnings("ignore")
    if not ctranslate2:
        print("CTranslate2 is left out: it is not installed (pip install --no-deps ctranslate2==4.8.5)")
    versions = {"transformers": __import__("transformers").__version__}
    versions |= {"CTranslate2": ctranslate2.__version__} if ctranslate2 else {}
    result = {"machine": machine().split(", ")[0], "date": date.today().isoformat(), "torch": torch.__version__}
    result |= versions | {"source_tokens": SOURCE, "written": WRITTEN, "translator": [], "pronunciation": []}
    words = [word for word in read_cmudict() if split_of(word) == "validation"][: args.words]
    with tempfile.TemporaryDirectory() as folder:
        model = Translator(args.layers, args.vocabulary, folder)
        for threads in args.threads:
            speed = bandwidth(threads)
            for batch, beam in product(args.batches, args.beams):
                source = torch.randint(2, args.vocabulary - 1, (batch, SOURCE))
                source[:, -1] = END
                runs = model.runs(source, beam, threads)
                setting = {"threads": threads, "batch": batch, "beam": beam}
                found = setting | summary(runs, batch * WRITTEN, args.rounds, "tokens_per_second")
                if batch == beam == 1:    # the share of the speed that the bandwidth allows
                    found["of_the_bound"] = {
                        name: round(found["tokens_per_second"][name] * step_bytes(made) / speed, 2)
                        for name, made in model.ours.items()
                    }
                result["translator"].append(found)
                print(json.dumps(found), flush=True)
        for threads in args.threads:
            found = {"threads": threads, **pronunciation(f"{folder}/pronouncer", threads, args.rounds, words)}
            result["pronunciation"].append(found)
            print(json.dumps(found), flush=True)
    if args.save:
        STORED.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
