"""Each kind of tokenizer gives the ids and the text of transformers, and a damaged one is refused by its file."""

import json

import pytest
import sentencepiece
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100_CODES
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as MBART_CODES
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES as MBART50_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from annotated_decoder.pretrained.tokenizing import load_tokenizer

TEXTS = [
    "the cat sat on the mat", "a dog ran to the big red house", "nine naïve knights knew the knack of knitting",
    "where do the wild geese go when it snows?", "über den Wolken", "the quick brown fox jumps over the lazy dog",
]    # fmt: skip
UNKNOWN = ["ZEBRA ☃ zebra", "  two   blanks", "a</s>b", "x"]
FROM_ZERO = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
BPE = dict(model_type="bpe", vocab_size=90)
KINDS = {
    "T5": ("spiece.model", FROM_ZERO, {}),
    "Pegasus": ("spiece.model", FROM_ZERO, {}),
    "MBart": ("sentencepiece.bpe.model", {}, dict(src_lang="de_DE", additional_special_tokens=MBART_CODES)),
    "MBart50": ("sentencepiece.bpe.model", {}, dict(src_lang="de_DE", additional_special_tokens=MBART50_CODES)),
    "Nllb": ("sentencepiece.bpe.model", BPE, dict(src_lang="deu_Latn", additional_special_tokens=NLLB_CODES)),
    "M2M100": ("sentencepiece.bpe.model", {}, dict(
        src_lang="de", additional_special_tokens=[f"__{code}__" for code in M2M100_CODES["m2m100"]],
    )),
}    # fmt: skip


def make(folder, kind):
    "A folder as checkpoints of a kind have it, trained on a few lines."
    name, options, config = KINDS[kind]
    with open(folder / name, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 5), model_writer=file, character_coverage=1.0, minloglevel=2,
            **dict(model_type="unigram", vocab_size=55) | options,
        )    # fmt: skip
    if kind == "M2M100":
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces = [model.id_to_piece(i) for i in range(3, len(model))][::-1]
        table = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
        (folder / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    if kind == "Nllb":    # as its folders have them: the languages, then the mask
        names = enumerate([*NLLB_CODES, "<mask>"], options["vocab_size"] + 1)
        config = config | {"added_tokens_decoder": {str(i): {"content": name, "special": True} for i, name in names}}
    written = {"tokenizer_class": f"{kind}Tokenizer"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    "Our tokenizer and the one of transformers."
    folder = make(tmp_path_factory.mktemp(request.param), request.param)
    theirs = getattr(transformers, f"{request.param}Tokenizer")
    return load_tokenizer(folder), theirs.from_pretrained(folder), folder


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "M2M100"])
def test_a_piece_that_is_no_utf8_is_refused_by_its_file(kind, tmp_path):
    path = make(tmp_path, kind) / KINDS[kind][0]
    data = path.read_bytes()
    assert data.count("ü".encode()) > 0
    path.write_bytes(data.replace("ü".encode(), b"\xff\xfe"))
    with pytest.raises(ValueError, match=rf"{path.name} is no whole model of SentencePiece; get it anew$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("wild", ["\x1b[31m\x07", "1\n2", ["\x9b"], "3" * 100_000, 1e300, None])
def test_an_id_that_is_none_is_shown_and_steers_nothing(wild, tmp_path):
    make(tmp_path, "M2M100")
    table = json.loads((tmp_path / "vocab.json").read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(table | {"\x1b[2J": wild}), encoding="utf-8")
    with pytest.raises(ValueError) as refused:
        load_tokenizer(tmp_path)
    said = str(refused.value)
    assert r"'\x1b[2J' has the id" in said and said.isprintable() and len(said) < 300 and said.endswith("; get it anew")


@pytest.mark.parametrize("text", [*TEXTS, *UNKNOWN])
def test_pieces_and_ids_are_those_of_transformers(both, text):
    ours, theirs, _ = both
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("both", [kind for kind in KINDS if kind != "M2M100"], indirect=True)    # it saves no such file
def test_a_saved_file_is_read_as_the_pieces_are(both, tmp_path):
    ours, theirs, _ = both
    theirs.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text) and again.decode(ours.encode(text)) == text


@pytest.mark.parametrize("both", [k for k in KINDS if "src_lang" in KINDS[k][2]], indirect=True)
def test_a_language_has_a_token_and_an_unknown_one_is_refused_with_those_known(both):
    ours, theirs, _ = both
    for code in [*ours.languages][:3] + [*ours.languages][-3:]:
        token = f"__{code}__" if isinstance(theirs, transformers.M2M100Tokenizer) else code
        assert ours.language_id(code) == theirs.convert_tokens_to_ids(token)
        usual, theirs.src_lang = theirs.src_lang, code
        assert ours.reading(code).encode("the cat") == theirs("the cat")["input_ids"]
        theirs.src_lang = usual
    alike = [*sorted(each for each in ours.languages if each[:2] == code[:2])]
    with pytest.raises(ValueError, match=f"'{code[:2].upper()}'; known are {', '.join(alike)}") as refused:
        ours.reading(code[:2].upper())
    more = len(ours.languages) - 60
    assert str(refused.value).count(", ") == min(len(ours.languages), 61) - 1
    assert str(refused.value).endswith(f"and {more} more") == (more > 0) and len(str(refused.value)) < 1000


def test_sentinels_of_t5_are_read_in_a_text(tmp_path):
    ours = load_tokenizer(make(tmp_path, "T5"))
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    for text in ("the <extra_id_0> sat<extra_id_11>x", "<extra_id_99>"):
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_what_pegasus_learned_by_is_read_in_a_text_and_never_written(tmp_path):
    ours = load_tokenizer(make(tmp_path, "Pegasus"))
    theirs = transformers.PegasusTokenizer.from_pretrained(tmp_path)
    for text in ("<unk_5> a", "the<mask_2> cat", "<mask_1>"):
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids and ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True).strip()


