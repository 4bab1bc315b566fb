"""LaTeX of tables that fit a column or a page of a two-column article; needs `booktabs` alone.

Widths are estimated from above with those of Computer Modern, which is wider than Times, so that a
table that fits here also fits in the common conference styles (ours).
"""

import itertools
import re
import textwrap
import unicodedata
from typing import NamedTuple

COLUMN_WIDTH = 228.0  # points; 229.5 in article, 234 in ICML's style, 237 in CVPR's
PAGE_WIDTH = 397.0  # points, in NeurIPS's and ICLR's style
WIDE_PAGE_WIDTH = 465.0  # points; 469 in article, 487 and more in conferences' two-column styles

HEADER_LENGTH = 14  # characters on a line of a header
TEXT_LENGTH = 40  # characters on a line of a cell
LONGEST_WORD = 20  # characters of a note that TeX need not break


class Column(NamedTuple):
    """One column: plain texts, which `render` escapes, wraps and makes bold."""

    header: str
    cells: list[str]
    bold: list[bool] | None = None
    group: str = ""  # neighbours of the same group share a header above their own
    unit: str = ""  # columns of one unit stay together; those without one are repeated in each part
    align: str = "r"


class Table(NamedTuple):
    """Columns of equal length, and titles above some of their rows, by row number."""

    columns: list[Column]
    sections: dict[int, str]


class Size(NamedTuple):
    """A size of text in a 10-point article."""

    command: str
    em: float  # points; smaller sizes of Computer Modern are relatively wider
    separation: float  # points on either side of a column


class Attempt(NamedTuple):
    """One way to set a table; names are wrapped after `name_length` characters."""

    environment: str
    width: float
    size: Size
    name_length: int


SMALL = Size("small", em=9.3, separation=3)
FOOTNOTESIZE = Size("footnotesize", em=8.5, separation=2.5)
# In order of preference.
ON_A_COLUMN = (
    Attempt("table", COLUMN_WIDTH, SMALL, name_length=28),
    Attempt("table", COLUMN_WIDTH, FOOTNOTESIZE, name_length=28),
    Attempt("table", COLUMN_WIDTH, FOOTNOTESIZE, name_length=16),
)
ON_A_PAGE = (
    Attempt("table*", PAGE_WIDTH, SMALL, name_length=28),
    Attempt("table*", PAGE_WIDTH, FOOTNOTESIZE, name_length=28),
    Attempt("table*", PAGE_WIDTH, FOOTNOTESIZE, name_length=16),
    Attempt("table*", WIDE_PAGE_WIDTH, FOOTNOTESIZE, name_length=28),
    Attempt("table*", WIDE_PAGE_WIDTH, FOOTNOTESIZE, name_length=16),
)


def render(table: Table, caption: str, label: str) -> str:
    """The table as a `table` or, if it does not fit a column, a `table*` environment.

    The first sentence of `caption` becomes the caption, the rest a note under the table. A table
    that is too wide for a page is cut into parts, one below the other.
    """
    attempt, parts = _fit(table)
    title, _, note = caption.partition(". ")
    title = title.removesuffix(".")
    safe_label = re.sub(r"[^A-Za-z0-9:_-]", "-", label)
    lines = [
        f"\\begin{{{attempt.environment}}}",
        "\\centering",
        f"\\caption{{{escape(title)}.}}",
        f"\\label{{tab:{safe_label}}}",
        f"\\{attempt.size.command}",
        f"\\setlength{{\\tabcolsep}}{{{attempt.size.separation}pt}}",
    ]
    for place, columns in enumerate(parts):
        if place:
            lines.append("\\par\\medskip")
        lines += _tabular(columns, table.sections, attempt.name_length)
    if note:
        lines.append("\\par\\smallskip")
        lines.append("\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright")
        lines.append(_breakable(note))
        lines.append("\\end{minipage}")
    lines.append(f"\\end{{{attempt.environment}}}")
    return "\n".join(lines) + "\n"


# From a table to the parts and the size that fit


