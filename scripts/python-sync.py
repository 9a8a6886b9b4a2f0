#!/usr/bin/env python3
"""Makes the half of the Python package that blocks from the half for event loops.

    scripts/python-sync.py            writes stacyvm-py/python/stacyvm/_sync.py
    scripts/python-sync.py --check    fails where that file is another one
"""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "stacyvm-py/python/stacyvm"

# In this order.
RULES = [
    (r"async (def|with|for) ", r"\1 "),
    (r"\bawaited\b", "waited"),
    (r"\bawait ", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsync([A-Z]\w+)", r"\1"),
    (r"__a(enter|exit|iter)__", r"__\1__"),
    (r'"""Sandboxes in an event loop\..*?"""', '"""Sandboxes, in threads. Made from `_async.py` by scripts/python-sync.py."""'),
    (r"import Iterator, Callable, Iterable\n", "import Callable, Iterable, Iterator\n"),
]


def made() -> str:
    text = (PACKAGE / "_async.py").read_text()
    for pattern, by in RULES:
        text = re.sub(pattern, by, text)
    return text


def main() -> int:
    target = PACKAGE / "_sync.py"
    text = made()
    if sys.argv[1:] == ["--check"]:
        if target.exists() and target.read_text() == text:
            return 0
        print(f"{target.name} is not what scripts/python-sync.py makes", file=sys.stderr)
        return 1
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
