"""Damaged files: a seeded mutator of bytes and of what formats hold, and readers run on its mutants one by one.

A mutant is made of a sound file by its number alone, so that a failure is found again by number. Readers run in a
child process, whose memory is limited and which may crash or hang without ending the test.
"""

import copy
import json
import math
import os
import random
import resource
import select
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Hang, fault_of, time_limit

SECONDS, PATIENCE = 5.0, 45.0  # a mutant that takes longer hangs; where Python cannot say so the child is killed
MEMORY = 1 << 30

Mutator = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Reader:
    """A reader of a file.

    Args:
        name: for the table.
        make: writes sound files into a new folder and returns the one to damage.
        read: reads that file, or what it lies in; what it returns is checked.
        check: raises AssertionError where what a mutant gave is wrong; is given the sound file's result first.
        errors: the documented ones.
        mutators: chosen among at random.
        weight: how many mutants of all are its, compared with others.
        lines: of an error's message at most.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    check: Callable[[Any, Any], None]
    errors: tuple[type[BaseException], ...]
    mutators: tuple[Mutator, ...]
    weight: float = 1.0
    lines: int = 1


@dataclass
class Outcome:
    """How mutants came out.

    Args:
        counts: "right", the documented errors' names, and "same" for mutants that are the sound file.
        failures: number and reason of each mutant that came out wrong.
        slowest: seconds of the slowest.
        largest: bytes that the process grew by.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0


def mutant(reader: Reader, sound: bytes, seed: int, number: int) -> bytes:
    """Return the mutant of this number."""
    rng = random.Random(f"{reader.name} {seed} {number}")
    return rng.choice(reader.mutators)(rng, sound)


def run(reader: Reader, folder: Path, mutants: int, *, seed: int, most: int = 5) -> Outcome:
    """Have the reader read so many mutants, and stop after `most` failures."""
    file = reader.make(folder)
    sound = file.read_bytes()
    expected = reader.read(file)
    reader.check(expected, expected)
    outcome, start = Outcome(), 0
    while start < mutants and len(outcome.failures) < most:
        start = _in_child(reader, file, sound, expected, range(start, mutants), seed, outcome, most)
    file.write_bytes(sound)
    return outcome


def _in_child(
    reader: Reader, file: Path, sound: bytes, expected: Any, numbers: range, seed: int, outcome: Outcome, most: int
) -> int:
    """Run mutants in a child until it ends, and return the next number."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            _work(reader, file, sound, expected, numbers, seed, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    at, ended = numbers.start, False
    try:
        for line in _lines(read_end):
            told = json.loads(line)
            at = told["number"] + 1
            outcome.slowest = max(outcome.slowest, told["seconds"])
            outcome.largest = max(outcome.largest, told["grown"])
            if told["wrong"]:
                outcome.failures.append((told["number"], told["how"]))
                if len(outcome.failures) >= most:
                    return at
            else:
                outcome.counts[told["how"]] += 1
        ended = True
    except TimeoutError:
        outcome.failures.append((at, f"it hangs, for more than {PATIENCE:g} s"))
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(read_end)
    if ended and at < numbers.stop:
        outcome.failures.append((at, f"the process ended, with the status {status}"))
    return at if at >= numbers.stop else at + 1


def _lines(descriptor: int) -> Iterator[str]:
    rest = b""
    while True:
        if not select.select([descriptor], [], [], PATIENCE)[0]:
            raise TimeoutError
        block = os.read(descriptor, 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in lines)


def _work(reader: Reader, file: Path, sound: bytes, expected: Any, numbers: range, seed: int, descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    _limit_memory()
    before = _resident()
    for number in numbers:
        content = mutant(reader, sound, seed, number)
        started = time.perf_counter()
        wrong, how = True, "same"
        if content == sound:
            wrong = False
        else:
            file.write_bytes(content)
            try:
                with time_limit(SECONDS):
                    result = reader.read(file)
                how = "right"
                reader.check(expected, result)
                wrong = False
            except Hang:
                how = f"it hangs, for more than {SECONDS:g} s:\n{traceback.format_exc(limit=-6)}"
            except BaseException as error:
                fault = fault_of(error, reader.errors, lines=reader.lines)
                wrong, how = fault is not None or how == "right", type(error).__name__
                if wrong:
                    how = f"{fault}\n{traceback.format_exc(limit=-6)}"
        told = {"number": number, "wrong": wrong, "how": how, "seconds": time.perf_counter() - started}
        told["grown"] = _resident() - before
        if told["grown"] > MEMORY:
            told |= {"wrong": True, "how": f"it takes {told['grown']} bytes"}
        os.write(descriptor, json.dumps(told).encode() + b"\n")


def _limit_memory() -> None:
    """Let the process take 1 GB more than it has, by addresses: what it asks for counts, used or not."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Mutators

_NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**64 - 1)


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, set, cut, double, insert or move some bytes, a few times."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        # As often at the beginning, where headers are.
        place = min(place, rng.randrange(256)) if rng.random() < 0.4 else place
        length = min(rng.choice((1, 2, 4, 8, 64, 1000)), len(data) - place)
        kind = rng.randrange(8)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and place < len(data):
            data[place] = rng.choice((0, 0xFF, 0x80, 0x7F, 0x0A, 0x22, 0x2C, rng.randrange(256)))
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length]
        elif kind == 4:
            data[place:place] = rng.randbytes(length)
        elif kind == 5:
            number, size = rng.choice(_NUMBERS), rng.choice((1, 2, 4, 8))
            data[place : place + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))
        elif kind == 6:
            other = rng.randrange(len(data) + 1)
            data[place : place + length] = data[other : other + length]
        else:
            del data[place:]
    return bytes(data)


def damage_text(rng: random.Random, content: bytes) -> bytes:
    """Put tokens that parsers trip over into a text, or repeat, drop and swap its lines."""
    data = content
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        lines = data.split(b"\n")
        line = rng.randrange(len(lines))
        if kind == 0:
            token = rng.choice(TOKENS)
            data = data[:place] + token + data[place + rng.choice((0, 0, len(token))) :]
        elif kind == 1:
            lines[line:line] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 1, 3, 30))
            data = b"\n".join(lines)
        elif kind == 2:
            del lines[line]
            data = b"\n".join(lines)
        else:
            lines[line] = rng.choice(TOKENS)
            data = b"\n".join(lines)
    return data


TOKENS: tuple[bytes, ...] = (
    *(b"", b"\0", b"\r", b"\n", b"\t", b'"', b'""', b"'", b",", b";", b":", b": ", b"- ", b"{", b"}", b"[", b"]"),
    *(b"null", b"~", b"true", b"no", b".inf", b".nan", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x"),
    *(b"9" * 5000, b"-1", b"18446744073709551616", b"1_0", b"0b_", b"0o8", b"1:60:99", b"2020-99-99", b"2020-01-01"),
    *(
        b"[" * 5000,
        b'{"a":' * 5000,
        b"&a [*a]",
        b"&a {b: *a}",
        b"*a",
        b"<<: *a",
        b"<<: {a: 1}",
        b"? [1, 2]",
        b"!!binary =",
    ),
    *(
        b"!!python/object/apply:os.abort []",
        b"!!python/name:os.abort",
        b"!!int x",
        b"!!float x",
        b"!!bool x",
        b"!!set {a}",
    ),
    *(
        b"!!timestamp x",
        b"!!omap [a]",
        b"!x y",
        b"%YAML 9.9\n---\n",
        b"---\n",
        b"...\n",
        b"| \n",
        b"# ",
        b"\xff",
        b"\xc3\x28",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\\u0000",
        b"../" * 40,
        b"/etc/passwd",
        b"/dev/zero",
        b"x" * 70000,
        b"=1+1",
    ),
    b"\n".join(b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9) if n else b"x") for n in range(30)),
)


def damage_json(rng: random.Random, content: bytes) -> bytes:
    """Change values, keys and lists of a JSON text that still parses, line by line where it has lines."""
    lines = content.split(b"\n")
    whole = [line for line in range(len(lines)) if lines[line].strip()]
    try:
        tree = json.loads(content)
    except ValueError:
        chosen = rng.choice(whole)
        lines[chosen] = _dumped(damage_tree(rng, json.loads(lines[chosen])))
        return b"\n".join(lines)
    return _dumped(damage_tree(rng, tree))


def _dumped(tree: Any) -> bytes:
    try:
        return json.dumps(tree).encode()
    except (RecursionError, ValueError):
        return b"[" * 20000


def damage_tree(rng: random.Random, tree: Any) -> Any:
    """Return plain data with a few of its values changed, moved, dropped or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holder = {"": tree}
        places = list(_places(holder))
        inside, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0 and isinstance(inside, dict) and inside is not holder:
            del inside[key]
        elif kind == 1 and isinstance(inside, dict) and inside is not holder:
            inside[rng.choice((f"{key}x", "", "a.b", "é", "__class__"))] = inside.pop(key)
        elif kind == 2:
            other, place = rng.choice(places)
            inside[key] = copy.deepcopy(other[place])
        elif kind == 3 and isinstance(inside[key], list):
            inside[key] = rng.choice(([], inside[key] * 2, inside[key][:-1], [inside[key]], [*inside[key], None]))
        else:
            inside[key] = odd_value(rng)
        tree = holder[""]
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    inside: Sequence[Any] = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in inside:
        yield tree, key
        yield from _places(tree[key])


def odd_value(rng: random.Random) -> Any:
    """Return plain data that is seldom what a reader expects."""
    plain = (
        None,
        True,
        False,
        "",
        "x",
        "null",
        "1",
        "\ud800",
        "\0",
        "../../x",
        "/dev/zero",
        [],
        {},
        [None],
        {"": 0},
        [[]],
    )
    numbers = (0, -1, 1, 0.5, 1e308, -1e308, math.inf, math.nan, 2**31, 2**63, -(2**63) - 1, 10**400)
    deep: Any = []
    for _ in range(rng.choice((3, 100))):
        deep = [deep]
    return rng.choice((*plain, *plain, *numbers, *numbers, deep, "x" * 5000, [0] * 1000))


def damage_safetensors(rng: random.Random, content: bytes) -> bytes:
    """Change the header of a safetensors file, and make it fit its length again."""
    length = int.from_bytes(content[:8], "little")
    header = damage_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]
