"""The loops over rows of calibrated models: features, sums by leaf, tilted shares.

A row's features come from tables that its codes look up::

    codes[slot, row]     12  3  0          tables    | table of age | of job | hinge of age | ...
                          |  |  |                    offset[j] ^ says where that of feature j begins
                          v  v  v
    feature j of a row = tables[offset[j] + codes[slots[j], row]]

Of the linear features of one column at most one is not zero: the number, or the dummy of the level. Tilts know them as
pairs (``Linear`` in calibration.py), so a row costs a pair a column, whatever the number of dummies::

    index, value         by column and code: which feature it is (-1: none), and what it is
    weight               (q, n_classes), C order: a row for each feature

Everything is added in the order of the rows, so nothing depends on threads. While rows are drawn, a code that the
table of a column does not have is that of a level never seen, and has no features; fits have no such codes.
"""

from libc.math cimport log
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "_calibrate_kernels.h" nogil:
    double fs_tilted_shares(const int32_t* index, const double* value, int64_t active, const double* weight,
                            const double* centre, const double* count, double limit, int64_t k, double* share)
    void fs_add_gradient(const int32_t* index, const double* value, int64_t active, const double* left, int64_t k,
                         double* gradient)

# Most columns with linear features, and most classes, of a tilt: they stand on the stack.
MOST_SLOTS = 1024
MOST_CLASSES = 256

ctypedef fused rank_t:
    uint16_t
    uint32_t


cdef check_sizes(int64_t slots, int64_t classes):
    """Refuse more than stands on the stack."""
    if slots > MOST_SLOTS or classes > MOST_CLASSES:
        raise ValueError(f"{slots} columns and {classes} classes: at most {MOST_SLOTS} and {MOST_CLASSES}")


def features(
    const uint16_t[:, :] codes,       # IN (n_slots, n_rows)
    const uint32_t[::1] rows,         # IN (n) of codes
    const int32_t[::1] slots,         # IN (q1) column of each table
    const int64_t[::1] offset,        # IN (q1) where it begins
    const double[::1] tables,         # IN
    const int32_t[:, ::1] pairs,      # IN (q2, 2) features that are multiplied
    double[:, ::1] out,               # OUT (q1 + q2, n)
):
    """Features of some rows, one after the other. O(n (q1 + q2))."""
    cdef int64_t i, j, n = rows.shape[0], q = slots.shape[0]
    cdef int32_t slot
    cdef const double* table
    cdef const double* a
    cdef const double* b
    cdef double* to
    if not n:
        return
    with nogil:
        for j in range(q):
            slot, table, to = slots[j], &tables[offset[j]], &out[j, 0]
            for i in range(n):
                to[i] = table[codes[slot, rows[i]]]
        for j in range(pairs.shape[0]):
            a, b, to = &out[pairs[j, 0], 0], &out[pairs[j, 1], 0], &out[q + j, 0]
            for i in range(n):
                to[i] = a[i] * b[i]


def combine(
    const uint16_t[:, :] codes,       # IN (n_slots, n_rows)
    const uint32_t[::1] rows,         # IN (n) of codes
    const int32_t[::1] slots,         # IN (s) columns
    const int64_t[::1] offset,        # IN (s + 1) where their tables begin and end
    const double[::1] tables,         # IN what each code adds
    const double[::1] numbers,        # IN the number of each code, standardised
    const int32_t[:, ::1] pairs,      # IN (q, 2) places in slots of columns whose numbers are multiplied
    const double[::1] weights,        # IN (q) of the products
    double[::1] out,                  # OUT (n)
):
    """Weighted sums of features that were added up by column beforehand. O(n (s + q)).

    Codes that a table does not have, of levels never seen, add nothing.
    """
    cdef int64_t i, j, n = rows.shape[0], size, other_size
    cdef int32_t slot, other, code, second
    cdef int64_t at, other_at
    cdef double w
    with nogil:
        for i in range(n):
            out[i] = 0
        for j in range(slots.shape[0]):
            slot, at, size = slots[j], offset[j], offset[j + 1] - offset[j]
            for i in range(n):
                code = codes[slot, rows[i]]
                if code < size:
                    out[i] += tables[at + code]
        for j in range(pairs.shape[0]):
            slot, at, size = slots[pairs[j, 0]], offset[pairs[j, 0]], offset[pairs[j, 0] + 1] - offset[pairs[j, 0]]
            other, other_at = slots[pairs[j, 1]], offset[pairs[j, 1]]
            other_size, w = offset[pairs[j, 1] + 1] - other_at, weights[j]
            for i in range(n):
                code, second = codes[slot, rows[i]], codes[other, rows[i]]
                if code < size and second < other_size:
                    out[i] += w * numbers[at + code] * numbers[other_at + second]


def add_by_leaf(
    const double[:, ::1] x,           # IN (q, n)
    const uint32_t[::1] leaf,         # IN (n)
    double[:, ::1] out,               # IN and OUT (n_leaves, q) sums of x
):
    """Add rows to the sums of their leaves. O(n q)."""
    cdef int64_t i, j
    with nogil:
        for j in range(x.shape[0]):
            for i in range(x.shape[1]):
                out[leaf[i], j] += x[j, i]


def count_classes(
    const uint32_t[::1] leaf,         # IN (n)
    const rank_t[::1] ranks,          # IN (n_rows)
    const uint32_t[::1] rows,         # IN (n) of ranks
    const int32_t[::1] class_of,      # IN (n_ranks) class of each rank
    double[:, ::1] out,               # IN and OUT (n_leaves, k)
):
    """Count the rows of each class in each leaf. O(n)."""
    cdef int64_t i
    with nogil:
        for i in range(leaf.shape[0]):
            out[leaf[i], class_of[ranks[rows[i]]]] += 1


