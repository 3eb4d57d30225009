"""Systems that turn spellings into phonemes, behind one interface.

A system's `prepare` checks that it can run here, trains it where that is needed, and returns facts about it;
`System(folder)` loads it, and `transcribe` gives each word its phonemes in ARPAbet, with stress.
Run as a program, `systems.py NAME FOLDER` serves one system to peers.py over standard input and output: a process of
its own, so that what one system imports is not in another's time. Heavy imports therefore stand inside functions.
"""

import ctypes
import ctypes.util
import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import floor
from espeak_arpabet import to_arpabet

Pairs = list[tuple[str, tuple[str, ...]]]    # words with their pronunciations, one each


class NotHere(Exception):
    "A system's dependency is missing; the message says which, and how to install it."


def distribution(name: str) -> str:
    "The version of an installed distribution; NotHere where it is missing."
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        how = "pip install --no-deps -r benchmarks/requirements.txt"
        raise NotHere(f"the distribution {name} is missing; {how}") from None


class Ours:
    "The model that comes with the package. Nothing else here knows how it is called."

    title, learnt = "ours, greedy", "the training words"
    options: dict = {}

    @staticmethod
    def prepare(pairs: Pairs, folder: Path) -> dict:
        from annotated_decoder import __version__
        from annotated_decoder.pronunciation.saying import PRONOUNCER

        weights = Path(PRONOUNCER).read_bytes()
        version = f"annotated-decoder {__version__}, weights {hashlib.sha256(weights).hexdigest()[:12]}"
        return {"version": version, "bytes": len(weights)}

    def __init__(self, folder: Path):
        from annotated_decoder.pronunciation.saying import say_words

        self.say = say_words

    def transcribe(self, words: list[str]) -> dict[str, list[str]]:
        return {word: list(found[0].symbols) for word, found in self.say(words, **self.options)}


class OursBeam(Ours):
    "The same model, with beam search."

    title, options = "ours, beam of 4", {"beam": 4}


class Stub(types.ModuleType):
    "Stands in for a module that is imported and not needed: every attribute, and every call, is the stub again."

    def __getattr__(self, name):
        return self

    def __call__(self, *args):
        return self


