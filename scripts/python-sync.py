#!/usr/bin/env python3
"""Makes the halves of the Python packages that block from the halves for event loops.

    scripts/python-sync.py            writes each `_sync*.py` from its `_async*.py`
    scripts/python-sync.py --check    fails where one of them is another one

A line that ends with `# async only` is left out; one that is `# sync only: TEXT` becomes
TEXT.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "stacyvm-py/python/stacyvm"
PACKAGES = [ROOT, ROOT / "e2b"]

# In this order.
RULES = [
    (r"(?m)^.*# async only\n", ""),
    (r"# sync only: ", ""),
    (r"async (def|with|for) ", r"\1 "),
    (r"\bawaited\b", "waited"),
    (r"\bcall_back\b", "call_back_now"),
    (r"\bawait ", ""),
    (r"\bfrom asyncio import Lock\b", "from threading import Lock"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync([A-Z]\w+)", r"\1"),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"(?m)^(from \.+)_async", r"\1_sync"),
    (r'"""Sandboxes in an event loop\..*?"""', '"""Sandboxes, in threads. Made from `_async.py` by scripts/python-sync.py."""'),
    (r"import Iterator, Callable, Iterable(, \w+)?\n", r"import Callable, Iterable, Iterator\1\n"),
    (r'"""(\w[^"\n]*), in an event loop\. `_sync', r'"""\1, in threads. `_sync'),
    (r"`(_sync\w*)\.py` is made from this file by scripts/python-sync\.py\.", r"Made from `\1.py` by scripts/python-sync.py."),
    (r"Iterable, Iterator\n|Iterator, Iterable\n", "Iterable, Iterator\n"),
]


def made(source: Path) -> str:
    text = source.read_text()
    for pattern, by in RULES:
        text = re.sub(pattern, by, text)
    return text.replace(f"Made from `{target(source).name}`", f"Made from `{source.name}`")


def target(source: Path) -> Path:
    return source.with_name(source.name.replace("_async", "_sync", 1))


def main() -> int:
    sources = [source for package in PACKAGES for source in sorted(package.glob("_async*.py"))]
    others = 0
    for source in sources:
        file, text = target(source), made(source)
        if sys.argv[1:] != ["--check"]:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            name = file.relative_to(ROOT.parent)
            print(f"{name} is not what scripts/python-sync.py makes", file=sys.stderr)
            others += 1
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
