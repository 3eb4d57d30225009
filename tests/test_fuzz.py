"""Damaged inputs of every kind are used or refused in one sentence, and what breaks that law is found."""

import random
import subprocess
import sys

import pytest
from damage import Fault, check_sentence, damage_bytes, damage_value, telling, wild
from fuzz import HERE, faults
from fuzz_kinds import KINDS, PLANTED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")


def test_a_few_inputs_of_each_kind_keep_the_law():
    kinds = [kind for kind in KINDS if kind != "onnx"]    # tried where files of ONNX are made
    found = [*faults(kinds, seed=7, numbers=range(24))]
    assert {(kind, number): why for kind, number, why, _ in found if why} == {}
    assert len(found) == 24 * len(kinds) == 264


def test_what_breaks_the_law_is_found():
    found = {kind: why for kind, _, why, _ in faults([*PLANTED], seed=1, numbers=[0], seconds=2)}
    for kind, why in {
        "error": "KeyError", "escape": "'\\x1b' stands in", "file": "it left ['left']", "hang": "it took over 2 s",
        "end": "the process ended with status -9", "memory": "MemoryError", "noise": "went to the terminal",
    }.items():
        assert why in found[f"planted-{kind}"], (kind, found)


def test_a_fault_is_printed_with_the_words_that_try_it_again():
    command = [sys.executable, str(HERE / "fuzz.py"), "--kinds", "planted-error", "--seed", "5", "--number", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("make fuzz KIND=planted-error SEED=5 NUMBER=3    KeyError: \"'x'\"")


@pytest.mark.parametrize("text", [
    "", "a\nb; c", "a\rb; c", "\x9b; c", "\u202e; c", "\udcff; c", "no remedy", "x; " * 400,
])    # fmt: skip
def test_what_is_no_clear_sentence_is_known(text):
    with pytest.raises(Fault):
        check_sentence(text, remedy=True)
    check_sentence("é is no letter; give letters a to z\t", remedy=True)


@pytest.mark.parametrize("error, held", [
    (ValueError("a; b"), True), (FileNotFoundError(2, "gone"), True), (KeyError("a"), False), (MemoryError(), False),
    (UnicodeDecodeError("utf-8", b"a", 0, 1, "x; y"), False),
])    # fmt: skip
def test_only_refusals_are_held(error, held):
    try:
        with telling():
            raise error
    except type(error):
        assert not held
    else:
        assert held


def test_a_seed_gives_the_same_damage_and_damage_changes_what_is_damaged():
    for make in (lambda rng: damage_bytes(rng, bytes(range(256))), lambda rng: repr(wild(rng))):
        assert make(random.Random("a 1 2")) == make(random.Random("a 1 2"))
    changed = 0
    for seed in range(200):
        value = {"a": [1, {"b": "c"}], "d": 2.5, "e": None}
        damage_value(random.Random(seed), value)
        changed += repr(value) != "{'a': [1, {'b': 'c'}], 'd': 2.5, 'e': None}"
    assert changed > 180