def _fit(table: Table) -> tuple[Attempt, list[list[Column]]]:
    """The first way to set the table that fits, and its columns by part."""
    for attempt in (*ON_A_COLUMN, *ON_A_PAGE):
        if _width(table.columns, table.sections, attempt) <= attempt.width:
            return attempt, [table.columns]
    units = list(dict.fromkeys(column.unit for column in table.columns if column.unit))
    parts = [table.columns]
    for number in range(2, len(units) + 1):
        parts = _parts(table.columns, units, number)
        for attempt in ON_A_PAGE:
            widths = [_width(columns, table.sections, attempt) for columns in parts]
            if max(widths) <= attempt.width:
                return attempt, parts
    return ON_A_PAGE[-1], parts


def _parts(columns: list[Column], units: list[str], number: int) -> list[list[Column]]:
    """The columns in at most `number` parts of about as many units each."""
    units_in_part = -(-len(units) // number)  # rounded up
    parts = []
    for start in range(0, len(units), units_in_part):
        chosen = units[start : start + units_in_part]
        parts.append([column for column in columns if column.unit in ("", *chosen)])
    return parts


def _width(columns: list[Column], sections: dict[int, str], attempt: Attempt) -> float:
    """Points that a tabular takes at most."""
    size = attempt.size
    widths = [size.em * _column_ems(column, attempt.name_length) for column in columns]
    total = sum(widths) + 2 * size.separation * (len(columns) - 1)
    place = 0
    for group, members in itertools.groupby(columns, key=_group):
        number = len(list(members))
        own_width = sum(widths[place : place + number]) + 2 * size.separation * (number - 1)
        total += max(0, size.em * _ems(group) - own_width)
        place += number
    titles = [size.em * _ems(title) for title in sections.values()]
    return max([total, *titles])


def _column_ems(column: Column, name_length: int) -> float:
    widths = [_ems(line) for line in _wrap(column.header, HEADER_LENGTH)]
    for number, cell in enumerate(column.cells):
        is_bold = column.bold and column.bold[number]
        for line in _wrap(cell, _cell_length(column, name_length)):
            widths.append(1.17 * _ems(line) if is_bold else _ems(line))
    return max(widths)


def _ems(text: str) -> float:
    """Width of a text in Computer Modern, in em, rarely less than the true one."""
    return sum(_character_ems(character) for character in text)


def _character_ems(character: str) -> float:
    if not character.isascii() and character not in "–−±…":
        return 0.85 if character.isalpha() and ord(character) < 0x250 else 5.0  # 5: [U+1F600]
    if character in "mwMW%@&–−±…":
        return 1.03
    if character.isupper():
        return 0.78
    if character.isdigit():
        return 0.5
    if character in "ijl.,:;'|![]()/ -":
        return 0.4 if character in "[]()-|/ " else 0.3
    return 0.53


def _cell_length(column: Column, name_length: int) -> int:
    """Characters on a line of the column's cells."""
    return TEXT_LENGTH if column.unit else name_length


def _group(column: Column) -> str:
    return column.group


# From columns to LaTeX


def _tabular(columns: list[Column], sections: dict[int, str], name_length: int) -> list[str]:
    alignments = "".join(column.align for column in columns)
    lines = [f"\\begin{{tabular}}{{@{{}}{alignments}@{{}}}}", "\\toprule"]
    if any(column.group for column in columns):
        lines += _group_headers(columns)
    headers = [_block(column.header, HEADER_LENGTH, column.align, "b") for column in columns]
    lines.append(_row(headers))
    lines.append("\\midrule")
    for number in range(len(columns[0].cells)):
        if number in sections:
            if number:
                lines.append("\\addlinespace")
            title = escape(sections[number])
            span = len(columns)
            lines.append(f"\\multicolumn{{{span}}}{{@{{}}l@{{}}}}{{\\emph{{{title}}}}} \\\\")
        cells = [_cell(column, number, name_length) for column in columns]
        lines.append(_row(cells))
    lines += ["\\bottomrule", "\\end{tabular}"]
    return lines


def _group_headers(columns: list[Column]) -> list[str]:
    """A row of headers, each over its neighbouring columns, and a rule under each of them."""
    headers = []
    rules = ""
    first = 1
    for group, members in itertools.groupby(columns, key=_group):
        number = len(list(members))
        last = first + number - 1
        if group:
            headers.append(f"\\multicolumn{{{number}}}{{c}}{{{escape(group)}}}")
            rules += f"\\cmidrule(lr){{{first}-{last}}}"
        else:
            headers += [""] * number
        first = last + 1
    return [_row(headers), rules]


def _cell(column: Column, number: int, name_length: int) -> str:
    length = _cell_length(column, name_length)
    source = _block(column.cells[number], length, column.align, "t")
    if column.bold and column.bold[number]:
        return f"\\textbf{{{source}}}"
    return source


def _block(text: str, length: int, align: str, position: str) -> str:
    """The text, over several lines if it is longer than `length` characters."""
    lines = [escape(line) for line in _wrap(text, length)]
    if len(lines) == 1:
        return lines[0]
    body = "\\\\".join(f"{{{line}}}" for line in lines)  # braces: a line may begin with [ or *
    return f"\\begin{{tabular}}[{position}]{{@{{}}{align}@{{}}}}{body}\\end{{tabular}}"


def _row(cells: list[str]) -> str:
    # Braces: after a line break, LaTeX would take a bracket for its argument.
    first, *others = cells
    if first.startswith(("[", "*")):
        first = f"{{{first}}}"
    return " & ".join([first, *others]) + " \\\\"


def _wrap(text: str, length: int) -> list[str]:
    """The printable text in lines; they may break at spaces, hyphens and underscores."""
    shown = _printable(text)
    may_break = shown.replace("_", "_ ")
    lines = textwrap.wrap(may_break, length) or [""]
    return [line.replace("_ ", "_") for line in lines]


# From text to LaTeX

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "varsigma sigma tau upsilon phi chi psi omega"
).split()
_GREEK_CAPITALS = (
    r"A B \Gamma \Delta E Z H \Theta I K \Lambda M N \Xi O \Pi P \Sigma \Sigma T Y \Phi X \Psi "
    r"\Omega"
).split()
_COMMANDS = {character: f"\\{character}" for character in "%&_#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "ο": "o",
}
for _place, _name in enumerate(_GREEK):
    _COMMANDS.setdefault(chr(ord("α") + _place), f"$\\{_name}$")
