"""Searches with a coverage-guided fuzzer for a response that is read wrongly or slowly, or fails without a typed error.

Run `pip install atheris` (Linux, Python 3.11 to 3.13), then `python benchmarks/fuzz_wire.py --minutes 10`. Each rule of
`tests/wire_rules.py` is fuzzed in a process of its own for an equal share of the time, from answers as the reference
prints them, and a table is printed. What breaks a rule is kept as a file whose name is printed, and the exit status
is 1; `--replay FILE` tries such a file again. The suite holds the rules against what was found
(`tests/guarantees/test_fuzz.py`).
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from wire_rules import MESSAGE, RULES, seeds

# An input takes this long at most, in seconds, and this much memory, in MB: a hostile answer may not cost more.
SLOWEST: Final = 10
LARGEST: Final = 1024


def words() -> str:
    """Return what the fuzzer may insert as a whole: names of fields, and numbers and escapes that are hard to read."""
    hard = [
        "1e999",
        "-0",
        "NaN",
        "Infinity",
        "9" * 40,
        "\\ud800",
        "\\u0000",
        "null",
        "true",
        '{"',
        '"}',
        "[[",
        "]]",
        "}]}",
    ]
    known = [*MESSAGE, *(str(value) for value in MESSAGE.values() if isinstance(value, str)), "messages", "user", *hard]
    return "\n".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"' for word in known)


def fuzz(rule: str, *, minutes: float, kept: Path) -> tuple[dict[str, int], bool]:
    """Search in a process of its own; return its counts, and whether it found nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, dictionary = folder / "corpus", folder / "words"
        corpus.mkdir()
        for number, seed in enumerate(seeds(rule)):
            (corpus / f"seed-{number}").write_bytes(seed)
        dictionary.write_text(words(), encoding="utf-8")
        settings = {
            "max_total_time": max(1, round(60 * minutes)),
            "timeout": SLOWEST,
            "rss_limit_mb": LARGEST,
            "max_len": 4096,
            "dict": dictionary,
            "artifact_prefix": kept / f"{rule}-",
            "print_final_stats": 1,
        }
        flags = [f"-{key}={value}" for key, value in settings.items()]
        command = [sys.executable, __file__, "--search", rule, *flags, str(corpus)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        # This script again, with flags of its own making.
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment)  # noqa: S603
    if ended.returncode:
        print(ended.stderr[-4000:], file=sys.stderr)
    counts = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", ended.stderr)}
    counts["edges"] = max((int(edges) for edges in re.findall(r"\bcov: (\d+)", ended.stderr)), default=0)
    return counts, ended.returncode == 0


def search(rule: str, arguments: list[str]) -> None:
    """Run the search in this process; it never returns."""
    atheris = importlib.import_module("atheris")
    watched = ("nairi_async", "json", "email")
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] in watched]:
        for thing in vars(module).values():
            if callable(thing) and hasattr(thing, "__code__") and thing.__module__ == module.__name__:
                atheris.instrument_func(thing)
    atheris.Setup([sys.argv[0], *arguments], RULES[rule])
    atheris.Fuzz()


def main() -> int:
    """Fuzz each rule for its share of the time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="for all rules together")
    parser.add_argument("--rule", action="append", choices=[*RULES], help="only this one; may be repeated")
    parser.add_argument("--replay", type=Path, help="try one file against the rules, and search no further")
    parser.add_argument("--kept", type=Path, default=Path.cwd(), help="folder for what breaks a rule")
    options = parser.parse_args()
    rules = options.rule or [*RULES]
    if options.replay is not None:
        for rule in rules:
            started_at = time.perf_counter()
            RULES[rule](options.replay.read_bytes())
            print(f"{rule}: holds, {time.perf_counter() - started_at:.3f} s")
        return 0
    print("| rule | inputs | edges of the code | found | peak memory |\n| --- | ---: | ---: | ---: | ---: |")
    clean_run = True
    for rule in rules:
        counts, nothing = fuzz(rule, minutes=options.minutes / len(rules), kept=options.kept)
        clean_run &= nothing
        inputs, memory = counts.get("number_of_executed_units", 0), counts.get("peak_rss_mb", 0)
        print(
            f"| {rule} | {inputs:,} | {counts['edges']:,} | {'nothing' if nothing else 'a break'} | {memory} MB |",
            flush=True,
        )
    return 0 if clean_run else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--search"]:
        search(sys.argv[2], sys.argv[3:])
    sys.exit(main())
