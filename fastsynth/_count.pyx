"""Counts of groups of rows, and of their combinations in pairs and triples of columns.

A column is a row of numbers of groups, of which it has at most 255. Tables stand one behind the other in one array::

    codes[column, row]    age    2 0 3 1 ...           out   | age x sex   | age x region      | sex x region | ...
                          sex    1 0 1 1 ...                 ^             ^
                          region 7 7 0 2 ...                 offset[0]     offset[1]

    a row's cell of the table of columns a, b and c = offset + (codes[a] * width[b] + codes[b]) * width[c] + codes[c]

Rows go in blocks: while a block of all columns stays in the cache, every table takes its two or three columns of it.
Counts are integers, also those by weight, so they are the same however the rows are cut.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

# Rows of a block: 20 columns of it fill a twelfth of a cache of 1 MiB, 200 columns most of it.
cdef enum:
    _BLOCK = 4096


def tabulate(
    const uint8_t[:, ::1] codes,      # IN (n_columns, n_rows) group of each row
    const int32_t[:, ::1] columns,    # IN (n_tables, 3) columns of each table; -1 where it has fewer
    const int32_t[::1] widths,        # IN (n_columns) groups of each column: every code is below
    const int64_t[::1] offset,        # IN (n_tables) where each table begins
    const int64_t[::1] weights,       # IN (n_rows) or (0): what each row counts; empty: 1
    int64_t[::1] out,                 # IN and OUT (n_cells) counts
):
    """Add rows to tables. O(n_tables n_rows)."""
    cdef int64_t block, start, stop, t, i, n = codes.shape[1], wb = 1, wc = 1
    cdef const uint8_t* a
    cdef const uint8_t* b
    cdef const uint8_t* c
    cdef const int64_t* weight = NULL
    cdef int64_t* table
    if not n or not columns.shape[0]:
        return
    if weights.shape[0]:
        weight = &weights[0]
    with nogil:
        for block in range((n + _BLOCK - 1) // _BLOCK):
            start = block * _BLOCK
            stop = min(n, start + _BLOCK)
            for t in range(columns.shape[0]):
                table, a = &out[offset[t]], &codes[columns[t, 0], 0]
                b = c = NULL
                if columns[t, 1] >= 0:
                    b, wb = &codes[columns[t, 1], 0], widths[columns[t, 1]]
                if columns[t, 2] >= 0:
                    c, wc = &codes[columns[t, 2], 0], widths[columns[t, 2]]
                if b == NULL:
                    for i in range(start, stop):
                        table[a[i]] += weight[i] if weight else 1
                elif c == NULL:
                    if weight:
                        for i in range(start, stop):
                            table[a[i] * wb + b[i]] += weight[i]
                    else:
                        for i in range(start, stop):
                            table[a[i] * wb + b[i]] += 1
                else:
                    for i in range(start, stop):
                        table[(a[i] * wb + b[i]) * wc + c[i]] += weight[i] if weight else 1


def cut(
    const double[::1] values,         # IN (n)
    const double[::1] edges,          # IN (n_edges) ascending, at most 254
    int first,                        # group of values up to the first edge
    int missing,                      # group of NaN
    uint8_t[::1] out,                 # OUT (n) first + how many edges lie below the value
):
    """Put numbers into groups. O(n n_edges), several values at a time."""
    cdef int64_t block, start, stop, i, j, n = values.shape[0]
    cdef double edge
    cdef uint8_t lowest = <uint8_t> first, nan = <uint8_t> missing
    with nogil:
        for block in range((n + _BLOCK - 1) // _BLOCK):
            start = block * _BLOCK
            stop = min(n, start + _BLOCK)
            for i in range(start, stop):
                out[i] = lowest
            for j in range(edges.shape[0]):
                edge = edges[j]
                for i in range(start, stop):
                    out[i] += values[i] > edge
            for i in range(start, stop):
                if values[i] != values[i]:
                    out[i] = nan
