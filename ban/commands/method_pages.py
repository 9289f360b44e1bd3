"""The generated parts of `docs/methods.md` and of the pages in `docs/methods/`: `make pages` writes them.

They are what `ban methods` shows: each method's YAML file and the docstrings of its parts. The rest is written by hand.
"""

import re
import sys
from pathlib import Path

from ban.commands.methods import by_group, facts
from ban.report.markup import in_markdown
from ban.settings.files import content_of, files_of, title_of

BEGIN, END = "<!-- from the YAML files and docstrings, by make pages -->", "<!-- end -->"


def of_method(path: Path) -> str:
    """What a method needs and matches."""
    return "| | |\n|:--|:--|\n" + "".join(f"| {name} | {_escaped(text)} |\n" for name, text in facts(path))


def of_all() -> str:
    """A table of all methods with links to their pages."""
    head = "| method | title | group | source |\n|:--|:--|:--|:--|\n"
    return head + "".join(
        f"| [`{name}`](methods/{name}.md) | {in_markdown(title_of(path))} | {heading} | {_source(path)} |\n"
        for heading, members in by_group(files_of("method")).items()
        for name, path in members.items()
    )


def _source(path: Path) -> str:
    return in_markdown(content_of(path).get("reference") or "")


def _escaped(text: str) -> str:
    """For a cell of a table, whose code spans stay."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else in_markdown(f"x{part}x")[1:-1] for part in parts)


def with_generated(page: str, generated: str) -> str:
    """The page with what is generated between its marks.

    Raises:
        ValueError: it lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"


def write(docs: Path) -> None:
    """Writes all generated parts below a folder. A method without a page gets one, whose other parts are missing."""
    pages = {docs / "methods.md": of_all()}
    for name, path in files_of("method").items():
        page = docs / "methods" / f"{name}.md"
        pages[page] = of_method(path)
        if not page.exists():
            page.write_text(f"# {title_of(path)}: `method={name}`\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    for page, generated in pages.items():
        page.write_text(with_generated(page.read_text(encoding="utf-8"), generated), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
