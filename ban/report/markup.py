"""Sections of tables as Markdown and LaTeX. Texts are escaped for each format, because titles and headings are free."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# tabulate has no types.

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

MARKDOWN = {
    r"([\\|*`~]|<(?=[\w/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w))": r"\\\1",
    r"\](?=[(\[])": r"]\\",
    r"^([#>]|[+-](?= ))": r"\\\1",
    r"^(\d+)(?=[.)] )": r"\1\\",
}
"""What Markdown would take for code, columns, emphasis, tags, entities, links, headings or lists → as plain text."""
LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"✓": r"\checkmark{}", "✗": r"$\times$", "×": r"$\times$", "±": r"$\pm$", "−": "$-$", "ω": r"$\omega$"},
    **{"Π": r"$\Pi$", "β": r"$\beta$", "γ": r"$\gamma$", "<": "$<$", ">": "$>$", "|": r"\textbar{}"},
}
"""Characters that mean something to LaTeX, or that pdfLaTeX's fonts lack. ✓ needs the package amssymb."""

NUMERIC = re.compile("[^A-Za-z]*")
"""A cell of a column of numbers."""


class Section(NamedTuple):
    """A table of texts as people read it. A row maps headings to texts; a missing one is empty."""

    caption: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str]

    def lines(self, escape: Callable[[str], str]) -> list[list[str]]:
        """The escaped headings, then the escaped texts of each row."""
        headings = dict.fromkeys(heading for row in self.rows for heading in row)
        return [
            [escape(text) for text in line]
            for line in ([*headings], *([row.get(heading, "") for heading in headings] for row in self.rows))
        ]


def markdown(sections: Sequence[Section]) -> str:
    """GitHub's Markdown."""
    blocks: list[str] = []
    for section in sections:
        headings, *rows = section.lines(in_markdown)
        table = tabulate(rows, headings, "pipe", disable_numparse=True)
        blocks += [in_markdown(section.caption), table, *map(in_markdown, section.notes)]
    return "\n\n".join(blocks) + "\n"


def in_markdown(text: str) -> str:
    """The text for GitHub's Markdown."""
    text = " ".join(text.split())
    for pattern, escaped in MARKDOWN.items():
        text = re.sub(pattern, escaped, text)
    return text


def latex(sections: Sequence[Section]) -> str:
    """A `tabular` for each section, with caption and notes as comments. Needs booktabs, and amssymb for ✓."""
    return "\n".join(map(_tabular, sections))


def _tabular(section: Section) -> str:
    comments = "".join(f"% {' '.join(text.split())}\n" for text in (section.caption, *section.notes))
    numeric = [all(map(NUMERIC.fullmatch, cells)) for _, *cells in zip(*section.lines(str), strict=True)]
    columns = "".join("r" if each else "l" for each in numeric)
    headings, *rows = (" & ".join(line) + r" \\" for line in section.lines(in_latex))
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", headings, r"\midrule", *rows, r"\bottomrule"]
    return comments + "\n".join([*parts, r"\end{tabular}", ""])


def in_latex(text: str) -> str:
    """The text for pdfLaTeX."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "−", text)  # before a number, a hyphen is a minus sign
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
