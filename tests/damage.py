"""Ways to damage a valid input by chance, and what a message has to be, for `fuzz.py`."""

import json
import re
import struct
from contextlib import suppress
from copy import deepcopy

LONGEST = 1_000    # characters of a sentence
STEERING = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Fault(BaseException):
    "The law is broken, and how. No `except Exception` holds it up."


def check_sentence(text, remedy=False):
    "Fault for what is no single clear line."
    if found := STEERING.search(text):
        raise Fault(f"{found[0]!r} stands in {text!r}")
    if not text.strip() or len(text) > LONGEST or "Traceback" in text or (remedy and "; " not in text):
        raise Fault(f"this is no clear sentence with a remedy: {text[:LONGEST]!r}")


class telling:    # noqa: N801
    "A refusal inside is one clear sentence, and what comes after is tried too."

    nothing = False    # where whole inputs are used, and nothing may be refused

    def __enter__(self):
        return self

    def __exit__(self, kind, error, where):
        if kind is None or not (kind is ValueError or issubclass(kind, OSError)):
            return False
        if telling.nothing:
            raise Fault(f"it is refused: {error}")
        check_sentence(str(error), remedy=kind is ValueError)
        if "alloc" in str(error):
            raise Fault(f"it asked for too much memory: {error}")
        return True


# Damage

BAD = ["\x1b[31m", "\x07", "\r", "\n", "\u202e", "\u2028", "\x9b2J", "\0", "\ud800", "\udcff", "\t", "é", "☃", " "]
PLAIN = ["a", "cat", "<pad>", "</s>", "../x", "%s", "{0}", "'", '"', "\\", "/", "1", "-1", "nan", "cuda:9", ""]
SCALARS = [None, True, False, 0, -1, 1, 2, 3, 1.5, -0.0, 1e308, 1e-320, float("nan"), float("inf"), -float("inf")]
SCALARS += [2**31, 2**63, 2**64, 10**9, -(10**18), 10**30, 10**400, 4.0, 65_536, 100_000]


def wild_text(rng):
    "A few pieces, plain ones and ones that steer; seldom very long."
    text = "".join(rng.choice(BAD if rng.random() < 0.5 else PLAIN) for _ in range(rng.randint(0, 6)))
    return text * rng.choice([1, 1, 1, 1, 1, 1, 1, 3, 10_000])


def wild(rng, depth=0):
    "Anything that JSON can hold."
    dice = rng.random()
    if dice < 0.45 or depth > 2:
        return rng.choice(SCALARS)
    if dice < 0.75:
        return wild_text(rng)
    if dice < 0.8:
        value = rng.choice(SCALARS)
        for _ in range(rng.choice([5, 70, 400])):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    listed = [wild(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return listed if dice < 0.9 else {wild_text(rng): value for value in listed}


def places(value):
    "Every place in a value: the object or list, and the key."
    found, waiting = [], [value]
    while waiting:
        each = waiting.pop()
        keys = [*each] if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        found += [(each, key) for key in keys]
        waiting += [each[key] for key in keys]
    return found


def damage_value(rng, value, make=wild):
    "Fields gone, renamed, doubled, exchanged, or with anything in them; the value is changed."
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        there = places(value)
        if not there:
            return
        holder, key = rng.choice(there)
        dice = rng.random()
        if dice < 0.1:
            del holder[key]
        elif dice < 0.2:
            other, its_key = rng.choice(there)
            with suppress(LookupError, RecursionError):    # it is gone by now, or too deep
                holder[key] = deepcopy(other[its_key])
        elif dice < 0.3 and isinstance(holder, dict):
            holder[wild_text(rng)] = holder.pop(key)
        elif dice < 0.4 and type(holder[key]) in (int, float) and abs(holder[key]) < 2**40:
            holder[key] += rng.choice([1, -1, 0.5, 1_000, -1_000])
        else:
            holder[key] = make(rng)


def damage_bytes(rng, data):
    "Bytes flipped, cut, doubled, overwritten."
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, n = rng.randrange(len(data) + 1), rng.choice([1, 1, 4, 8, 100])
        dice = rng.randrange(6)
        if dice == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif dice == 1:
            del data[at : at + n if rng.random() < 0.7 else None]
        elif dice == 2:
            data[at:at] = data[at : at + n]
        elif dice == 3:
            data[at : at + n] = rng.choice([b"\0", b"\xff", b"\x80", b"\x1b", b"\n"]) * n
        elif dice == 4:
            data[at : at + 8] = struct.pack("<q", rng.choice([-1, 2**31, 2**40, 2**63 - 1, 0]))
        else:
            data[at:at] = rng.randbytes(n)
    return bytes(data)


def written(rng, value):
    "JSON as bytes, in most cases as it should be."
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    except (RecursionError, ValueError):
        text = "[" * 2_000
    data = text.encode("utf-8", "surrogatepass")
    return damage_bytes(rng, data) if rng.random() < 0.15 else data


def damage_json(*names):
    "A damage of one of these files of a folder."
    def damage(rng, folder):
        path = folder / rng.choice([name for name in names if (folder / name).exists()])
        value = json.loads(path.read_bytes())
        damage_value(rng, value)
        path.write_bytes(written(rng, value if rng.random() < 0.95 else wild(rng)))

    return damage


def damage_file(*names):
    def damage(rng, folder):
        path = folder / rng.choice([name for name in names if (folder / name).exists()])
        path.write_bytes(damage_bytes(rng, path.read_bytes()))

    return damage


def either(*damages):
    "One of several damages."
    return lambda rng, folder: rng.choice(damages)(rng, folder)
