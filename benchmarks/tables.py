"""Draw the tables of benchmarks/README.md from results/bench*.json.

`python benchmarks/tables.py` does it without measuring anything. Each table stands between two
comments, which name it; the text around them is written by hand.
"""

import re
from pathlib import Path

from saved import CPU_FILE, GPU_FILE, ORDER, code_versions

from mcrlib import config, files, results

README = Path(__file__).with_name("README.md")
HEADER = "| | measured | against | ratio [spread] | goal | |"
STEP_HEADER = (
    "| | activations (simulated, bf16, 64 pairs) | time (two CPU cores, fp32, 8 pairs) "
    "| activations (H100's allocator, bf16, 256 pairs) | time (H100, bf16, 256 pairs) |"
)
RULE = "|---|---|---|---|---|---|"


def write_tables() -> None:
    """Replace the tables in README.md; raises ValueError if it lacks one."""
    text = with_tables(README.read_text())
    files.write(README, text.encode())


def with_tables(text: str) -> str:
    """A README's `text` with the tables that the saved rows give."""
    records = {}
    for file in (CPU_FILE, GPU_FILE):
        records[file] = results.load(config.ROOT / "results" / file)
        text = _replace(text, file, section(file, records[file]))
    step = step_table(records[CPU_FILE]["values"], records[GPU_FILE]["values"])
    return _replace(text, "step", step)


def step_table(cpu: list[dict], gpu: list[dict]) -> str:
    """Activations and time of a step as shares of those of `dual`, from rows 1 and 2."""
    lines = [STEP_HEADER, "|---|---|---|---|---|"]
    shares = {
        "`mcr`": _method_shares,
        "`mcr`, `recompute: selective`": _lean_shares,
        "`dual`, `recompute: selective`": _lean_rival_shares,
    }
    for name, of_rows in shares.items():
        cells = [name, *of_rows(cpu), *of_rows(gpu)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _method_shares(rows: list[dict]) -> list[str]:
    """Activations and time of `mcr`: row 1 has the time against `dual` first, then the memory."""
    time, memory, *_ = _of_benchmark("1", rows)
    return [_share(memory), _share(time)]


def _lean_shares(rows: list[dict]) -> list[str]:
    time, memory, *_ = _of_benchmark("2", rows)
    return [_share(memory), _share(time)]


def _lean_rival_shares(rows: list[dict]) -> list[str]:
    """`dual` with recomputation is in row 2 only as the rival of `mcr`: a ratio of two ratios."""
    time, memory, rival_time, rival_memory = _of_benchmark("2", rows)
    memory_share = rival_memory["ratio"] / memory["ratio"]
    time_share = rival_time["ratio"] / time["ratio"]
    return [f"{memory_share:.2f}", f"about {time_share:.1f}"]


def _of_benchmark(name: str, rows: list[dict]) -> list[dict]:
    return [measured for measured in rows if measured["benchmark"] == name]


def _share(measured: dict) -> str:
    """Ours over theirs: the inverse of a row's ratio, with the spread over its rounds."""
    share = f"{1 / measured['ratio']:.2f}"
    low, high = measured["spread"]
    if low == high:
        return share
    return f"{share} ({1 / high:.2f} to {1 / low:.2f})"


def section(file: str, record: dict) -> str:
    """What was measured when and where, and a table of all rows of a results file."""
    rows = record["values"]
    lines = [_origin(file, rows, record["provenance"]), "", HEADER, RULE]
    for measured in rows:
        lines.append(table_line(measured))
    return "\n".join(lines)


def table_line(measured: dict) -> str:
    """One row as Markdown; the spread is left out if there was a single round."""
    ratio = number(measured["ratio"])
    low, high = measured["spread"]
    if low != high:
        ratio += f" [{number(low)}, {number(high)}]"
    goal = number(measured["goal"])
    verdict = "met" if measured["met"] else "**missed**"
    cells = [measured["id"], measured["what"], measured["rival"], ratio, goal, verdict]
    return _line(cells)


def number(value: float) -> str:
    """At most two decimals, none of hundreds, and commas between thousands."""
    if value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def _origin(file: str, rows: list[dict], provenance: dict) -> str:
    """A sentence on code, device and time, and what is still to be measured."""
    versions = code_versions(rows)
    if len(versions) == 1:
        minutes = sum(provenance["seconds"].values()) / 60
        text = f"Measured at `{versions[0]}` on {provenance['device']} in {minutes:.0f} minutes."
    else:
        parts = [_rows_of(version, rows) for version in versions]
        text = f"**Measured with different code**, on {provenance['device']}: {'; '.join(parts)}."
    there = {measured["benchmark"] for measured in rows}
    missing = [f"`{name}`" for name in ORDER[file] if name not in there]
    if missing:
        text += f" Still to be measured: {', '.join(missing)}."
    return text


def _rows_of(version: str, rows: list[dict]) -> str:
    """Which rows are of one version of the code."""
    ids = [measured["id"] for measured in rows if measured["code"] == version]
    distinct = dict.fromkeys(ids)
    return f"`{version}` rows {', '.join(distinct)}"


def _replace(text: str, name: str, content: str) -> str:
    """`text` with `content` between the two comments that name it."""
    begin = f"<!-- begin {name} -->"
    end = f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(text) is None:
        raise ValueError(
            f"{README} has no place for the table {name}: put {begin} and {end} in it."
        )
    table = f"{begin}\n{content}\n{end}"
    return pattern.sub(lambda _: table, text)


if __name__ == "__main__":
    write_tables()
