"""LaTeX of tables that fit a column or a page of a two-column article; needs `booktabs` alone.

Widths are estimated from above with those of Computer Modern, which is wider than Times, so that a
table that fits here also fits in the common conference styles (ours).
"""

import itertools
import re
import unicodedata
from typing import NamedTuple

COLUMN_WIDTH = 228.0  # points; 229.5 in article, 234 in ICML's style, 237 in CVPR's
PAGE_WIDTH = 397.0  # points, in NeurIPS's and ICLR's style
WIDE_PAGE_WIDTH = 465.0  # points; 469 in article, 487 and more in conferences' two-column styles

PAGE_HEIGHT = 500.0  # points; 550 in article, less caption and note

HEADER_EMS = 7.2  # width of a line of a header; an em is about two letters
CELL_EMS = 20.0  # width of a line of a cell
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
    line: float  # points from one line to the next


class Attempt(NamedTuple):
    """One way to set a table; names are wrapped after `name_ems`."""

    environment: str
    width: float
    size: Size
    name_ems: float


SMALL = Size("small", em=9.3, separation=3, line=11)
FOOTNOTESIZE = Size("footnotesize", em=8.5, separation=2.5, line=9.5)
# In order of preference.
ON_A_COLUMN = (
    Attempt("table", COLUMN_WIDTH, SMALL, name_ems=13.5),
    Attempt("table", COLUMN_WIDTH, FOOTNOTESIZE, name_ems=13.5),
    Attempt("table", COLUMN_WIDTH, FOOTNOTESIZE, name_ems=7.5),
)
ON_A_PAGE = (
    Attempt("table*", PAGE_WIDTH, SMALL, name_ems=13.5),
    Attempt("table*", PAGE_WIDTH, FOOTNOTESIZE, name_ems=13.5),
    Attempt("table*", PAGE_WIDTH, FOOTNOTESIZE, name_ems=7.5),
    Attempt("table*", WIDE_PAGE_WIDTH, FOOTNOTESIZE, name_ems=13.5),
    Attempt("table*", WIDE_PAGE_WIDTH, FOOTNOTESIZE, name_ems=7.5),
)


def render(table: Table, caption: str, label: str) -> str:
    """The table as a `table` or, if it does not fit a column, a `table*` environment.

    The first sentence of `caption` becomes the caption, the rest a note under the table. A table
    that is too wide for a page is cut into parts, one below the other or, if they are too high
    together, each in an environment of its own.
    """
    attempt, parts = _fit(table)
    title, _, note = caption.partition(". ")
    title = title.removesuffix(".")
    safe_label = re.sub(r"[^A-Za-z0-9:_-]", "-", label)

    height = sum(_height(columns, table.sections, attempt) for columns in parts)
    if len(parts) == 1 or height <= PAGE_HEIGHT:
        return _environment(parts, table.sections, attempt, title, note, safe_label)
    source = ""
    for number, columns in enumerate(parts, 1):
        own_title = f"{title}, part {number} of {len(parts)}"
        own_label = safe_label if number == 1 else f"{safe_label}-{number}"
        own_note = note if number == len(parts) else ""
        source += _environment([columns], table.sections, attempt, own_title, own_note, own_label)
    return source


def _environment(
    parts: list[list[Column]],
    sections: dict[int, str],
    attempt: Attempt,
    title: str,
    note: str,
    label: str,
) -> str:
    lines = [
        f"\\begin{{{attempt.environment}}}",
        "\\centering",
        f"\\caption{{{escape(title)}.}}",
        f"\\label{{tab:{label}}}",
        f"\\{attempt.size.command}",
        f"\\setlength{{\\tabcolsep}}{{{attempt.size.separation}pt}}",
    ]
    for place, columns in enumerate(parts):
        if place:
            lines.append("\\par\\medskip")
        lines += _tabular(columns, sections, attempt.name_ems)
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
    widths = [size.em * _column_ems(column, attempt.name_ems) for column in columns]
    total = sum(widths) + 2 * size.separation * (len(columns) - 1)
    place = 0
    for group, members in itertools.groupby(columns, key=_group):
        number = len(list(members))
        own_width = sum(widths[place : place + number]) + 2 * size.separation * (number - 1)
        total += max(0, size.em * _ems(group) - own_width)
        place += number
    titles = [size.em * _ems(title) for title in sections.values()]
    return max([total, *titles])


