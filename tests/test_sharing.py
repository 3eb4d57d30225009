"""A shared folder gives back what was saved, to the bit; the hub is asked for nothing that a stand-in does not see."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small import seeded, whole
from speller import small_pronouncer
from torch import nn

from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pretrained.parts import ScaledProjection
from annotated_decoder.trained.hub import load_from_hub, push_to_hub, save_folder
from annotated_decoder.trained.model_file import TrainedModel, describe, read_model, write_model


def bare(tied=True, shared=False, bias=True, scale=1.0, dtype=torch.float32, **changes):
    "A model without vocabularies, its tables and its projection as told."
    made = seeded(lambda: whole(tied=tied, **changes), 3, dtype)
    table = made.decoder.embedding.tokens.weight
    if not bias or scale != 1.0:
        head = ScaledProjection(8, 11, table if tied else None, bias=bias, scale=scale).to(dtype)
        head.weight = table if tied else head.weight
        made.projection = head
    if shared:
        made.encoder.embedding.tokens.weight = table
    return made


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


MODELS = {
    "tied": dict(),
    "untied": dict(tied=False),
    "one table for all": dict(shared=True),
    "one table for both sides": dict(shared=True, tied=False),
    "another projection": dict(bias=False, scale=0.25),
    "as T5": dict(shared=True, bias=False, scale=0.5, positions="relative", norm="rms", gated=True, linear_bias=False,
                  attention_scale=1.0, embedding_scale=1.0, norm_eps=1e-3),
    "as BART": dict(shared=True, positions="learned", pre_norm=False, embedding_norm=True, activation="gelu"),
}  # fmt: skip


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_bare_model_comes_back_to_the_bit_and_ready(options, tmp_path):
    ours = bare(**options).train()
    save_folder(ours, tmp_path)
    assert ours.training
    state = torch.get_rng_state()
    back = load_from_hub(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(back, EncoderDecoder) and not any(module.training for module in back.modules())
    same_weights(back, ours)
    assert (back.encoder.config, back.decoder.config) == (ours.encoder.config, ours.decoder.config)
    assert back.projection.scale == getattr(ours.projection, "scale", 1.0)
    source, tokens = torch.tensor([[3, 4, 2]]), torch.tensor([[1, 5, 4]])
    with torch.no_grad():
        assert torch.equal(back(source, tokens), ours.eval()(source, tokens))


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_tied_weight_is_stored_once_and_is_one_parameter_again(options, tmp_path):
    ours = bare(**options)
    save_folder(ours, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in ours.parameters())
    back = load_from_hub(tmp_path)
    assert [name for name, _ in back.named_parameters()] == [name for name, _ in ours.named_parameters()]
    table = back.decoder.embedding.tokens.weight
    assert (back.projection.weight is table) is options.get("tied", True)
    assert (back.encoder.embedding.tokens.weight is table) is options.get("shared", False)


def test_a_trained_model_comes_back_with_its_vocabularies_and_notes(tmp_path):
    ours = small_pronouncer()
    save_folder(ours, str(tmp_path / "a" / "b"))
    back = load_from_hub(str(tmp_path / "a" / "b"))
    assert (back.source, back.target, back.notes) == (ours.source, ours.target, ours.notes)
    same_weights(back.model, ours.model)
    assert back.transcribe(["cab", "dead"]) == ours.transcribe(["cab", "dead"])


def test_a_bare_model_is_no_trained_one(tmp_path):
    save_folder(bare(), tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match=re.escape(f"{path} holds a model without vocabularies; load_from_hub()")):
            TrainedModel.load(path)


def test_saving_again_gives_the_same_bytes(tmp_path):
    save_folder(small_pronouncer(), tmp_path / "a")
    save_folder(TrainedModel.load(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_half_precision_is_used_where_it_loses_nothing_and_only_there(tmp_path, trained):
    ours = bare()
    with torch.no_grad():
        ours.projection.bias.copy_(torch.tensor([1e5] + [0.0] * 10))          # beyond half precision
        ours.decoder.final_norm.weight.fill_(0.5)
    save_folder(ours, tmp_path / "single")
    stored = load_file(tmp_path / "single" / "model.safetensors")
    assert stored["decoder.final_norm.weight"].dtype == torch.float16
    assert stored["projection.bias"].dtype == stored["decoder.embedding.tokens.weight"].dtype == torch.float32
    assert load_from_hub(tmp_path / "single").projection.bias[0] == 1e5
    save_folder(trained, tmp_path / "half")
    halves = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in halves.values()} == {torch.float16}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_come_back_in_single(dtype, tmp_path):
    ours = bare(dtype=dtype)
    save_folder(ours, tmp_path)
    same_weights(load_from_hub(tmp_path), ours.float())


def test_the_weights_are_a_model_file(tmp_path):
    ours = small_pronouncer()
    save_folder(ours, tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        same_weights(TrainedModel.load(path).model, ours.model)
    about, _ = read_model(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text()) == about


def test_the_card_says_what_the_model_is_and_one_that_is_there_is_kept(tmp_path):
    ours = small_pronouncer(max_len=13)
    save_folder(ours, tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "annotated-decoder" and "encoder-decoder" in card.data.tags
    numbers = sum(p.numel() for p in ours.model.parameters())
    for said in (f"{numbers:,} parameters", "| max_len | 13 | 13 |", "| vocab_size | 8 | 8 |", '"for a test"'):
        assert said in card.text, said
    assert "{{" not in card.text
    save_folder(bare(), tmp_path / "bare")
    assert "generate(model" in (tmp_path / "bare" / "README.md").read_text()
    (tmp_path / "README.md").write_text("by hand")
    save_folder(ours, tmp_path)
    assert (tmp_path / "README.md").read_text() == "by hand"


def test_what_the_card_shows_as_code_runs(tmp_path, monkeypatch):
    ours = small_pronouncer()
    save_folder(ours, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.S)
    code = code.replace("this folder, or its name on the hub", str(tmp_path)).replace('"some", "words"', '"cab", "bed"')
    found = {}
    exec(code.replace("model.transcribe", "said = model.transcribe"), found)
    assert found["said"] == ours.transcribe(["cab", "bed"])


def test_the_card_of_a_model_of_pairs_answers_lines_and_leaves_the_curve_out(tmp_path, capsys):
    ours = small_pronouncer()
    ours.notes.update(pairs={"source": "tokens", "target": "tokens"}, curve=[[1, 2.0, 12.25]])
    save_folder(ours, tmp_path)
    card = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    code = code.replace("this folder, or its name on the hub", str(tmp_path))
    exec(code.replace('"a line", "another"', '"c a b", "b e d"'), {})
    said = ours.transcribe([tuple("cab"), tuple("bed")])
    assert capsys.readouterr().out.splitlines() == [" ".join(found) for found in said.values()]
    assert "annotated-decoder translate --model FOLDER" in card and '"tokens"' in card and "12.25" not in card


# The hub


class Recorder:
    "Stands in for the hub's client: keeps what it is asked, and a copy of what it is given."

    def __init__(self, fail=None):
        self.calls, self.files, self.fail = [], {}, fail

    def __call__(self, token=None):
        self.calls.append(("client", token))
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if self.fail:
            raise self.fail
        self.calls.append(("create", repo_id, private, exist_ok))
        return SimpleNamespace(repo_id=f"owner/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, revision=None, commit_message=None):
        self.calls.append(("upload", repo_id, revision, commit_message))
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return "address of the commit"


def test_a_push_uploads_what_save_folder_writes(tmp_path, monkeypatch):
    recorder, ours = Recorder(), small_pronouncer()
    monkeypatch.setattr(huggingface_hub, "HfApi", recorder)
    options = dict(private=True, token="a token", commit_message="First", revision="try")
    assert push_to_hub(ours, "speller", **options) == "address of the commit"
    create, upload = ("create", "speller", True, True), ("upload", "owner/speller", "try", "First")
    assert recorder.calls == [("client", "a token"), create, upload]
    save_folder(ours, tmp_path)
    assert recorder.files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(recorder.files) == {"model.safetensors", "config.json", "README.md"}


def test_a_name_is_fetched_with_the_options_given_and_nothing_but_the_two_files(tmp_path, monkeypatch):
    save_folder(small_pronouncer(), tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    back = load_from_hub("owner/speller", revision="v1", token="a token")
    assert back.notes == small_pronouncer().notes
    files = ("model.safetensors", "config.json")
    assert asked == [(("owner/speller",), {"allow_patterns": files, "revision": "v1", "token": "a token"})]


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    down = ConnectionError("no route\nto host")
    monkeypatch.setattr(huggingface_hub, "HfApi", Recorder(fail=down))
    with pytest.raises(OSError, match=r"^'me/it' could not be uploaded \(no route to host\); check the name, the net"):
        push_to_hub(bare(), "me/it")

    def fetch(*_, **__):
        raise down

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(OSError, match=r"^'me/it' could not be fetched \(no route to host\); check the name, the net"):
        load_from_hub("me/it")


@pytest.mark.parametrize("name", ["no/such/folder", "/no/such", "a b", "-x", ""])
def test_what_is_no_folder_and_no_name_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is no folder and no name of a model; give one, as 'own")):
        load_from_hub(name)


def test_what_cannot_be_saved_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(huggingface_hub, "HfApi", recorder)
    broken = bare()
    with torch.no_grad():
        broken.decoder.final_norm.weight[2] = torch.nan
    strange = whole(embedding=nn.Linear(3, 8))
    for model, message in ((broken, "decoder.final_norm.weight has numbers that"), (strange, "embedding is Linear; ")):
        with pytest.raises(ValueError, match=message):
            save_folder(model, tmp_path / "it")
        with pytest.raises(ValueError, match=message):
            push_to_hub(model, "it")
    assert recorder.calls == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is no folder; give another name"):
        save_folder(bare(), tmp_path / "file")


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None
from annotated_decoder.trained import load_from_hub, push_to_hub, save_folder
model = load_from_hub(sys.argv[1])
print(model.transcribe(["cab"]))
save_folder(model, "x")
for call in (lambda: push_to_hub(model, "x"), lambda: load_from_hub("owner/x")):
    try:
        call()
    except ModuleNotFoundError as error:
        print(error)
"""


