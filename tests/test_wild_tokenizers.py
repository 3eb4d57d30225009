"""A tokenizer's folder in which one file is anything at all gives one sentence with the name of that file, soon."""

import base64
import json
import shutil
import sys

import pytest
import sentencepiece
from test_tokenizing import make, merged
from test_wild_folders import DAMAGE, SAID, check_said, damaged, replaced, said_of
from transformers import T5Tokenizer

from annotated_decoder.pretrained.tokenizing import load_tokenizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits as Linux has them")


def marian(folder):
    "Two models, and a table for each side."
    make(folder, "T5")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    pieces = [model.id_to_piece(i) for i in range(3, len(model))]
    for name in ("vocab.json", "target_vocab.json"):
        table = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
        (folder / name).write_text(json.dumps(table), encoding="utf-8")
    for name in ("source.spm", "target.spm"):
        shutil.copy(folder / "spiece.model", folder / name)
    for name in ("spiece.model", "tokenizer_config.json"):
        (folder / name).unlink()


def bart(folder):
    "A table and the pairs that become one, with a token that is added."
    merged(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "BartTokenizer")
    size = len(json.loads((folder / "vocab.json").read_bytes()))
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": size}), encoding="utf-8")


def m2m100(folder):
    "A model of pieces, a table, and languages that two files name."
    make(folder, "M2M100")
    (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["__xx__"]}', encoding="utf-8")


def one_file(folder):
    "All in tokenizer.json, with a table of letters."
    T5Tokenizer.from_pretrained(make(folder, "T5")).save_pretrained(folder)
    (folder / "spiece.model").unlink()


def t5(folder):
    make(folder, "T5")


WHOLE = {  # each folder: its files that are damaged, by the function that writes it
    marian: ["source.spm", "target.spm", "vocab.json", "target_vocab.json"],
    bart: ["vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"],
    m2m100: ["sentencepiece.bpe.model", "vocab.json", "special_tokens_map.json", "tokenizer_config.json"],
    t5: ["spiece.model"],
    one_file: ["tokenizer.json"],
}


@pytest.fixture(scope="module", params=WHOLE, ids=lambda write: write.__name__)
def wild(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("wild")
    (home / "whole").mkdir()
    request.param(home / "whole")
    return WHOLE[request.param], said_of(damaged(home / "whole", WHOLE[request.param]), "tokenizer")


MAY_LACK = {"target_vocab.json", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"}


def test_anything_at_all_is_read_or_refused_in_one_sentence_that_names_the_file(wild):
    files, found = wild
    assert found.pop("whole")[1] == [["", ""]] and len(found) == len(files) * len(DAMAGE)
    for name, (seconds, said) in found.items():
        check_said(name, seconds, said)
        file, what = name.split(": ", 1)
        [[kind, text]] = said
        if what in SAID:
            assert kind == "ValueError" and f"/{file} {SAID[what]}" in text, (name, text)
        elif kind:
            assert what == "gone" or f"/{file}" in text, (name, text)
        if file not in MAY_LACK and what != "half of it":
            assert kind == "ValueError", name


TABLES = {  # a table from pieces to ids with one fault: what is said of it
    '"a": -1': "'a' has the id -1",
    '"a": 1.0': "'a' has the id 1.0",
    '"a": 1e400': "'a' has the id inf",
    '"a": NaN': "'a' has the id nan",
    '"a": true': "'a' has the id True",
    '"a": "\\n\\u0007"': r"'a' has the id '\n\x07'",
    '"a": null': "'a' has the id None",
    '"a": [[1]]': "'a' has the id [[1]]",
    '"a": 4294967296': "'a' has the id 4294967296",
    '"a\\n\\u001b": -1': r"'a\n\x1b' has the id -1",
    '"a": 0': "'a' has the id 0, as '</s>' has",
}


@pytest.mark.parametrize("fault", TABLES)
@pytest.mark.parametrize("write", [marian, bart, m2m100])
def test_an_id_that_is_none_is_refused_by_its_file(write, fault, tmp_path):
    write(tmp_path)
    for file in {"vocab.json", "target_vocab.json"} & {path.name for path in tmp_path.iterdir()}:
        whole = (tmp_path / file).read_bytes()
        (tmp_path / file).write_text('{"</s>": 0, "<unk>": 1, ' + fault + "}")
        with pytest.raises(ValueError) as refused:
            load_tokenizer(tmp_path)
        assert f"/{file}" in str(refused.value) and TABLES[fault] in str(refused.value)
        assert str(refused.value).isprintable() and str(refused.value).endswith("; get it anew")
        (tmp_path / file).write_bytes(whole)


def test_ids_with_gaps_are_read_as_they_stand(tmp_path):
    marian(tmp_path)
    table = json.loads((tmp_path / "vocab.json").read_bytes())
    before = load_tokenizer(tmp_path).encode("the cat")
    for name in ("vocab.json", "target_vocab.json"):
        (tmp_path / name).write_text(json.dumps({piece: 7 * i for piece, i in table.items()}))
    apart = load_tokenizer(tmp_path)
    assert apart.encode("the cat") == [7 * i for i in before] and apart.decode(apart.encode("the cat")) == "the cat"


@pytest.mark.parametrize("file, write", [("spiece.model", t5), ("source.spm", marian)])
def test_a_piece_that_is_no_text_is_refused_by_its_file(file, write, tmp_path):
    write(tmp_path)
    data = (tmp_path / file).read_bytes()
    at = data.index("ü".encode(), data.index("▁".encode()))
    (tmp_path / file).write_bytes(data[:at] + b"\xc3\xc3" + data[at + 2 :])
    with pytest.raises(ValueError, match=f"/{file} is no whole model of SentencePiece; get it anew"):
        load_tokenizer(tmp_path)


def changed(folder, change):
    "A tokenizer.json with one change."
    one_file(folder)
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    replaced(json.dumps(fields).encode())(path)


LETTERS = {  # what stands for the table of letters
    "nothing": "", "no base64": "§", "none": None, "a number": 7, "three bytes": base64.b64encode(b"abc").decode(),
    "thirteen gigabytes": "x" * 300, "cut off": base64.b64encode(b"\x08\0\0\0abcd").decode(),
}    # fmt: skip


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("letters", LETTERS)
def test_a_table_of_letters_that_claims_more_than_it_has_is_refused(letters, deep, tmp_path):
    def change(fields):
        part = {"type": "Precompiled", "precompiled_charsmap": LETTERS[letters]}
        fields["normalizer"] = {"type": "Sequence", "normalizers": [part]} if deep else part

    changed(tmp_path, change)
    with pytest.raises(ValueError, match="tokenizer.json: precompiled_charsmap is cut off; get it anew"):
        load_tokenizer(tmp_path)


def test_where_the_library_panics_the_file_is_named(tmp_path):
    changed(tmp_path, lambda fields: fields["post_processor"].update(special_tokens={}))
    with pytest.raises(ValueError, match="tokenizer.json (is no whole tokenizer|fails at 'the cat') .*; get it anew"):
        load_tokenizer(tmp_path).encode("the cat")
