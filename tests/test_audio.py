"""Files of sound become the features that transformers makes of them."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from annotated_decoder.pretrained import audio
from annotated_decoder.pretrained.audio import RATE, LogMel, mel_filters, read_audio
from annotated_decoder.pretrained.folder import JsonFile

NOISE = np.random.default_rng(0).normal(0, 0.1, 31 * RATE).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    "A sentence, said by Flite at 16 kHz."
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    path = tmp_path_factory.mktemp("speech") / "said.wav"
    subprocess.run(["flite", "-t", "The decoder writes one word at a time.", "-o", path], check=True)
    return path


def same(samples, n_mels):
    theirs = WhisperFeatureExtractor(n_mels)(samples, sampling_rate=RATE, return_tensors="pt").input_features[0]
    ours = LogMel(n_mels)(samples)
    assert ours.shape == theirs.shape == (n_mels, 3000)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_of_speech_are_those_of_transformers(n_mels, speech):
    samples = read_audio(speech)
    assert len(samples) > RATE
    same(samples, n_mels)


EDGES = {"silence": np.zeros(RATE, np.float32), "one sample": NOISE[:1], "thirty seconds": NOISE[: 30 * RATE]}
EDGES |= {"longer": NOISE, "one more than a window": NOISE[: 30 * RATE + 1]}


@pytest.mark.parametrize("samples", EDGES.values(), ids=EDGES)
def test_features_at_the_edges_are_those_of_transformers(samples):
    same(samples, 80)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_bands_are_those_of_transformers(n_mels):
    theirs = torch.from_numpy(WhisperFeatureExtractor(n_mels).mel_filters).T
    torch.testing.assert_close(mel_filters(n_mels), theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name, channels, rate", [("a.wav", 1, 16000), ("b.flac", 2, 44100), ("c.wav", 2, 8000)])
def test_a_tone_is_itself_at_16_kHz(name, channels, rate, tmp_path):
    t = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    sides = np.stack([tone * (2 if side == 0 else 0) for side in range(channels)], 1) if channels > 1 else tone
    soundfile.write(tmp_path / name, sides / channels, rate)
    samples = read_audio(tmp_path / name)
    expected = 0.5 / channels * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert samples.dtype == np.float32 and samples.shape == (2 * RATE,)
    np.testing.assert_allclose(samples[500:-500], expected[500:-500], atol=2e-3)


def test_blocks_leave_no_seam(tmp_path):
    t = np.arange(25 * 44100) / 44100    # three blocks
    soundfile.write(tmp_path / "long.wav", (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32), 44100, "FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(25 * RATE) / RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "long.wav")[500:-500], expected[500:-500], atol=2e-3)


def test_files_that_cannot_be_heard_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav is no file; give one of sound"):
        read_audio(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(ValueError, match="text.wav is no sound .*; give a WAV"):
        read_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="empty.wav has no samples; give a file of sound"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), RATE, "FLOAT")
    with pytest.raises(ValueError, match="notes.RAW is raw, so it has no rate; give a WAV"):
        read_audio(shutil.copy(tmp_path / "empty.wav", tmp_path / "notes.RAW"))
    with pytest.raises(ValueError, match="nan.wav has samples that are no numbers; record it anew"):
        read_audio(tmp_path / "nan.wav")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_utf8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"said\xff.wav")
    soundfile.write(os.fsencode(path), NOISE[:100], RATE, "FLOAT", format="WAV")
    np.testing.assert_array_equal(read_audio(path), NOISE[:100])
    path.write_text("not a sound")
    with pytest.raises(ValueError, match="is no sound that can be read .*; give a WAV"):
        read_audio(path)


def test_the_system_says_why_a_file_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(path, *args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    soundfile.write(tmp_path / "shut.wav", NOISE, RATE)
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_audio(tmp_path / "shut.wav")


# How long it is

def flac(path, n_frames, rate, told):
    "A file whose header tells another number of frames than there are; 0: none."
    soundfile.write(path, np.arange(n_frames) % 7 / 100, rate)
    data = bytearray(path.read_bytes())
    field = int.from_bytes(data[18:26], "big") >> 36 << 36 | told    # the last 36 bits
    path.write_bytes(data[:18] + field.to_bytes(8, "big") + data[26:])
    return path


def test_a_hundred_hours_are_refused_before_they_are_read(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(100 * 3600, np.uint8).astype(np.int16), 1, "PCM_U8")
    with pytest.raises(ValueError, match="lasts 100.0 hours or more; cut it to at most 6"):
        read_audio(tmp_path / "long.wav")


@pytest.mark.parametrize("n_frames, told", [(7 * 3600, 0), (10, 7 * 3600), (10, 2**36 - 1)])
def test_over_six_hours_are_refused_before_memory_is_taken(n_frames, told, tmp_path):
    path = flac(tmp_path / "long.flac", n_frames, 1, told)
    tracemalloc.start()
    with pytest.raises(ValueError, match="long.flac lasts .* hours or more; cut it to at most 6"):
        read_audio(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_six_hours_are_not_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_LONGEST", 6)
    for told in (6 * RATE, 0):
        assert len(read_audio(flac(tmp_path / "six.flac", 6 * RATE, RATE, told))) == 6 * RATE
    with pytest.raises(ValueError, match="six.flac lasts"):
        read_audio(flac(tmp_path / "six.flac", 6 * RATE + 1, RATE, 0))


def test_a_header_that_tells_no_length_changes_no_sample(tmp_path):
    path = tmp_path / "a.flac"
    given = [read_audio(flac(path, 25 * 8000, 8000, told)) for told in (25 * 8000, 0)]
    np.testing.assert_array_equal(*given)
    assert len(given[0]) == 25 * RATE


# What may last hours

LONG = np.concatenate([NOISE[: 26 * RATE] / 1e4, 4 * NOISE[: 12 * RATE], NOISE[: 31 * RATE - 153] / 1e2])


@pytest.mark.parametrize("start", [0, 1, 1234, 3000, 3901, 6898])
def test_a_window_is_that_of_transformers_whole(start):
    extract, features = WhisperFeatureExtractor(), LogMel()
    long = dict(truncation=False, padding="longest", return_tensors="pt")
    theirs = extract(LONG, sampling_rate=RATE, **long).input_features[0]
    assert features.n_frames(LONG) == theirs.shape[1] == 6899
    ours = features.window(LONG, start, features.loudest(LONG))
    n = min(3000, 6899 - start)
    torch.testing.assert_close(ours[:, :n], theirs[:, start : start + n], atol=1e-4, rtol=0)
    assert ours.shape == (80, 3000) and not ours[:, n:].any()


def test_the_loudest_is_heard_wherever_it_is():
    features, quiet = LogMel(), LONG[: 26 * RATE]
    assert features.loudest(LONG) > features.loudest(quiet) + 6
    assert features.loudest(LONG[::-1].copy()) == pytest.approx(features.loudest(LONG), abs=0.1)


HOUR = """
import sys
import numpy as np
from annotated_decoder.pretrained.audio import RATE, LogMel
sys.path.append(sys.argv[1])
from memory import grown

features, samples = LogMel(), np.full(3600 * RATE, 0.1, np.float32)
features(samples)

def last_window():
    loudest = features.loudest(samples)
    assert features.window(samples, 359_000, loudest).shape == (80, 3000)

print(grown(last_window))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no module resource")
def test_an_hour_takes_no_more_memory_than_a_window():
    env = os.environ | {"PYTHONPATH": str(Path(audio.__file__).parent.parent.parent)}
    command = [sys.executable, "-c", HOUR, str(Path(__file__).parent)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64    # MiB; all features of an hour at once take 128 alone, their spectrum more


@pytest.mark.parametrize("name", ["soundfile", "soxr"])
def test_a_missing_extra_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{name} is not installed; .*annotated-decoder\[audio\]"):
        read_audio("any.wav")


OTHERS = [("feature_size", 64), ("feature_size", 100), ("hop_length", 80), ("n_fft", 512), ("dither", 0.1)]


@pytest.mark.parametrize("key, value", OTHERS)
def test_features_that_are_not_built_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}"):
        LogMel.read(JsonFile(Path("preprocessor_config.json"), {key: value}))