def sum_linear(
    const uint16_t[:, :] codes,       # IN (n_slots, n_rows)
    const uint32_t[::1] rows,         # IN (n) of codes
    const uint32_t[::1] leaf,         # IN (n)
    const int32_t[::1] slots,         # IN (s)
    const int64_t[::1] offset,        # IN (s + 1)
    const int32_t[::1] index,         # IN
    const double[::1] value,          # IN
    double[:, ::1] out,               # IN and OUT (n_leaves, q) sums of the linear features
):
    """Add linear features of rows to the sums of their leaves. O(n s)."""
    cdef int64_t i, s, at
    cdef int32_t slot
    with nogil:
        for s in range(slots.shape[0]):
            slot = slots[s]
            for i in range(rows.shape[0]):
                at = offset[s] + codes[slot, rows[i]]
                if index[at] >= 0:
                    out[leaf[i], index[at]] += value[at]


def add_gradient(
    const uint16_t[:, :] codes,       # IN (n_slots, n_rows)
    const uint32_t[::1] rows,         # IN (n) of codes and ranks
    const uint32_t[::1] leaf,         # IN (n)
    const rank_t[::1] ranks,          # IN (n_rows)
    const int32_t[::1] class_of,      # IN (n_ranks)
    const int32_t[::1] slots,         # IN (s)
    const int64_t[::1] offset,        # IN (s + 1)
    const int32_t[::1] index,         # IN
    const double[::1] value,          # IN
    const double[:, ::1] weight,      # IN (q, k)
    const double[:, ::1] centre,      # IN (n_leaves, k)
    const double[:, ::1] counts,      # IN (n_leaves, k)
    double limit,                     # IN of tilts
    double[:, ::1] gradient,          # IN and OUT (q, k) sums of features times what is left of the class indicators
    double[:, ::1] by_leaf,           # IN and OUT (n_leaves, k) sums of what is left
):
    """Add rows to the score of a tilt; the means of the features in the leaves are taken out afterwards. O(n s k).

    Returns
    -------
    float
        Log likelihood of the rows.
    """
    cdef int64_t i, s, at, j, active, k = counts.shape[1]
    cdef double total, likelihood = 0
    cdef double[256] share
    cdef int32_t[1024] which
    cdef double[1024] x
    cdef uint32_t here
    cdef uint32_t row
    check_sizes(slots.shape[0], k)
    with nogil:
        for i in range(rows.shape[0]):
            row, here, active = rows[i], leaf[i], 0
            for s in range(slots.shape[0]):
                at = offset[s] + codes[slots[s], row]
                if at < offset[s + 1] and index[at] >= 0:
                    which[active], x[active] = index[at], value[at]
                    active += 1
            total = fs_tilted_shares(which, x, active, &weight[0, 0], &centre[here, 0], &counts[here, 0], limit, k,
                                     share)
            likelihood += log(share[class_of[ranks[row]]] / total)
            for j in range(k):
                share[j] = -share[j] / total
            share[class_of[ranks[row]]] += 1
            for j in range(k):
                by_leaf[here, j] += share[j]
            fs_add_gradient(which, x, active, share, k, &gradient[0, 0])
    return likelihood


def tilted(
    const uint16_t[:, :] codes,       # IN (n_slots, n_rows)
    const uint32_t[::1] rows,         # IN (n) of codes
    const uint32_t[::1] leaf,         # IN (n)
    const int32_t[::1] slots,         # IN (s)
    const int64_t[::1] offset,        # IN (s + 1)
    const int32_t[::1] index,         # IN
    const double[::1] value,          # IN
    const double[:, ::1] weight,      # IN (q, k)
    const double[:, ::1] centre,      # IN (n_leaves, k)
    const double[:, ::1] counts,      # IN (n_leaves, k)
    double limit,                     # IN of tilts
    const uint64_t[::1] words,        # IN (n) one random word a row; (0) where shares are wanted
    int32_t[::1] chosen,              # OUT (n) a class for each row, or (0)
    double[:, ::1] shares,            # OUT (n, k) shares of the classes, or (0, k)
):
    """Draw a class for each row, or give its shares. O(n s k)."""
    cdef int64_t i, s, at, j, active, k = counts.shape[1]
    cdef bint draw = words.shape[0] > 0
    cdef double total, wanted
    cdef double[256] share
    cdef int32_t[1024] which
    cdef double[1024] x
    cdef uint32_t here
    check_sizes(slots.shape[0], k)
    with nogil:
        for i in range(rows.shape[0]):
            here, active = leaf[i], 0
            for s in range(slots.shape[0]):
                at = offset[s] + codes[slots[s], rows[i]]
                if at < offset[s + 1] and index[at] >= 0:
                    which[active], x[active] = index[at], value[at]
                    active += 1
            total = fs_tilted_shares(which, x, active, &weight[0, 0], &centre[here, 0], &counts[here, 0], limit, k,
                                     share)
            if not draw:
                for j in range(k):
                    shares[i, j] = share[j] / total
                continue
            # The first class whose running share is above; rounding may leave the last one, which then has to have one.
            wanted = <double>(words[i] >> 11) * (1.0 / 9007199254740992.0) * total
            at = -1
            for j in range(k):
                if share[j] > 0:
                    at = j
                    if wanted < share[j]:
                        break
                    wanted -= share[j]
            chosen[i] = <int32_t>at