def _height(columns: list[Column], sections: dict[int, str], attempt: Attempt) -> float:
    """Points that a tabular is high, about."""
    headers = [_wrap(column.header, HEADER_EMS) for column in columns]
    lines = 3 + max(len(header) for header in headers) + 2 * len(sections)
    for number in range(len(columns[0].cells)):
        heights = []
        for column in columns:
            ems = _cell_ems(column, attempt.name_ems)
            heights.append(len(_wrap(column.cells[number], ems)))
        lines += max(heights)
    return lines * attempt.size.line


def _column_ems(column: Column, name_ems: float) -> float:
    widths = [_ems(line) for line in _wrap(column.header, HEADER_EMS)]
    for number, cell in enumerate(column.cells):
        is_bold = column.bold and column.bold[number]
        for line in _wrap(cell, _cell_ems(column, name_ems)):
            widths.append(1.17 * _ems(line) if is_bold else _ems(line))
    return max(widths)


def _ems(text: str) -> float:
    """Width of a text in Computer Modern, in em, rarely less than the true one."""
    return sum(_character_ems(character) for character in text)


def _character_ems(character: str) -> float:
    if character in "mwMW%@&–−±…":
        return 1.03
    if character not in _COMMANDS and character > "ſ":
        return 5.0  # perhaps [U+1F600]
    if not character.isascii():
        return 0.85
    if character.isupper():
        return 0.78
    if character.isdigit():
        return 0.5
    if character in "ijl.,:;'|![]()/ -":
        return 0.4 if character in "[]()-|/ " else 0.3
    return 0.53


def _cell_ems(column: Column, name_ems: float) -> float:
    """Width of a line of the column's cells."""
    return CELL_EMS if column.unit else name_ems


def _group(column: Column) -> str:
    return column.group


# From columns to LaTeX


def _tabular(columns: list[Column], sections: dict[int, str], name_ems: float) -> list[str]:
    alignments = "".join(column.align for column in columns)
    lines = [f"\\begin{{tabular}}{{@{{}}{alignments}@{{}}}}", "\\toprule"]
    if any(column.group for column in columns):
        lines += _group_headers(columns)
    headers = [_block(column.header, HEADER_EMS, column.align, "b") for column in columns]
    lines.append(_row(headers))
    lines.append("\\midrule")
    for number in range(len(columns[0].cells)):
        if number in sections:
            if number:
                lines.append("\\addlinespace")
            title = escape(sections[number])
            span = len(columns)
            lines.append(f"\\multicolumn{{{span}}}{{@{{}}l@{{}}}}{{\\emph{{{title}}}}} \\\\")
        cells = [_cell(column, number, name_ems) for column in columns]
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


def _cell(column: Column, number: int, name_ems: float) -> str:
    ems = _cell_ems(column, name_ems)
    source = _block(column.cells[number], ems, column.align, "t")
    if column.bold and column.bold[number]:
        return f"\\textbf{{{source}}}"
    return source


def _block(text: str, ems: float, align: str, position: str) -> str:
    """The text, over several lines if it is wider than this."""
    lines = [escape(line) for line in _wrap(text, ems)]
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


def _wrap(text: str, ems: float) -> list[str]:
    """The printable text in lines; they break after spaces, hyphens, underscores, or anywhere."""
    shown = _printable(text)
    if _ems(shown) <= ems:
        return [shown]
    lines = [""]
    for piece in re.findall(r"[^ _-]+[ _-]?|[ _-]", shown):
        parts = [piece] if _ems(piece) <= ems else list(piece)
        for part in parts:
            if _ems(lines[-1] + part.rstrip()) > ems:
                lines.append("")
            lines[-1] += part
    return [line.strip() for line in lines]


# From text to LaTeX

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu",
    "ξ": "xi", "π": "pi", "ρ": "rho", "ς": "varsigma", "σ": "sigma", "τ": "tau",
    "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma",
    "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_LATIN_SHAPES = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))  # of Greek letters
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
}
_COMMANDS |= {letter: f"$\\{name}$" for letter, name in _GREEK.items()}
_COMMANDS |= _LATIN_SHAPES

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
