"""Checkpoints of Marian, BART, T5, Whisper and their relatives in this book's modules beside transformers: logits for
each family and precision, with and without a cache, and the ids of greedy decoding and of a beam.

The checkpoints are those of the tests: tiny, with random weights, norms and biases moved off 1 and 0.
`python benchmarks/parity.py` writes `parity.json` and `parity.md` beside itself, and ends with an error where a
difference is not within its bound or ids are not equal.
"""

import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import reference  # noqa: E402

from annotated_decoder.caching import Cache  # noqa: E402
from annotated_decoder.generation import generate  # noqa: E402
from annotated_decoder.pretrained.loading import generation_settings, load_pretrained  # noqa: E402

# Of the largest logit. T5's norm runs in single precision in transformers, so double precision does not help it.
BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}
NAMES = {torch.float64: "double", torch.float32: "single"}
WAYS = (("greedy", 1, False), ("greedy", 1, True), ("beam of 4", 4, True))    # beam search always has a cache
YES = {False: "no", True: "yes"}


def bound(kind: str, dtype: torch.dtype) -> float:
    return max(BOUND[dtype], 1e-6 if "t5" in kind else 0.0)


@torch.no_grad()
def difference(kind: str, folder: Path, dtype: torch.dtype, cached: bool) -> float:
    "The largest difference of logits over the largest logit, for a padded batch."
    ours, other = load_pretrained(folder, dtype=dtype), reference.theirs(folder, kind, dtype)
    (source, mask), tokens = reference.source_for(kind, dtype=dtype), reference.tokens_for()
    expected = reference.their_logits(other, kind, source, mask, tokens)
    if cached:
        memory, cache = ours.encode(source, mask), Cache()
        found = torch.cat([ours.decode(one, memory, mask, cache) for one in tokens.split(1, 1)], 1)
    else:
        found = ours(source, tokens, mask)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def ids(kind: str, beams: int, cached: bool) -> dict:
    "Whether the ids are those of transformers in double precision; how many tokens and lengths these have."
    with tempfile.TemporaryDirectory() as folder:
        reference.write(folder, kind, beams, wild=True)
        settings, ours = generation_settings(folder), load_pretrained(folder, dtype=torch.float64)
        source, mask = reference.source_for(kind)
        expected = reference.their_ids(reference.theirs(folder, kind), kind, source, mask, settings.prompt)
    if cached:    # as the settings decode
        found = settings(ours, source, mask)
    else:
        prompt, end = torch.tensor([settings.prompt] * len(source)), ours.decoder.config.end_id
        options = dict(prompt=prompt, max_steps=settings.max_steps, constrain=settings.constraints)
        rows = generate(ours, source, mask, **options).tolist()
        found = [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]
    tokens, lengths = {token for row in expected for token in row}, {len(row) for row in expected}
    return {"equal": found == expected, "distinct_tokens": len(tokens), "distinct_lengths": len(lengths)}


def logit_rows():
    for kind in reference.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            reference.write(folder, kind)
            for dtype, cached in product(BOUND, (False, True)):
                found, most = difference(kind, Path(folder), dtype, cached), bound(kind, dtype)
                row = {"family": kind, "precision": NAMES[dtype], "cached": cached}
                yield row | {"difference": found, "bound": most, "within": found < most}


def id_rows():
    for kind, (way, beams, cached) in product(reference.KINDS, WAYS):
        yield {"family": kind, "decoding": way, "cached": cached} | ids(kind, beams, cached)


def tables(logits: list[dict], ids: list[dict]) -> str:
    "The rows as Markdown; a difference as within its bound, for its digits differ between machines."
    lines = ["| family | precision | cached | largest difference of logits |", "|---|---|---|---|"]
    for row in logits:
        within = f"within {row['bound']:g}" if row["within"] else f"**{row['difference']:.1e}, over {row['bound']:g}**"
        lines.append(f"| {row['family']} | {row['precision']} | {YES[row['cached']]} | {within} |")
    lines += ["", "| family | decoding | cached | ids equal | tokens, lengths |", "|---|---|---|---|---|"]
    for row in ids:
        equal, kinds = "yes" if row["equal"] else "**no**", f"{row['distinct_tokens']}, {row['distinct_lengths']}"
        lines.append(f"| {row['family']} | {row['decoding']} | {YES[row['cached']]} | {equal} | {kinds} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    torch.set_num_threads(1)
    logits, ids = list(logit_rows()), list(id_rows())
    versions = {"torch": torch.__version__, "transformers": reference.transformers.__version__}
    content = {"versions": versions, "logits": logits, "ids": ids}
    (HERE / "parity.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    about = (
        "# Beside transformers\n\n`make parity` makes these tables: the largest difference of logits over the largest "
        "logit, and whether the ids that are generated are equal, in double precision, where near ties do not matter. "
        "The last column counts the distinct tokens and lengths of what transformers generates.\n\n"
    )
    (HERE / "parity.md").write_text(about + tables(logits, ids), "utf-8")
    print(tables(logits, ids))
    return 0 if all(row["within"] for row in logits) and all(row["equal"] for row in ids) else 1


if __name__ == "__main__":
    sys.exit(main())