def test_without_huggingface_hub_a_folder_is_loaded_and_saved_and_the_rest_says_what_to_install(tmp_path):
    ours = small_pronouncer()
    save_folder(ours, tmp_path)
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    needed = "huggingface_hub is not installed; pip install huggingface_hub"
    assert done.stdout.splitlines() == [str(ours.transcribe(["cab"])), *[needed] * 2]
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / name).read_bytes()


# Damage


def changed(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


DAMAGE = {
    "another shape": (lambda f: changed(f / "config.json", '"n_heads": 2', '"n_heads": 4'), "config.json says other"),
    "cut off": (lambda f: (f / "config.json").write_bytes((f / "config.json").read_bytes()[:-2]), "json is no JSON"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\xfa"), "config.json is no JSON"),
    "brackets": (lambda f: (f / "config.json").write_bytes(b"[" * 100_000), "config.json is no JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json says other things"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is no file; give one that save"),
    "a pickle": (lambda f: torch.save({}, f / "model.safetensors"), "model.safetensors is no whole model file"),
    "a weight": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1] + b"?"),
        "model.safetensors is damaged",
    ),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(damage, message, tmp_path):
    save_folder(small_pronouncer(), tmp_path)
    damage(tmp_path)
    for load in (load_from_hub, TrainedModel.load):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": None}, {"tied": False}, {"shared": True}, {"projection": {"bias": False, "scale": 1.0}},
        {"projection": {"bias": True, "scale": "much"}}, {"source": None}, {"target": ["a"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_header_that_does_not_fit_its_weights_is_refused(change, tmp_path):
    about, tensors = describe(small_pronouncer())
    write_model(tmp_path / "model.safetensors", about | change, tensors)
    with pytest.raises(ValueError, match="does not hold what its header says"):
        load_from_hub(tmp_path)


def test_a_config_json_may_be_missing_or_sorted_anew(tmp_path):
    ours = small_pronouncer()
    save_folder(ours, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    same_weights(load_from_hub(tmp_path).model, ours.model)
    path.unlink()
    same_weights(load_from_hub(tmp_path).model, ours.model)
