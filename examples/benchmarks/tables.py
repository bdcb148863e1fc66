"""Tables of the benchmarks, in markdown and reStructuredText."""

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table in markdown; all columns but the first are numbers."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def rst(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table in reStructuredText, for the documentation."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'  -' if column else '* -'} {cell}" for column, cell in enumerate(row)]
    return "\n".join(line.rstrip() for line in lines)
