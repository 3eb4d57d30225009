"""What is fetched from the hub: safetensors where there are any, pickles where there are none, and never both."""

import io
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import test_languages
from test_bad_input import refusal
from test_translating import TEXTS
from test_translating import folder as marian  # noqa: F401

from annotated_decoder import cli
from annotated_decoder.pretrained.folder import local_folder
from annotated_decoder.pretrained.translating import Translator

SMALL = ["config.json", "vocab.json", "target_vocab.json", "source.spm", "modeling.py", "tf_model.h5"]
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
TITLE, BOT = "Adding `safetensors` variant of this model", "SFconvertbot"


class Hub:
    "A hub with one model; it notes what was asked of it."

    def __init__(self, home, files, offers=(), network=True):
        self.home, self.files, self.offers, self.network = Path(home), files, offers, network
        self.fetched, self.asked = [], []

    def snapshot_download(self, name, *, revision, allow_patterns, ignore_patterns):
        assert name == "owner/name" and ignore_patterns == "*/*"
        folder = self.home / (revision or "main").replace("/", "-")
        folder.mkdir(exist_ok=True)
        for file in self.files[revision or "main"]:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).write_text("")
                self.fetched.append((revision, file))
        return str(folder)

    def get_repo_discussions(self, name, **options):
        self.asked.append("offers")
        if not self.network:
            raise ConnectionError("no network")
        return iter(self.offers)

    def list_repo_commits(self, name, *, revision=None):
        ids = ["now", "before"] if revision is None else self.files[f"{revision}'s commits"]
        return [SimpleNamespace(commit_id=i) for i in ids]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    def make(files, offers=(), **options):
        hub = Hub(tmp_path, files, offers, **options)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        return hub

    return make


def offer(num=7, author=BOT, title=TITLE, status="open", is_pull_request=True):
    return SimpleNamespace(num=num, author=author, title=title, status=status, is_pull_request=is_pull_request)


@pytest.mark.parametrize(
    "weights",
    [
        [SAFE],
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ],
    ids=["one", "several"],
)
def test_where_there_are_safetensors_they_alone_are_fetched(weights, hub):
    asked = hub({"main": [*SMALL, *weights, PICKLED, "pytorch_model.bin.index.json"]})
    folder = local_folder("owner/name")
    assert sorted(p.name for p in folder.iterdir()) == sorted([*SMALL[:4], *weights]) and asked.asked == []


def test_where_a_branch_converts_them_it_is_fetched(hub):
    files = {"main": [*SMALL, PICKLED], "refs/pr/7": [*SMALL, PICKLED, SAFE], "refs/pr/7's commits": ["its", "now"]}
    asked = hub(files, [offer(3, author="somebody"), offer()])
    folder = local_folder("owner/name")
    assert sorted(p.name for p in folder.iterdir()) == sorted([*SMALL[:4], SAFE])
    assert PICKLED not in [file for _, file in asked.fetched] and asked.asked == ["offers"]


OFFERS = {
    "none": [],
    "somebody's": [offer(author="somebody")],
    "of something else": [offer(title="Add TF weights")],
    "closed": [offer(status="closed")],
    "a talk": [offer(is_pull_request=False)],
    "of an older main branch": [offer(8)],
}


@pytest.mark.parametrize("offers", OFFERS.values(), ids=OFFERS)
def test_where_no_branch_is_of_today_and_the_converters_the_pickle_is_fetched(offers, hub):
    safe = [*SMALL, SAFE]
    files = {"main": [*SMALL, PICKLED], "refs/pr/7": safe, "refs/pr/8": safe}
    files |= {"refs/pr/7's commits": ["its", "now"], "refs/pr/8's commits": ["its", "before"]}
    asked = hub(files, offers)
    folder = local_folder("owner/name")
    assert folder.name == "main" and (folder / PICKLED).exists()
    assert {revision for revision, _ in asked.fetched} == {None}


def test_without_a_network_the_pickle_that_was_fetched_is_taken(hub):
    hub({"main": [*SMALL, PICKLED]}, network=False)
    assert (local_folder("owner/name") / PICKLED).exists()


@pytest.mark.parametrize("revision", ["v1.0", "0123456789abcdef0123456789abcdef01234567", "refs/pr/1"])
def test_a_revision_is_fetched_as_it_is(revision, hub):
    asked = hub({revision: [*SMALL, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]}, [offer()])
    folder = local_folder(f"owner/name@{revision}")
    assert "pytorch_model-00001-of-00001.bin" in [p.name for p in folder.iterdir()] and asked.asked == []
    assert {found for found, _ in asked.fetched} == {revision}


