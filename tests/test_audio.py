"""Files of sound become the features that transformers makes of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

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
    with pytest.raises(ValueError, match="nan.wav has samples that are no numbers; record it anew"):
        read_audio(tmp_path / "nan.wav")


def test_a_hundred_hours_are_refused_before_they_are_read(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(100 * 3600, np.uint8).astype(np.int16), 1, "PCM_U8")
    with pytest.raises(ValueError, match="lasts 100.0 hours; cut it to at most 6"):
        read_audio(tmp_path / "long.wav")


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
