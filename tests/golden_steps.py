"""What the package says of many words, step by step, for another implementation to be compared with.

python tests/golden_steps.py OUT.json [MODEL.safetensors]    # a thousand words, half of them never trained on
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from annotated_decoder.encoder_outputs import END
from annotated_decoder.looking_inside import record_attention
from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of
from annotated_decoder.pronunciation.model import PRONOUNCER
from annotated_decoder.trained.model_file import TrainedModel, decoded
from annotated_decoder.training import Example, collate


def words_of(n: int = 1_000) -> list[str]:
    "Half from the test part and half from the training part, evenly over the alphabet, and strings that are no words."
    parts = {part: [word for word in read_cmudict() if split_of(word) == part] for part in ("test", "training")}
    picked = [word for words in parts.values() for word in words[:: len(words) // (n // 2)]]
    return [*picked, "z", "ffq", "aaaaaaaaaaaa", "qxzqxz"]


@torch.no_grad()
def golden(trained: TrainedModel, words: list[str]) -> list[dict]:
    "Of each word: the ids it is said with, each step's logits and cross-attention [layer][head][step][letter]."
    model, told = trained.model.eval(), []
    for start in range(0, len(words), 100):
        names = words[start : start + 100]
        sources = [trained.example(word).source for word in names]
        written = [found[0][0] for found in decoded(model, sources, beam=1, best=1)]
        written = [ids[: (*ids, END).index(END) + 1] for ids in written]          # without the padding behind the end
        batch = collate([Example(*pair) for pair in zip(sources, (ids[:-1] for ids in written))])
        with ExitStack() as stack:
            seen = [stack.enter_context(record_attention(layer.cross_attn)) for layer in model.decoder.layers]
            logits = model(batch.source, batch.inputs, batch.source_mask)
        attention = torch.stack([weights for (weights,) in seen], dim=1)          # (b layer head target source)
        for i, word in enumerate(names):
            steps, letters = len(written[i]), int(batch.source_mask[i].sum())
            told.append({
                "word": word, "tokens": written[i], "finished": END in written[i],
                "probabilities": rounded(logits[i, :steps].softmax(-1)),
                "attention": rounded(attention[i, :, :, :steps, :letters]),
            })    # fmt: skip
    return told


def rounded(values: torch.Tensor) -> list:
    "As nested lists, to six decimals: a test compares to four."
    return values.double().mul(1e6).round().div(1e6).tolist()


def main() -> None:
    out, path = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else PRONOUNCER
    out.write_text(json.dumps(golden(TrainedModel.load(path), words_of())))


if __name__ == "__main__":
    main()