def test_bytes_are_those_of_transformers(tmp_path):
    theirs = transformers.ByT5Tokenizer()
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in [*TEXTS, "ZEBRA ☃", "a</s>b", "x <extra_id_3>y", "\x00"]:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids[:-1]) == theirs.decode(ids[:-1], skip_special_tokens=True).strip()
    assert ours.decode([0, *ours.encode("ü")[:1], 1, 270]) == ""


def merged(folder, names, kind):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    options = dict(vocab_size=400, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(**options))
    made.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("text", [*TEXTS, "ZEBRA ☃ zebra", " x", "a</s>b"])
def test_merges_are_those_of_transformers(tmp_path, text):
    merged(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "BartTokenizer")
    ours, theirs = load_tokenizer(tmp_path), transformers.BartTokenizer.from_pretrained(tmp_path)
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True).strip()


def test_added_tokens_of_whisper_are_left_out_of_a_text(tmp_path):
    merged(tmp_path, ["<|endoftext|>"], "WhisperTokenizer")
    size = len(json.loads((tmp_path / "vocab.json").read_bytes()))
    added = {"<|startoftranscript|>": size, "<|en|>": size + 1}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert ours.decode([size, size + 1, *ours.plain("the cat"), 0]) == "the cat"
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|en|>": size + 7}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"added_tokens.json: '<\|en\|>' has the id {size + 7}, and is number {size}"):
        load_tokenizer(tmp_path)


DAMAGED = {
    "brackets": b"[" * 100_000, "negative": b'{"a": -1, "</s>": 1, "<unk>": 2}', "twice": b'{"</s>": 1, "<unk>": 1}',
    "truth": b'{"a": true, "</s>": 2, "<unk>": 3}', "huge": b'{"a": 4294967296}', "half": b'{"\\ud800": 0}',
}    # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_table_that_is_none_is_refused_once_by_its_file(tmp_path, damage):
    (make(tmp_path, "M2M100") / "vocab.json").write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match="get it anew") as refused:
        load_tokenizer(tmp_path)
    assert str(refused.value).count(str(tmp_path)) == 1 and "vocab.json" in str(refused.value)


def test_a_file_that_fails_at_a_text_is_refused_by_its_name(tmp_path):
    made = Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="<unk>"))    # and no <unk>
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a") == [1]
    with pytest.raises(ValueError, match="tokenizer.json fails at 'b' .*; get it anew"):
        tokenizer.encode("b")


def test_a_file_of_pieces_needs_to_say_whose_it_is(tmp_path):
    make(tmp_path, "Nllb")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="tokenizer_class is None; known for sentencepiece.bpe.model are T5"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mbart"}')
    with pytest.raises(ValueError, match="no source language"):
        load_tokenizer(tmp_path).encode("a")
