"""Compare the output that a page shows with the output that a command printed.

All rules about permitted differences are here:

- times, sizes, speeds, dates and the digests of stores may be anything (:data:`FREE`);
- so may the effects of measured times: the engine's decisions and the lines about progress;
- a number with a decimal point and a percentage may differ by :data:`TOLERANCE`, since the kernel
  that was chosen can change the result for an image or two;
- whole numbers and counts such as ``1.31 M`` are exact, and so are all words;
- a line ``...`` stands for any number of lines;
- the widths of columns and the rules of tables don't count.
"""

from __future__ import annotations

import re

TOLERANCE = 0.1
"""The largest difference between numbers with a decimal point. Percentages: 100 times as much."""

FREE = (
    (r"(frozen up to \S+): .*", r"\1: by measured times"),
    (r"(?:(?:about )?\d+(?:\.\d+)? (?:ms|s|min|h|d)\b ?)+", "TIME "),
    (r"\d+(?:\.\d+)? [kMGT]?B\b", "SIZE"),
    (r"\d+(?:\.\d+)? ?(?:img)?/s\b", "SPEED"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE"),
    (r"\b[0-9a-f]{12}\b", "DIGEST"),
    (r"[,(] *(?:eager|folded|onnxruntime|inductor)\)", "KERNEL)"),
    (r"\(epoch \d+\)", "(epoch N)"),
    (r"\b\d+ to \d+ of (\d+)$", r"N to N of \1"),  # the best epochs of an arm
    (r"costs (?:(?:about|\d+\.\d times) as much|\d+% less)", "costs COST"),
    (r" best$", ""),
    (r"\d+ same, \d+ different at", "N same, N different at"),
    (r"^ *─[─ ]*$", "─"),
)
"""Patterns of text that may differ, each with the text that replaces it on both sides."""

PROGRESS = re.compile(
    r"loading torch|\w+ing phase \d+ of|range test:? step \d+ of|epoch +\d+/\d+  step |"
    r"\w+: \d+ of \d+ |\w+: continuing after "
)
"""Lines about progress. Most of them are printed on slow machines only."""

_NUMBER = re.compile(r"(?<![\w.])([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w]|\.\d)( %| [kMG]\b)?")


def difference(expected: str, actual: str) -> str | None:
    """Return the first part of ``expected`` that ``actual`` lacks; None if they agree."""
    printed = [line for line in _lines(actual) if not PROGRESS.match(line)]
    parts: list[list[str]] = [[]]
    for line in _lines(expected):
        if line.strip() == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    place = 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        free = range(place, len(printed) - len(part) + 1) if number else range(1)
        starts = [len(printed) - len(part)] if last and number and part else free
        found = next((s for s in starts if s >= place and _agree(part, printed[s:])), None)
        if found is None or (last and part and found + len(part) != len(printed)):
            return "\n".join(part)
        if last and not part and not number and printed:
            return ""
        place = found + len(part)
    return None


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _agree(part: list[str], printed: list[str]) -> bool:
    return len(printed) >= len(part) and all(
        same_line(a, b) for a, b in zip(part, printed, strict=False)
    )


def same_line(expected: str, actual: str) -> bool:
    """Return whether two lines agree within the rules."""
    (words, numbers), (others, found) = _split(expected), _split(actual)
    return words == others and all(map(_near, numbers, found))


def _split(line: str) -> tuple[str, list[tuple[str, str]]]:
    for pattern, stand_in in FREE:
        line = re.sub(pattern, stand_in, line)
    numbers = [(m[1], m[2] or "") for m in _NUMBER.finditer(line)]
    return " ".join(_NUMBER.sub(r"#\2", line).split()), numbers


def _near(one: tuple[str, str], other: tuple[str, str]) -> bool:
    (a, unit), (b, _) = one, other
    if unit == " %":
        return abs(float(a) - float(b)) <= 100 * TOLERANCE
    if unit or "." not in a + b:
        return a == b
    return abs(float(a) - float(b)) <= TOLERANCE
