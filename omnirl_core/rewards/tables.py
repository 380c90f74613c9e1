"""Rewards for tables as HTML or Markdown: TEDS, the similarity of two tables by the edit distance of their trees.

TEDS = 1 - edit distance / nodes of the larger tree (Zhong, ShafieiBavani and Jimeno Yepes, ECCV 2020). A tree is a
table of rows of cells; thead, tbody and tfoot are left out, since Markdown has none, and th is td. Taking out or
putting in a node costs 1, and so does a cell of other spans; a cell of other text costs its normalised edit distance.
"""

import html
import re
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from omnirl_core.rewards.answers.answers import best_of_references
from omnirl_core.rewards.reward import on_answer

MOST_CHARACTERS = 50_000
MOST_NODES = 2_000
"""Rows and cells of a reference."""
MOST_SAID = 600
"""Rows and cells of an answer, unless the reference has more than half as many: 50 rows of 11 cells."""

_TAG = re.compile(r"<(/?)(table|tr|td|th)\b([^<>]*)>", re.IGNORECASE)
_SPAN = re.compile(r"\b(colspan|rowspan)\s*=\s*[\"']?(\d{1,4})", re.IGNORECASE)
_OTHER_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_BAR = re.compile(r"(?<!\\)\|")


class Cell(NamedTuple):
    """A cell's text, and over how many columns and rows it goes."""

    text: str
    columns: int = 1
    rows: int = 1


Table = list[list[Cell]]


def read_tables(text: str) -> list[Table]:
    """The tables of a text, as HTML or, where it has none, as Markdown.

    >>> read_tables("| a | b |\\n|---|---|\\n| 1 | 2 |") == read_tables(
    ...     "<table><tr><th>a</th><th>b</th></tr><tr><td>1<td> 2 </tr></table>")
    True
    """
    text = text[:MOST_CHARACTERS]
    return [table for table in _html_tables(text) or _markdown_tables(text) if any(table)]


def _html_tables(text: str) -> list[Table]:
    tables: list[Table] = []
    cell, start = None, 0  # the cell that is open, and where its text begins
    for match in _TAG.finditer(text):
        closes, tag = match[1] == "/", match[2].lower()
        if cell is not None:
            tables[-1][-1].append(cell._replace(text=_cell_text(text[start : match.start()])))
            cell = None
        if tag == "table" or not tables:
            tables.append([])
        if closes or tag == "table":
            continue
        if tag == "tr" or not tables[-1]:
            tables[-1].append([])
        if tag != "tr":
            spans = {name.lower(): int(number) for name, number in _SPAN.findall(match[3])}
            cell, start = Cell("", spans.get("colspan", 1), spans.get("rowspan", 1)), match.end()
    if cell is not None:
        tables[-1][-1].append(cell._replace(text=_cell_text(text[start:])))
    return tables


def _cell_text(text: str) -> str:
    return " ".join(html.unescape(_OTHER_TAG.sub(" ", text)).split())


def _markdown_tables(text: str) -> list[Table]:
    tables: list[Table] = [[]]
    for line in map(str.strip, text.splitlines()):
        if "|" not in line:
            tables.append([])
        elif "-" not in line or not set(line) <= set("|:- \t"):  # not the rule below the heading
            inner = line.removeprefix("|").removesuffix("|")
            tables[-1].append([Cell(" ".join(part.split())) for part in _BAR.split(inner)])
    return tables


@on_answer
@best_of_references
def teds(prediction: str, solution: str) -> float | None:
    """TEDS of the answer's first table with the reference's, in [0, 1]; None where the reference has no table.

    An answer of over 600 rows and cells, and of over twice the reference's, is 0.0; a reference has at most 2,000.

    >>> teds("| a | b |\\n|---|---|\\n| 1 | 3 |", "<table><tr><td>a<td>b</tr><tr><td>1<td>2</tr></table>")
    0.8333333333333334
    """
    return _teds(prediction, solution, True)


@on_answer
@best_of_references
def teds_struct(prediction: str, solution: str) -> float | None:
    """TEDS of rows, cells and spans alone, whatever the cells say, in [0, 1]. A guessed frame pays: add `teds`.

    >>> teds_struct("| a | b |\\n| 1 | 3 |", "| x | y |\\n| z | w |"), teds_struct("| a |", "| x |\\n| y |")
    (1.0, 0.5)
    """
    return _teds(prediction, solution, False)


def _teds(prediction: str, solution: str, with_text: bool) -> float | None:
    wanted, said = _first_table(solution), _first_table(prediction)
    if wanted is None or _size(wanted) > MOST_NODES:
        return None
    if said is None or _size(said) > max(MOST_SAID, 2 * _size(wanted)):
        return 0.0
    fewer, more = sorted((said, wanted), key=_size)  # the distance is symmetric, and its loop is over the first
    return max(0.0, 1 - tree_distance(fewer, more, with_text) / _size(more))