class G2pEn:
    "The recurrent network of g2p_en, without the dictionary, tagger and downloads around it."

    title, learnt = "g2p_en, its network alone", "CMUdict, most of the test words probably included"

    @staticmethod
    def prepare(pairs: Pairs, folder: Path) -> dict:
        version = distribution("g2p_en")
        package = Path(importlib.util.find_spec("g2p_en").submodule_search_locations[0])
        return {"version": f"g2p_en {version}", "bytes": (package / "checkpoint20.npz").stat().st_size}

    def __init__(self, folder: Path):
        stubs = {name: Stub(name) for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")}
        sys.modules.update(stubs)    # importing g2p_en would ask nltk to download what the network does not use
        from g2p_en.g2p import G2p

        for name in stubs:
            del sys.modules[name]
        self.predict = G2p().predict

    def transcribe(self, words: list[str]) -> dict[str, list[str]]:
        return {word: self.predict(word) for word in words}


class Phonetisaurus:
    "A joint n-gram model over pairs of letters and phonemes, as a finite-state transducer, with default settings."

    title, learnt = "Phonetisaurus, 8-grams", "the training words"
    ORDER = 8

    @staticmethod
    def run(program: str, *options: str, cwd: Path) -> str:
        "Run one of the distribution's programs and return what it prints."
        import phonetisaurus

        environment = phonetisaurus.guess_environment()
        path = Path(environment["PATH"].split(":")[0], program)
        if not path.exists():
            raise NotHere(f"phonetisaurus has no {path}; its programs are for Linux, on x86-64 from the registry")
        scripts = [sys.executable] if program == "phonetisaurus-train" else []    # a Python script, the others are not
        done = subprocess.run([*scripts, path, *options], cwd=cwd, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
        return done.stdout

    @classmethod
    def prepare(cls, pairs: Pairs, folder: Path) -> dict:
        version = distribution("phonetisaurus")
        (folder / "lexicon").write_text("".join(f"{word}\t{' '.join(phonemes)}\n" for word, phonemes in pairs))
        start = time.perf_counter()
        cls.run("phonetisaurus-train", "--lexicon=lexicon", f"--ngram_order={cls.ORDER}", "--seq2_del", cwd=folder)
        seconds = time.perf_counter() - start
        size = (folder / "train" / "model.fst").stat().st_size
        return {"version": f"phonetisaurus {version}", "bytes": size, "training_seconds": seconds}

    def __init__(self, folder: Path):
        self.folder = folder

    def transcribe(self, words: list[str]) -> dict[str, list[str]]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("".join(f"{word}\n" for word in words))
            file.flush()
            options = ("--model=train/model.fst", f"--wordlist={file.name}")
            printed = self.run("phonetisaurus-g2pfst", *options, cwd=self.folder)
        found = {word: phonemes.split() for word, _, phonemes in (line.split("\t") for line in printed.splitlines())}
        return {word: found.get(word, []) for word in words}    # it prints nothing for a word that it cannot spell out


class Espeak:
    "espeak-ng's American English voice: rules and a word list, called through its library, one word a clause."

    title, learnt = "espeak-ng, en-us", "nothing: rules and a word list written by hand"
    SYNCHRONOUS, DONT_EXIT, UTF8, IPA, SEPARATOR = 2, 0x8000, 1, 2, ord("_") << 8    # of its speak_lib.h

    @staticmethod
    def prepare(pairs: Pairs, folder: Path) -> dict:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise NotHere("the library espeak-ng is missing; apt-get install espeak-ng")
        library, data = ctypes.CDLL(name), ctypes.c_char_p()
        if library.espeak_Initialize(Espeak.SYNCHRONOUS, 0, None, Espeak.DONT_EXIT) < 0:
            raise NotHere("espeak-ng does not find its data; apt-get install --reinstall espeak-ng-data")
        library.espeak_Info.restype = ctypes.c_char_p
        version = library.espeak_Info(ctypes.byref(data)).decode()
        return {"version": f"espeak-ng {version}", "bytes": Path(data.value.decode(), "en_dict").stat().st_size}

    def __init__(self, folder: Path):
        self.library = ctypes.CDLL(ctypes.util.find_library("espeak-ng"))
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.library.espeak_Initialize(self.SYNCHRONOUS, 0, None, self.DONT_EXIT)
        if self.library.espeak_SetVoiceByName(b"en-us"):
            raise RuntimeError("espeak-ng has no voice en-us; apt-get install --reinstall espeak-ng-data")

    def ipa(self, word: str) -> str:
        "The units of a word, separated by underscores."
        rest, clauses = ctypes.c_char_p(word.encode()), []
        while rest.value is not None:    # the library moves the pointer past what it has read, and to NULL at the end
            mode = self.IPA | self.SEPARATOR
            clauses.append(self.library.espeak_TextToPhonemes(ctypes.byref(rest), self.UTF8, mode).decode())
        return " ".join(clauses)

    def transcribe(self, words: list[str]) -> dict[str, list[str]]:
        return {word: to_arpabet(self.ipa(word)) for word in words}


class Floor:
    "Each letter's most frequent phonemes, or none: what any model must beat."

    title, learnt = "each letter's commonest sound", "the training words"

    @staticmethod
    def prepare(pairs: Pairs, folder: Path) -> dict:
        start = time.perf_counter()
        file = folder / "floor.json"
        file.write_text(json.dumps(floor.learn(pairs)))
        seconds = time.perf_counter() - start
        return {"version": "of this folder", "bytes": file.stat().st_size, "training_seconds": seconds}

    def __init__(self, folder: Path):
        self.sounds = json.loads((folder / "floor.json").read_text())

    def transcribe(self, words: list[str]) -> dict[str, list[str]]:
        return {word: [phoneme for letter in word for phoneme in self.sounds[letter]] for word in words}


SYSTEMS = {
    "ours": Ours, "ours_beam": OursBeam, "g2p_en": G2pEn, "phonetisaurus": Phonetisaurus, "espeak": Espeak,
    "floor": Floor,
}    # fmt: skip


def serve(name: str, folder: Path) -> None:
    """Say that the first word is done, then answer requests {"words": [...], "alone": true, "limit": seconds}.

    With `alone` true, each word is a call of its own, until the limit is reached; else all words are one call.
    """
    system = SYSTEMS[name](folder)
    system.transcribe(["hello"])
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        found, start = {}, time.perf_counter()
        for group in [[word] for word in request["words"]] if request["alone"] else [request["words"]]:
            found |= system.transcribe(group)
            seconds = time.perf_counter() - start
            if seconds > request["limit"]:
                break
        print(json.dumps({"seconds": seconds, "phonemes": found}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
