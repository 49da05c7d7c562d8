"""What a Markdown page holds: its examples, its headings and its links."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(`{3,})(\S*)\s*$")
NOT_RUN = re.compile(r"not run: (.+)", re.DOTALL)
HIDDEN = re.compile(r"(python|sh)\n(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or one that readers do not see: an HTML comment that begins with `python` or `sh`."""

    language: str
    text: str
    line: int
    """Of its first line in the page."""
    hidden: bool = False
    not_run: str = ""
    """Why nobody can run it, where the comment right in front of it says so: `<!-- not run: ... -->`."""


def blocks(page: str) -> Iterator[Block]:
    lines = page.splitlines()
    at, reason = 0, ""
    while at < len(lines):
        line = lines[at]
        begin = at + 1
        if fence := FENCE.match(line):
            end = next(i for i in range(begin, len(lines)) if lines[i].rstrip() == fence[1])
            yield Block(fence[2], "".join(f"{one}\n" for one in lines[begin:end]), begin + 1, not_run=reason)
            at, reason = end + 1, ""
            continue
        if line.startswith("<!--"):
            end = next(i for i in range(at, len(lines)) if lines[i].rstrip().endswith("-->"))
            comment = "\n".join(lines[at : end + 1]).rstrip().removeprefix("<!--").removesuffix("-->").strip()
            if said := NOT_RUN.fullmatch(comment):
                reason = said[1].strip()
            elif hidden := HIDDEN.fullmatch(comment):
                yield Block(hidden[1], hidden[2] + "\n", begin + 1, hidden=True)
            at = end + 1
            continue
        if line.strip():
            reason = ""
        at += 1


def prose(page: str) -> str:
    """The page with nothing in the place of code and comments: as many lines, at the same places."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    page = re.sub(r"^(`{3,}).*?^\1\s*?$", blank, page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"<!--.*?-->", blank, page, flags=re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", blank, page, flags=re.DOTALL)


def anchors(page: str) -> set[str]:
    """What `#...` may name in the page: its headings, as code hosts write them."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    without_code = re.sub(r"^(`{3,}).*?^\1\s*?$", "", page, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,6} +(.*?)\s*#*$", without_code, re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{name}-{times[name]}" if times[name] else name)
        times[name] += 1
    return found


def links(page: str) -> Iterator[tuple[int, str]]:
    """Line and target of each link and picture, and of each bare address."""
    text = prose(page)
    for pattern in (
        r"\]\(([^)]*)\)",
        r"^\[[^\]]+\]:[ \t]*(.*)$",
        r"(?:src|href)=\"([^\"]*)\"",
        r"(?<![(\"\w])(https?:[^\s)>\]]*[^\s)>\].,;:])",
    ):
        for found in re.finditer(pattern, text, re.MULTILINE):
            yield text.count("\n", 0, found.start()) + 1, found[1]


def wrong_links(root: Path, name: str, page: str) -> list[str]:
    """What is wrong with the links of the page of that name below `root`. Nothing is fetched."""
    return [f"{name}:{line}: {target}: {why}" for line, target in links(page) if (why := _wrong(root, name, page, target))]


def _wrong(root: Path, name: str, page: str, target: str) -> str:
    if re.match(r"\w+:", target):
        legal = r"https?://(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:/[\w\-.~:/?#@!$&'*+,;=%]*)?"
        return "" if re.fullmatch(legal, target, re.IGNORECASE) else "a malformed address"
    if not target or re.search(r"\s", target):
        return "not a target"
    path, _, anchor = target.partition("#")
    file = (root / name).parent / path if path else root / name
    if path.startswith("/") or not file.resolve().is_relative_to(root.resolve()):
        return "outside of the project"
    if not file.exists():
        return "there is no such file"
    if anchor and anchor not in anchors(file.read_text(encoding="utf-8") if path else page):
        return "there is no such heading"
    return ""