@lru_cache(maxsize=16)
def _first_table(text: str) -> Table | None:
    return next(iter(read_tables(text)), None)


def _size(table: Table) -> int:
    """Nodes of the tree below its root."""
    return len(table) + sum(map(len, table))


def tree_distance(a: Table, b: Table, with_text: bool = True) -> float:
    """Edit distance of two trees of rows of cells (Zhang and Shasha 1989), row by row of the table of forests.

    Roots are mapped to each other, and so are two rows of which one goes into the other, since their labels are
    equal: what is left is the distance of their cells as sequences. Each table has a cell.
    """
    cells_a, cells_b = ([cell for row in table for cell in row] for table in (a, b))
    change = _cell_costs(cells_a, cells_b, with_text)
    trees, first_a, first_b = _subtree_distances(a, b, change)
    forest = np.zeros((len(first_a) + 1, len(first_b) + 1))
    steps = np.arange(len(first_b) + 1.0)
    forest[0] = steps
    for x in range(len(first_a)):
        row = forest[x] + 1
        np.minimum(row[1:], forest[first_a[x]][first_b] + trees[x], out=row[1:])
        forest[x + 1] = np.minimum.accumulate(row - steps) + steps
    return float(forest[-1, -1])


def _cell_costs(a: list[Cell], b: list[Cell], with_text: bool) -> np.ndarray:
    """(cells of a, cells of b): what turning one into the other costs."""
    texts_a, texts_b = ([cell.text for cell in cells] for cells in (a, b))
    if with_text:
        costs = cdist(texts_a, texts_b, scorer=Levenshtein.normalized_distance, dtype=np.float64)
    else:
        costs = np.zeros((len(a), len(b)))
    spans_a, spans_b = (np.array([cell[1:] for cell in cells]) for cells in (a, b))
    costs[(spans_a[:, None] != spans_b[None]).any(-1)] = 1.0
    return costs


def _subtree_distances(a: Table, b: Table, change: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """(nodes of a, nodes of b): distances of subtrees, nodes in postorder; and each node's first node below it."""
    (rows_a, cells_a, first_a), (rows_b, cells_b, first_b) = _places(a), _places(b)
    trees = np.zeros((len(first_a), len(first_b)))
    trees[np.ix_(cells_a, cells_b)] = change
    trees[np.ix_(rows_a, rows_b)] = _row_distances(a, b, change)
    sizes_a, sizes_b = (np.array([len(row) for row in table]) for table in (a, b))
    # one node against a tree: all of it but one is put in, and the best of it is changed
    trees[np.ix_(cells_a, rows_b)] = sizes_b + _least(change, sizes_b)
    trees[np.ix_(rows_a, cells_b)] = (sizes_a + _least(change.T, sizes_a)).T
    return trees, first_a, first_b


def _places(table: Table) -> tuple[list[int], list[int], list[int]]:
    """Where rows and cells stand among the nodes in postorder, and each node's first node below it."""
    starts = [0, *accumulate(len(row) + 1 for row in table)]
    rows = [start - 1 for start in starts[1:]]
    cells = [start + k for start, row in zip(starts, table, strict=False) for k in range(len(row))]
    first = list(range(starts[-1]))
    for place, start in zip(rows, starts, strict=False):
        first[place] = start
    return rows, cells, first


def _least(change: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(cells, rows): the least cost of turning a cell into one of the row, at most 1."""
    capped = np.concatenate([np.minimum(change, 1.0), np.ones((len(change), 1))], axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.stack([capped[:, [*range(s, e), -1]].min(1) for s, e in pairwise(starts)], axis=1)


def _row_distances(a: Table, b: Table, change: np.ndarray) -> np.ndarray:
    """(rows of a, rows of b): edit distances of their cells."""
    widest = max(map(len, b))
    columns = np.full((len(b), widest), change.shape[1])  # beyond a row's end: a column that costs 1
    start = 0
    for y, row in enumerate(b):
        columns[y, : len(row)] = range(start, start + len(row))
        start += len(row)
    costs = np.concatenate([change, np.ones((len(change), 1))], axis=1)
    steps, ends = np.arange(widest + 1.0), np.array([len(row) for row in b])
    found, cell = np.zeros((len(a), len(b))), 0
    for x, row in enumerate(a):
        distances = np.tile(steps, (len(b), 1))
        for _ in row:
            grown = distances + 1
            np.minimum(grown[:, 1:], distances[:, :-1] + costs[cell][columns], out=grown[:, 1:])
            distances = np.minimum.accumulate(grown - steps, axis=1) + steps
            cell += 1
        found[x] = distances[np.arange(len(b)), ends]
    return found
