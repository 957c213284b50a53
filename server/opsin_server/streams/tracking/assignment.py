"""Which track is which sighting: the pairing with the greatest sum of gains, exactly.

Most tracks can be only one or two sightings, so the pairs that are allowed fall apart into small groups
that have nothing to do with each other; each is solved alone, mostly without a search. A group is solved by
shortest augmenting paths (the Hungarian method as of Jonker and Volgenant, "A shortest augmenting path
algorithm for dense and sparse linear assignment problems", Computing 38, 1987), with a spare column for
each row that stays alone.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["assign"]

Gains = npt.NDArray[np.float64]


def assign(gains: Gains) -> list[tuple[int, int]]:
    """Pairs (row, column) with the greatest sum of gains; only pairs with a gain above 0 are allowed.

    gains: (rows, columns); each row and each column is in at most one pair. 100 x 100 with all pairs
    allowed takes about ten milliseconds, the usual sparse case well under one.
    """
    pairs: list[tuple[int, int]] = []
    for rows, columns in _groups(gains > 0):
        if len(rows) == 1:
            best = int(np.argmax(gains[rows[0], columns]))
            pairs.append((rows[0], columns[best]))
        elif len(columns) == 1:
            best = int(np.argmax(gains[rows, columns[0]]))
            pairs.append((rows[best], columns[0]))
        else:
            inner = _solve(gains[np.ix_(rows, columns)])
            pairs += [(rows[r], columns[c]) for r, c in inner]
    return sorted(pairs)


def _groups(allowed: npt.NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that are connected by allowed pairs; those without any are left out."""
    of_row = [np.flatnonzero(line).tolist() for line in allowed]
    of_column = [np.flatnonzero(line).tolist() for line in allowed.T]
    groups, known = [], [False] * len(of_row)
    for first, columns_of_first in enumerate(of_row):
        if known[first] or not columns_of_first:
            continue
        rows, columns = [first], set[int]()
        known[first] = True
        for row in rows:  # grows while it is walked
            for column in of_row[row]:
                if column in columns:
                    continue
                columns.add(column)
                for other in of_column[column]:
                    if not known[other]:
                        known[other] = True
                        rows.append(other)
        groups.append((sorted(rows), sorted(columns)))
    return groups


def _solve(gains: Gains) -> list[tuple[int, int]]:
    """One group. Cost is minus the gain, what is not allowed costs nothing and stands for staying alone."""
    count, columns = gains.shape
    cost = np.zeros((count, columns + count))
    cost[:, :columns] = -np.maximum(gains, 0.0)
    row_of = np.full(cost.shape[1], -1)
    row_price, column_price = np.zeros(count), np.zeros(cost.shape[1])
    for row in range(count):
        _augment(row, cost, row_of, row_price, column_price)
    chosen = np.flatnonzero(row_of[:columns] >= 0).tolist()
    return [(int(row_of[c]), c) for c in chosen if gains[row_of[c], c] > 0]


def _augment(
    start: int,
    cost: Gains,
    row_of: npt.NDArray[np.int64],
    row_price: Gains,
    column_price: Gains,
) -> None:
    """Find the cheapest way to give one more row a column (Dijkstra over reduced costs), and take it."""
    size = cost.shape[1]
    distance = np.full(size, np.inf)
    before = np.full(size, -1)
    done = np.zeros(size, bool)
    row, column, reached = start, -1, 0.0
    rows, columns = [start], []
    while True:
        step = reached + cost[row] - row_price[row] - column_price
        better = ~done & (step < distance)
        distance[better] = step[better]
        before[better] = row
        column = int(np.argmin(np.where(done, np.inf, distance)))
        reached = float(distance[column])
        done[column] = True
        if row_of[column] < 0:
            break
        columns.append(column)
        row = int(row_of[column])
        rows.append(row)
    row_price[start] += reached
    for visited, via in zip(rows[1:], columns, strict=True):
        row_price[visited] += reached - distance[via]
        column_price[via] -= reached - distance[via]
    while True:
        row = int(before[column])
        row_of[column] = row
        if row == start:
            return
        # The column that this row had goes to the row that came to it.
        column = columns[rows.index(row) - 1]