def test_what_the_hub_refuses_is_one_sentence(hub):
    hub({})
    refusal(OSError, lambda: local_folder("owner/name@gone"), "'owner/name@gone'", "check its name and the network")


CONFIGS = ["config.json", "generation_config.json", "tokenizer_config.json"]
READ = {  # the files of each family that a model, its settings, its tokenizer or its features are read from
    "Marian": [*CONFIGS, "source.spm", "target.spm", "vocab.json", SAFE],
    "Marian, two tables": [*CONFIGS, "source.spm", "target.spm", "vocab.json", "target_vocab.json", SAFE],
    "BART": [*CONFIGS, "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", SAFE],
    "BART, one file": [*CONFIGS, "tokenizer.json", SAFE],
    "T5": [*CONFIGS, "spiece.model", "special_tokens_map.json", "added_tokens.json", SAFE],
    "mBART": [*CONFIGS, "sentencepiece.bpe.model", "special_tokens_map.json", SAFE],
    "M2M100": [*CONFIGS, "sentencepiece.bpe.model", "vocab.json", "special_tokens_map.json", SAFE],
    "Whisper": [*CONFIGS, "preprocessor_config.json", "vocab.json", "merges.txt", "added_tokens.json", SAFE],
}  # fmt: skip
UNREAD = ["README.md", ".gitattributes", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "modeling_x.py", "x.zip"]


@pytest.mark.parametrize("family", READ)
def test_all_that_is_read_of_a_family_is_fetched_and_nothing_else(family, hub):
    asked = hub({"main": [*READ[family], *UNREAD, PICKLED]})
    local_folder("owner/name")
    assert sorted(file for _, file in asked.fetched) == sorted(READ[family])


class Serving(Hub):
    "A hub that has a folder as its one model, under any name."

    def snapshot_download(self, name, *, revision, allow_patterns, ignore_patterns):
        self.asked.append(name)
        for path in self.files.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.home)
        return str(self.home)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    def serve(folder):
        (home := tmp_path / "cache").mkdir()
        serving = Serving(home, folder)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", serving.snapshot_download)
        return serving

    return serve


@pytest.mark.parametrize("kind", ["mBART", "M2M100", "NLLB", "T5", "ByT5", "Pegasus"])
def test_what_is_fetched_translates_as_the_folder_does(kind, serve, tmp_path):
    (there := tmp_path / "there").mkdir()
    about = test_languages.KINDS[kind]
    test_languages.write(there, about)
    serve(there)
    asked = dict(zip(("source_language", "target_language"), about.pairs[0], strict=True))
    here, fetched = (list(Translator.load(name, **asked).stream(TEXTS)) for name in (there, "owner/name"))
    assert fetched == here and len({answer.text for answer in here}) > 1


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```python\n([^`]*load_pretrained[^`]*)^```", README, re.M)
COMMAND = re.search(r"^annotated-decoder (translate .*?) < lines.txt", README, re.M)[1].split()


def test_readmes_example_runs_where_there_is_a_hub(serve, marian, capsys):  # noqa: F811
    asked, found = serve(marian), {}
    exec(EXAMPLE, found)
    name = re.search(r'load_pretrained\("(.*?)"\)', EXAMPLE)[1]
    assert {*asked.asked} == {name} and f"`{name}`" in README
    given = eval(re.search(r"lines = (\[.*?\])", EXAMPLE)[1])
    local = Translator.load(marian)
    answers = list(local.stream(given))
    assert capsys.readouterr().out.splitlines() == [answer.text for answer in answers]
    assert [local.tokenizer.decode(row) for row in found["tokens"]] == [answer.text for answer in answers]


def test_readmes_command_runs_where_there_is_a_hub(serve, marian, monkeypatch, capsys):  # noqa: F811
    asked = serve(marian)
    monkeypatch.setattr(sys, "argv", ["annotated-decoder", *COMMAND])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS)))
    cli.main()
    answers = Translator.load(marian).stream(TEXTS)
    assert capsys.readouterr().out.splitlines() == [answer.text for answer in answers]
    assert asked.asked == [COMMAND[COMMAND.index("--model") + 1]]