for _place, _name in enumerate(_GREEK_CAPITALS):
    _COMMANDS[chr(ord("Α") + _place)] = f"$\\mathrm{{{_name}}}$"

# What LaTeX reads in UTF-8 with the T1 encoding and no other package.
_PUNCTUATION = "–—‘’“”†‡•…€™"
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"


def escape(text: str) -> str:
    """The text as LaTeX prints it: no command, no control character, nothing lost.

    A character that pdflatex cannot print becomes its plain form (ﬁ becomes fi) or, if it has none,
    its code point, such as [U+4E2D].
    """
    composed = unicodedata.normalize("NFC", _printable(text))
    source = "".join(_character(character) for character in composed)
    return source.replace("--", "-{}-").replace("--", "-{}-")  # no ligature to a dash


def _printable(text: str) -> str:
    """The text on one line, without control characters."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if character.isprintable())


def _character(character: str) -> str:
    if character in _COMMANDS:
        return _COMMANDS[character]
    is_latin = "¡" <= character <= "ſ" and character not in _NOT_IN_T1
    if character.isascii() or is_latin or character in _PUNCTUATION:
        return character
    source = ""
    for plain in unicodedata.normalize("NFKD", character):
        if plain in _COMMANDS or plain.isascii():
            source += _COMMANDS.get(plain, plain)
    return source or f"[U+{ord(character):04X}]"


def _breakable(text: str) -> str:
    """The escaped text; words too long for a line may break anywhere."""
    words = []
    for word in _printable(text).split(" "):
        pieces = re.findall(f".{{1,{LONGEST_WORD}}}", word)
        words.append("\\allowbreak{}".join(escape(piece) for piece in pieces))
    return " ".join(words)
