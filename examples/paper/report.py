"""Shared code of the scripts of this folder: stored results, and tables."""

import json
import shutil
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).resolve().parents[1] / "output"


class Results:
    """Lines of JSON in a file, each identified by its key; the last one of a key is used.

    Parameters
    ----------
    file : path
        Read if it is there; made, with its folder, by the first `append`.
    key : sequence of str
        Names of the entries by which a row is found.
    """

    def __init__(self, file, key):
        self.file, self.key = Path(file), tuple(key)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = {self.key_of(row): row for row in map(json.loads, lines)}

    def key_of(self, row):
        return tuple(row[name] for name in self.key)

    def get(self, **key):
        """Return the row, or None if it is not there yet."""
        return self.rows.get(self.key_of(key))

    def append(self, row):
        self.rows[self.key_of(row)] = row
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def mean_and_error(values):
    """Mean over rows and its standard error, as a dict that JSON can hold."""
    values = np.asarray(values, dtype=np.float64)
    return {"mean": values.mean(), "error": values.std(ddof=1) / np.sqrt(len(values))}


def with_error(cell, decimals=3):
    """Write what `mean_and_error` returned."""
    return f"{cell['mean']:.{decimals}f} ± {cell['error']:.{decimals}f}"


def markdown(header, rows):
    """Lay out a table in markdown; all columns but the first are numbers."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows]) + "\n"


def rst(header, rows):
    """Lay out a table in reStructuredText, for the documentation."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def write_tables(folder, name, caption, header, rows):
    """Write NAME.md and NAME.rst into a folder, and return the former's text."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{caption}\n\n{markdown(header, rows)}"
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.rst").write_text(f"{caption}\n\n{rst(header, rows)}")
    return text


def publish(files, folder):
    """Copy what the documentation includes into a folder of it, if one was named."""
    if folder is None:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def pyplot():
    """Import matplotlib late, and without a window."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
