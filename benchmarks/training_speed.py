"""Training pairs a second, all in turns in this one script: this book's model, torch.nn.Transformer of the same shape,
batches of like length against random ones, and single precision against bfloat16; then where the time of a step goes.
Then a step of a wider pair, with targets of 64, 512 and 2,048 tokens, as many tokens in each batch.

`python benchmarks/training_speed.py` prints what it finds; with `--save` it writes `training_speed.json` beside itself.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from annotated_decoder.decoder import StackConfig
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of
from annotated_decoder.pronunciation.recipe import machine, new_pronouncer
from annotated_decoder.softmax import cross_entropy
from annotated_decoder.training import Example, batches, collate

HERE = Path(__file__).parent


class Theirs(nn.Module):
    "torch.nn.Transformer with the embeddings and the tied head around it that the other model has."

    def __init__(self, ours):
        super().__init__()
        encoder, decoder = ours.encoder.config, ours.decoder.config
        dropout = decoder.dropout
        self.d_model = decoder.d_model
        self.source = nn.Embedding(encoder.vocab_size, encoder.d_model)
        self.target = nn.Embedding(decoder.vocab_size, decoder.d_model)
        self.positions = nn.Parameter(ours.decoder.embedding.positions.clone(), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Transformer(
            decoder.d_model, decoder.n_heads, encoder.n_layers, decoder.n_layers, decoder.d_ff, dropout,
            batch_first=True, norm_first=True,
        )    # fmt: skip
        self.head = nn.Linear(decoder.d_model, decoder.vocab_size)
        self.head.weight = self.target.weight

    def embed(self, table, tokens):
        return self.dropout(table(tokens) * self.d_model**0.5 + self.positions[: tokens.shape[1]])

    def forward(self, source, inputs, source_mask):
        hidden = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).triu(1)    # True may not look
        x = self.transformer(
            self.embed(self.source, source), self.embed(self.target, inputs), tgt_mask=hidden, tgt_is_causal=True,
            src_key_padding_mask=~source_mask, memory_key_padding_mask=~source_mask,
        )    # fmt: skip
        return self.head(x)


class Contestant:
    "A model with its optimizer; `rate` trains on the batches and gives pairs a second."

    def __init__(self, model, epoch, bfloat16=False):
        self.model, self.epoch, self.bfloat16 = model.train(), epoch, bfloat16
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def rate(self) -> float:
        start = time.perf_counter()
        for batch in self.epoch:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                logits = self.model(batch.source, batch.inputs, batch.source_mask)
            loss = cross_entropy(logits.float(), batch.targets, batch.target_mask, 0.1)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return sum(len(batch.source) for batch in self.epoch) / (time.perf_counter() - start)


def profile(contestant) -> dict[str, float]:
    "The share of a step's time in each kind of operation."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        contestant.rate()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    total = sum(spent.values())
    return {name: round(t / total, 3) for name, t in sorted(spent.items(), key=lambda x: -x[1])[:12]}


def in_turns(contestants, rounds) -> dict[str, dict[str, float]]:
    "Medians of the rates and of their ratios to the first one's; in each round all have a turn."
    for contestant in contestants.values():
        contestant.rate()                                           # warm up
    rates = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            rates[name].append(contestant.rate())
    base = next(iter(rates.values()))
    return {
        name: {
            "pairs_per_second": float(f"{statistics.median(each):.3g}"),
            "ratio": round(statistics.median(a / b for a, b in zip(each, base, strict=True)), 2),
        }
        for name, each in rates.items()
    }


def by_length(rounds, lengths=(64, 512, 2_048), tokens=2_048, source=64, layers=2) -> dict[str, dict]:
    "Steps of a pair of width 512, random tokens, with dropout as each model has it and without."
    found = {}
    for length in lengths:
        for dropout in (0.1, 0.0):
            sizes = dict(vocab_size=8_000, max_len=max(lengths), d_model=512, n_heads=8, d_ff=2_048)
            shape = StackConfig(**sizes, n_layers=layers, dropout=dropout)
            ours, ids = EncoderDecoder.of(shape, shape), torch.randint(3, 8_000, (tokens // length, source + length))
            examples = [Example(tuple(row[:source]), tuple(row[source + 1 :])) for row in ids.tolist()]
            epoch = [collate(examples)]
            pair = {"torch.nn.Transformer": Contestant(Theirs(ours), epoch), "this book": Contestant(ours, epoch)}
            found[f"target {length}, dropout {dropout}"] = in_turns(pair, rounds)["this book"]["ratio"]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--letters", type=int, default=1_000)
    options.add_argument("--words", type=int, default=1_500)
    options.add_argument("--save", action="store_true")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dictionary = read_cmudict()
    trained = new_pronouncer(dictionary)
    training = [word for word in dictionary if split_of(word) == "training"]
    words = training[:: max(1, len(training) // args.words)]
    examples = [trained.example(word, dictionary[word][0]) for word in words]
    alike = list(batches(examples, args.letters, torch.Generator().manual_seed(0)))
    size = -(-len(examples) // len(alike))                          # the same words in as many batches
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = [collate([examples[j] for j in order[i : i + size]]) for i in range(0, len(order), size)]
    contestants = {
        "torch.nn.Transformer": Contestant(Theirs(trained.model), alike),
        "this book": Contestant(new_pronouncer(dictionary).model, alike),
        "this book, batches at random": Contestant(new_pronouncer(dictionary).model, mixed),
        "torch.nn.Transformer, bfloat16": Contestant(Theirs(trained.model), alike, bfloat16=True),
        "this book, bfloat16": Contestant(new_pronouncer(dictionary).model, alike, bfloat16=True),
    }
    result = {"machine": machine(), "pairs": sum(len(batch.source) for batch in alike)}
    result["rates"] = in_turns(contestants, args.rounds)
    result["profile"] = {name: profile(contestants[name]) for name in ("this book", "this book, bfloat16")}
    result["ratio by length"] = by_length(args.rounds)
    print(json.dumps(result, indent=1))
    if args.save:
        (HERE / "training_speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
