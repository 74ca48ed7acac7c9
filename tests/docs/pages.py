"""Pages of the manual, as the tests read them: fenced blocks, hidden setups, headings, links.

A page is Markdown. docs/development.md describes the blocks.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^ *```(?P<info>[^`]*)$")
SETUP = re.compile(r"^<!-- (?P<python>python )?setup:$")
ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?)\)")
CODE = re.compile(r"`([^`]+)`")
# Blocks in these languages are not run.
OTHER_LANGUAGES = {"sh", "json", "ini"}
# The tests have no interpreter for these languages, so such a block must have the attribute `skip`.
SKIPPED_LANGUAGES = {"js", "rust"}


@dataclass
class Block:
    """A fenced block, or a hidden setup in a comment."""

    line: int
    language: str
    text: str
    attributes: dict = field(default_factory=dict)
    hidden: bool = False
    # The `text` block behind it, which shows what it prints.
    shows: str | None = None


@dataclass
class Page:
    path: Path
    blocks: list = field(default_factory=list)
    # What a reader sees outside the blocks, and where: (line, text).
    prose: list = field(default_factory=list)
    anchors: set = field(default_factory=set)
    # (line, what is wrong)
    problems: list = field(default_factory=list)

    @property
    def visible(self):
        """The prose on one line, without the marks of Markdown, to look for a sentence in."""
        return " ".join(re.sub(r"[`*_]", "", " ".join(text for _, text in self.prose)).split())

    def spans(self):
        """Each piece of inline code: (line, code)."""
        for line, text in self.prose:
            for code in CODE.findall(text):
                yield line, code

    def links(self):
        for line, text in self.prose:
            for target in LINK.findall(CODE.sub("", text)):
                yield line, target


def anchor(heading, taken):
    """The anchor that GitHub gives a heading: small letters, hyphens, no punctuation."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    slug = "".join(c for c in text if c.isalnum() or c in " -_").replace(" ", "-")
    name, number = slug, 0
    while name in taken:
        number += 1
        name = f"{slug}-{number}"
    return name


def read(path):
    page = Page(path)
    blocks = []
    # The block that is open, and the line that ends it.
    opened = closing = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if opened is not None:
            if line.strip() == closing:
                blocks.append(opened)
                opened = None
            else:
                opened.text += line + "\n"
        elif fence := FENCE.match(line):
            info = fence["info"].strip()
            opened = Block(number, info.split(" ")[0], "", dict(ATTRIBUTE.findall(info)))
            closing = "```"
        elif setup := SETUP.match(line):
            opened = Block(number, "python" if setup["python"] else "sql", "", hidden=True)
            closing = "-->"
        else:
            page.prose.append((number, line))
            if "<!--" in CODE.sub("", line):
                page.problems.append((number, "comment is not a setup"))
            if heading := re.match(r"#{1,6} +(.*)$", line):
                page.anchors.add(anchor(heading[1], page.anchors))
    if opened is not None:
        page.problems.append((opened.line, "block is not closed"))
    page.blocks = join_outputs(page, blocks)
    return page


def join_outputs(page, blocks):
    """Gives each `text` block to the block that prints it, and reports those that have none."""
    kept = []
    for block in blocks:
        if block.language == "text":
            prints = kept[-1] if kept else None
            behind = prints is not None and all(
                not text.strip() for line, text in page.prose if prints.line < line < block.line
            )
            if behind and prints.language in ("sql", "python") and not prints.hidden and prints.shows is None:
                prints.shows = block.text
            else:
                page.problems.append((block.line, "output block does not follow a block that prints it"))
        elif block.language in ("sql", "python") or block.language in OTHER_LANGUAGES:
            kept.append(block)
        elif block.language in SKIPPED_LANGUAGES and "skip" in block.attributes:
            kept.append(block)
        else:
            page.problems.append((block.line, f"block of the language \"{block.language}\", which is neither run nor known"))
    return kept


TOKEN = re.compile(
    r"""(?P<string>[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")*")
      | (?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)
      | (?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<end>;)
      | (?P<other>[^'"$\-/;eE]+|.)""",
    re.VERBOSE | re.DOTALL,
)
RESULT = re.compile(r"[ \t]*--[ \t]*result:[ \t]*(?P<value>[^\n]*)")


@dataclass
class Statement:
    line: int
    sql: str
    # What `-- result: …` behind it promises.
    result: str | None


def statements(block):
    """The statements of an sql block, each with the line on which it begins."""
    found, start, at = [], 0, 0
    text = block.text
    while at < len(text):
        token = TOKEN.match(text, at)
        at = token.end()
        if token["end"]:
            result = RESULT.match(text, at)
            add(found, block, text, start, at, result and result["value"].strip())
            at = start = result.end() if result else at
    add(found, block, text, start, len(text), None)
    return found


def add(found, block, text, start, end, result):
    sql = text[start:end]
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL).strip(" \n\t;")
    if bare:
        skipped = len(sql) - len(sql.lstrip())
        line = block.line + 1 + text.count("\n", 0, start + skipped)
        found.append(Statement(line, sql.strip(), result))
