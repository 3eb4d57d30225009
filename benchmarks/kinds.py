"""Score a model on the test words by kind, how common a word is and whether it is somebody's name, and on common words.

    python benchmarks/kinds.py --model FILE            # prints the scores
    python benchmarks/kinds.py --model FILE --store    # and writes them into the model's file

Of the commonest words, those that were trained on are told apart from the others, and beside the words that are wrong
stands the share of a text's words that they make.

The kinds come from two distributions: wordfreq, whose Zipf scale is the logarithm to base 10 of how often a word comes
in a billion words, and names, which has the first and last names of the US Census.
`annotated-decoder evaluate --store` comes first: kinds are stored beside the scores on all words, and must fit them.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from annotated_decoder.pronunciation.dictionary import read_cmudict, report, split_of
from annotated_decoder.pronunciation.model import PRONOUNCER
from annotated_decoder.trained.model_file import TrainedModel
from annotated_decoder.trained.whole_files import check_target

BANDS = {"Zipf 4 and above": (4, 9), "Zipf 3 to 4": (3, 4), "Zipf 2 to 3": (2, 3), "Zipf below 2": (1e-9, 2)}
NOT_LISTED = "not in its list"
COMMONEST = (100, 1_000, 10_000)


def sources() -> list[str]:
    "What the kinds come from, with versions; ValueError where one is not installed."
    try:
        return [f"wordfreq {version('wordfreq')}", f"names {version('names')}"]
    except PackageNotFoundError as error:
        how = "pip install --no-deps -r benchmarks/requirements.txt"
        raise ValueError(f"the distribution {error.name} is missing; {how}") from error


def by_frequency(words: Iterable[str]) -> dict[str, list[str]]:
    "Each word under its band, the common ones first."
    from wordfreq import zipf_frequency

    groups: dict[str, list[str]] = {name: [] for name in [*BANDS, NOT_LISTED]}
    for word in words:
        zipf = zipf_frequency(word, "en")
        band = next((name for name, (low, high) in BANDS.items() if low <= zipf < high), NOT_LISTED)
        groups[band].append(word)
    return groups


def by_name(words: Iterable[str]) -> dict[str, list[str]]:
    "Each word as a first name, as a last name alone, or as neither."
    import names

    listed = {
        key: {line.split()[0].lower() for line in Path(path).read_text(encoding="ascii").splitlines()}
        for key, path in names.FILES.items()
    }
    first = listed["first:male"] | listed["first:female"]
    groups: dict[str, list[str]] = {"a first name": [], "a last name": [], "no name": []}
    for word in words:
        groups["a first name" if word in first else "a last name" if word in listed["last"] else "no name"].append(word)
    return groups


def scored(found: Mapping[str, list[str]], dictionary: Mapping) -> dict:
    "The report of each kind that has words."
    return {"sources": sources()} | {
        what: {name: report({w: found[w] for w in group}, dictionary) for name, group in groups.items() if group}
        for what, groups in (("frequency", by_frequency(found)), ("names", by_name(found)))
    }


def common(trained: TrainedModel, dictionary: Mapping) -> dict[str, dict]:
    "Of the commonest listed words, trained on or not: how many are wrong, and which share of a text's words that is."
    from wordfreq import top_n_list, word_frequency

    ranked = [word for word in top_n_list("en", 2 * max(COMMONEST)) if word in dictionary][: max(COMMONEST)]
    found = trained.transcribe(ranked)
    wrong = {word for word in ranked if tuple(found[word]) not in dictionary[word]}
    rows = {}
    for n in COMMONEST:
        for part, trained_on in (("training", True), ("unseen", False)):
            words = [word for word in ranked[:n] if (split_of(word) == "training") is trained_on]
            share = {word: word_frequency(word, "en") for word in words}
            rows[f"{n:,} commonest, {part}"] = {
                "words": len(words), "wrong": sum(word in wrong for word in words),
                "token_wer": sum(share[word] for word in wrong & share.keys()) / sum(share.values()) if words else None,
            }    # fmt: skip
    return rows


def common_table(rows: Mapping) -> str:
    "The scores on common words as lines of text."
    lines = [f"{'with stress':<30}{'words':>7}{'wrong':>7}  of a text's words, %"]
    lines += [
        f"{name:<30}{row['words']:>7,}{row['wrong']:>7,}  {100 * row['token_wer']:.2f}"
        for name, row in rows.items() if row["words"]
    ]    # fmt: skip
    return "\n".join(lines)


def table(kinds: Mapping) -> str:
    "The scores as lines of text, in percent."
    lines = [", ".join(kinds["sources"]), f"{'':<18}{'words':>7}  WER, %             with stress, %"]
    for group in (kinds["frequency"], kinds["names"]):
        for name, rates in group.items():
            both = [
                "{:4.1f} ({:.1f}–{:.1f})".format(*(100 * x for x in (one["wer"], *one["wer_interval"])))
                for one in (rates["stressless"], rates["stressed"])
            ]
            lines.append(f"{name:<18}{rates['stressless']['words']:>7,}  {both[0]:<18} {both[1]}")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--model", metavar="FILE", help="the shipped model unless given")
    options.add_argument("--store", action="store_true", help="also write the scores into the model's file")
    args = options.parse_args()
    try:
        if args.store and args.model is None:
            raise ValueError("--store writes into a model's file; name it with --model")
        sources()
        trained, dictionary = TrainedModel.load(args.model or PRONOUNCER), read_cmudict()
        before = trained.notes.get("test")
        if args.store and (before is None or check_target(args.model) is None):
            raise ValueError(f"{args.model} has no scores yet; annotated-decoder evaluate --model {args.model} --store")
        words = [word for word in dictionary if split_of(word) == "test" and word.isalpha()]
        found = trained.transcribe(words, progress=True)
        whole = report(found, dictionary)["stressless"]
        if args.store and abs(whole["wer"] - before["stressless"]["wer"]) > 0.002:
            why = f"its WER is {whole['wer']:.4f} here and {before['stressless']['wer']:.4f} in its notes"
            raise ValueError(f"{args.model} has the scores of other weights: {why}; evaluate it again with --store")
        kinds, of_all = scored(found, dictionary), common(trained, dictionary)
        if args.store:
            notes = {"test": before | {"by_kind": kinds}, "common": of_all}
            replace(trained, notes=trained.notes | notes).save(args.model)
        print(table(kinds), common_table(of_all), sep="\n\n")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"kinds.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
