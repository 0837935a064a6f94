"""The kernel: grow a CART on coded columns, walk rows to leaves, draw donors.

It sees arrays of codes and nothing else: no column names, no options, no tables.

Terms
-----
code
    uint16 number of a value. Code 0 means missing, the values follow in their order (1, 2, ...).
slot
    Row of the code block, ``codes[slot, row]``. A model uses some of the slots as predictors.
node, leaf
    One 8-byte record. Both children of a node stand side by side; children come after their parent.
donor
    A training row that lends its value. After growing, the rows of a node are one contiguous slice of
    ``order``, so that permutation *is* the donor table::

        order   | 7 3 9 | 1 4 | 0 2 5 | 6 8 |        nodes   {feature, threshold, left}
                  leaf A  leaf B leaf C leaf D       a leaf  {LEAF, -, start of its slice in order}

    A node's feature field holds the slot and three flags::

        bit 15     unordered: the levels that go left stand in the level table
        bit 14     missing goes right (the comparison is made on code - 1, so that 0 wraps to 65535)
        bit 13     no training row was missing here: a missing value goes left with probability n_left / n
        bits 0-12  slot (at most 8190)

    Level table of an unordered node, uint32 words from ``level_start[node]`` on::

        | lowest level | span           | two bits a level: seen, left | ...      (dense)
        | -            | count, bit 31  | level << 1 | left            | ...      (sparse, sorted)

Arguments are marked ``# IN``, ``# OUT`` or ``# IN and OUT``. Nothing inside ``nogil`` can fail; callers
check shapes and ranges. Memory is numpy's, sized before the loop: at most n // minbucket leaves.

References
----------
Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees.
Coppersmith, Hong and Hosking (1999), Partitioning nominal attributes in decision trees, DMKD 3:197.
Twala, Jones and Hand (2008), Good methods for coping with missing data in decision trees, PRL 29:950.
"""

from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

cdef packed struct node_t:
    uint16_t feature    # slot and flags; LEAF for a leaf
    uint16_t threshold  # ordered: codes up to this go left
    uint32_t left       # left child, the right one follows it; for a leaf, its first donor

NODE = np.dtype([("feature", "<u2"), ("threshold", "<u2"), ("left", "<u4")])
LEAF = 0xFFFF
MAX_SLOTS = 8190
MAX_CODES = 65535
UNORDERED_SPLIT = 0x8000
MISSING_RIGHT = 0x4000
MISSING_UNSEEN = 0x2000

# Flags of a predictor, for ``kinds``.
UNORDERED = 1
HAS_MISSING = 2

cdef uint16_t _LEAF = 0xFFFF
cdef uint16_t _UNORDERED = 0x8000
cdef uint16_t _MISSING_RIGHT = 0x4000
cdef uint16_t _MISSING_UNSEEN = 0x2000
cdef uint16_t _SLOT = 0x1FFF
cdef uint8_t _UNORDERED_KIND = 1
cdef uint8_t _HAS_MISSING_KIND = 2
cdef uint32_t _SPARSE = 0x80000000

# A node with 4 times fewer rows than the predictor has codes is sorted, a larger one is counted: either
# way the cost of a node is O(rows), never O(codes).
cdef int64_t _DENSE = 4
cdef int64_t _POWER_ITERATIONS = 16


# The split found in a node. Only numbers, so that it can live on the C stack.
cdef struct split_t:
    double score        # n times the gain; negative when no cut is allowed
    int32_t predictor   # position in features
    int32_t threshold   # as stored in the node
    int32_t flags
    int64_t n_left


# Everything a fit works on. Rows are kept as records that are reordered while the tree grows, so a
# node is always a contiguous run of them:
#
#     record[i*p : i*p + p] | y[i] | order[i]      for i in [lo, hi)
cdef struct work_t:
    int64_t p
    int64_t minbucket
    int64_t n_classes        # 0 for a numeric target
    uint16_t* record         # (n, p) codes
    int64_t* y               # (n) scaled integer, or class id
    uint32_t* order          # (n) position of the row among the training rows
    # by code
    int64_t* code_count      # (codes) zero between uses
    int64_t* code_sum        # (codes) likewise
    uint8_t* goes_left       # (codes) likewise
    # by group: the distinct codes of one predictor in one node, ascending
    uint16_t* group_code
    int64_t* group_count
    int64_t* group_sum       # numeric: sum of y
    int64_t* group_start     # classes: first of the group's class ids in sorted_y
    double* group_key
    uint16_t* group_order
    uint16_t* merge_order    # scratch of the sort
    uint16_t* best_levels    # codes that go left in the best unordered split
    # by row of the node
    uint32_t* key            # (min(n, codes)) code << 16 | position
    uint32_t* key_scratch
    int64_t* sorted_y        # (n) class ids by group
    # by class
    int64_t* total           # (classes) rows of the node in each class
    int64_t* left            # (classes) zero between uses
    int64_t* present         # classes that occur in the node
    double* direction        # (classes)
    double* next_direction   # (classes)


cdef inline void swap_rows(work_t* w, int64_t a, int64_t b) noexcept nogil:
    cdef int64_t j, p = w.p
    cdef uint16_t code
    cdef uint16_t* ra = w.record + a * p
    cdef uint16_t* rb = w.record + b * p
    for j in range(p):
        code = ra[j]
        ra[j] = rb[j]
        rb[j] = code
    w.y[a], w.y[b] = w.y[b], w.y[a]
    w.order[a], w.order[b] = w.order[b], w.order[a]


cdef void sort_keys(uint32_t* key, uint32_t* scratch, int64_t n) noexcept nogil:
    """Sort by the upper 16 bits, stable: two counting passes, or insertion for a few. O(n)."""
    cdef int64_t i, j, total, c
    cdef uint32_t x
    cdef int shift
    cdef int64_t[256] count
    if n <= 48:
        for i in range(1, n):
            x = key[i]
            j = i
            while j > 0 and key[j - 1] > x:
                key[j] = key[j - 1]
                j -= 1
            key[j] = x
        return
    for shift in range(16, 32, 8):
        memset(count, 0, sizeof(count))
        for i in range(n):
            count[(key[i] >> shift) & 255] += 1
        total = 0
        for i in range(256):
            c = count[i]
            count[i] = total
            total += c
        for i in range(n):
            x = key[i]
            scratch[count[(x >> shift) & 255]] = x
            count[(x >> shift) & 255] += 1
        memcpy(key, scratch, n * sizeof(uint32_t))


cdef void sort_groups(const double* key, uint16_t* order, uint16_t* scratch, int64_t n) noexcept nogil:
    """Order 0..n-1 by key, ties by position: bottom-up merge sort. O(n log n)."""
    cdef int64_t width = 1, lo, mid, hi, i, j, t
    for i in range(n):
        order[i] = <uint16_t>i
    while width < n:
        lo = 0
        while lo < n:
            mid = min(lo + width, n)
            hi = min(lo + 2 * width, n)
            i = lo
            j = mid
            for t in range(lo, hi):
                if i < mid and (j >= hi or key[order[i]] <= key[order[j]]):
                    scratch[t] = order[i]
                    i += 1
                else:
                    scratch[t] = order[j]
                    j += 1
            lo = hi
        memcpy(order, scratch, n * sizeof(uint16_t))
        width *= 2


cdef int64_t group_rows(work_t* w, int64_t lo, int64_t hi, int64_t f, int64_t n_codes) noexcept nogil:
    """Distinct codes of predictor f in [lo, hi), ascending, with counts and sums (or class ids).

    Returns the number of groups. O(rows): large nodes are counted by code, small ones sorted.
    """
    cdef int64_t i, c, g = 0, start = 0, n = hi - lo, p = w.p
    cdef uint16_t* record = w.record + lo * p + f
    cdef int64_t* y = w.y + lo
    cdef bint classes = w.n_classes > 0
    if n_codes <= _DENSE * n or n_codes <= 64:
        if classes:
            for i in range(n):
                w.code_count[record[i * p]] += 1
        else:
            for i in range(n):
                c = record[i * p]
                w.code_count[c] += 1
                w.code_sum[c] += y[i]
        for c in range(n_codes):
            if w.code_count[c] == 0:
                continue
            w.group_code[g] = <uint16_t>c
            w.group_count[g] = w.code_count[c]
            w.group_sum[g] = w.code_sum[c]
            w.group_start[g] = start
            w.code_sum[c] = start       # from here on: where the next class id of this code goes
            start += w.code_count[c]
            w.code_count[c] = 0
            g += 1
        if classes:
            for i in range(n):
                c = record[i * p]
                w.sorted_y[w.code_sum[c]] = y[i]
                w.code_sum[c] += 1
        for i in range(g):
            w.code_sum[w.group_code[i]] = 0
        return g
    for i in range(n):
        w.key[i] = (<uint32_t>record[i * p] << 16) | <uint32_t>i
    sort_keys(w.key, w.key_scratch, n)
    for i in range(n):
        c = w.key[i] >> 16
        if i == 0 or c != w.group_code[g - 1]:
            w.group_code[g] = <uint16_t>c
            w.group_count[g] = 0
            w.group_sum[g] = 0
            w.group_start[g] = i
            g += 1
        w.group_count[g - 1] += 1
        if classes:
            w.sorted_y[i] = y[w.key[i] & 0xFFFF]
        else:
            w.group_sum[g - 1] += y[w.key[i] & 0xFFFF]
    return g


cdef void score_means(work_t* w, int64_t groups, int64_t n, int64_t total) noexcept nogil:
    """Key of each group: its mean. Ordering by it is optimal for two-class and numeric targets (Fisher 1958)."""
    cdef int64_t g, centre = total // n
    for g in range(groups):
        w.group_key[g] = <double>(w.group_sum[g] - w.group_count[g] * centre) / <double>w.group_count[g]


cdef void score_classes(work_t* w, int64_t groups, int64_t n, int64_t n_present) noexcept nogil:
    """Key of each group: its class shares projected on their first principal component.

    The component of S = sum_g w_g (P_g - pbar)(P_g - pbar)' is found by power iterations that never form S
    (Coppersmith, Hong and Hosking 1999). O(rows) an iteration, whatever the number of classes.

    1. start from the group that differs most from the rest, 2. project, 3. sum back, 4. stop when still.
    """
    cdef int64_t g, i, k, step, first, last
    cdef int64_t best = 0
    cdef double x, share, mean, squares, pbar2 = 0, worst = -1, norm, moved
    cdef double* v = w.direction
    cdef double* u = w.next_direction
    for i in range(n_present):
        x = <double>w.total[w.present[i]] / n
        pbar2 += x * x
    # 1. |P_g - pbar|^2 = sum P_gk^2 - 2 P_g.pbar + |pbar|^2, weighted by the size of the group
    for g in range(groups):
        first = w.group_start[g]
        last = first + w.group_count[g]
        squares = 0
        mean = 0
        for i in range(first, last):
            k = w.sorted_y[i]
            squares += 2 * w.left[k] + 1
            w.left[k] += 1
            mean += <double>w.total[k]
        for i in range(first, last):
            w.left[w.sorted_y[i]] = 0
        share = <double>w.group_count[g]
        x = share * (squares / (share * share) - 2 * mean / (share * n) + pbar2)
        if x > worst:
            worst = x
            best = g
    for i in range(n_present):
        k = w.present[i]
        v[k] = -<double>w.total[k] / n
    for i in range(w.group_start[best], w.group_start[best] + w.group_count[best]):
        v[w.sorted_y[i]] += 1.0 / w.group_count[best]
    norm = 0
    for i in range(n_present):
        norm += v[w.present[i]] * v[w.present[i]]
    norm = 1 / sqrt(norm) if norm > 0 else 0
    for i in range(n_present):
        v[w.present[i]] *= norm
    for step in range(_POWER_ITERATIONS + 1):
        # 2. the score of a group is the mean of v over its rows, less the mean over the node
        mean = 0
        for i in range(n_present):
            mean += v[w.present[i]] * w.total[w.present[i]]
        mean /= n
        for g in range(groups):
            x = 0
            for i in range(w.group_start[g], w.group_start[g] + w.group_count[g]):
                x += v[w.sorted_y[i]]
            w.group_key[g] = x / w.group_count[g] - mean
        if step == _POWER_ITERATIONS:
            break
        # 3. S v = (1 / n) sum over rows of score(group of row) e(class of row)
        for i in range(n_present):
            u[w.present[i]] = 0
        for g in range(groups):
            x = w.group_key[g]
            for i in range(w.group_start[g], w.group_start[g] + w.group_count[g]):
                u[w.sorted_y[i]] += x
        norm = 0
        for i in range(n_present):
            norm += u[w.present[i]] * u[w.present[i]]
        if norm == 0:
            break
        norm = 1 / sqrt(norm)
        # 4. S is positive semidefinite, so v and S v point to the same side
        moved = 0
        for i in range(n_present):
            k = w.present[i]
            x = u[k] * norm
            moved += (x - v[k]) * (x - v[k])
            v[k] = x
        if moved < 1e-12:
            break


cdef void sweep(work_t* w, int64_t f, int64_t groups, int64_t first, int64_t n, int64_t total, int64_t squares,
                bint unordered, split_t* best) noexcept nogil:
    """Move the groups to the left one after the other, keep the first best cut. O(rows).

    ``first`` = 1 holds the missing group (code 0) on the right. A cut is scored by n times its gain:
    d^2 / (n_left n_right) with d = n sum_left - n_left sum, for classes with d^2 summed over the class
    indicators. The sums are integers (y is scaled), so no order of addition can change a tree.
    """
    cdef int64_t g, at, i, k, c = 0, cum = 0, st = 0
    cdef int64_t centre = 0, rest = 0
    cdef double d, score, cd, nd = <double>n
    cdef bint classes = w.n_classes > 0
    cdef int64_t low, high
    if not classes:
        centre = total // n
        rest = total - n * centre
    for g in range(first, groups - (1 if first == 0 else 0)):
        at = w.group_order[g] if unordered else g
        c += w.group_count[at]
        if classes:
            for i in range(w.group_start[at], w.group_start[at] + w.group_count[at]):
                k = w.sorted_y[i]
                cum += 2 * w.left[k] + 1
                w.left[k] += 1
                st += w.total[k]
        else:
            cum += w.group_sum[at] - w.group_count[at] * centre
        if c < w.minbucket:
            continue
        if n - c < w.minbucket:
            break
        cd = <double>c
        if classes:
            score = nd * nd * <double>cum - 2 * nd * cd * <double>st + cd * cd * <double>squares
        else:
            d = nd * <double>cum - cd * <double>rest
            score = d * d
        score /= cd * (nd - cd)
        if score > best.score:
            best.score = score
            best.predictor = <int32_t>f
            best.n_left = c
            if unordered:
                best.flags = _UNORDERED
                best.threshold = <int32_t>g
                for i in range(g + 1):
                    w.best_levels[i] = w.group_code[w.group_order[i]]
            elif first == 1:
                # the missing code 0 wraps to 65535 when 1 is subtracted, all others keep their order
                low = w.group_code[g]
                high = w.group_code[g + 1] if g + 1 < groups else low
                best.flags = _MISSING_RIGHT
                best.threshold = <int32_t>((low + high) // 2 - 1)
            else:
                low = w.group_code[g]
                high = w.group_code[g + 1]
                best.flags = 0
                best.threshold = 0 if low == 0 else <int32_t>((low + high) // 2)
    if classes:
        for i in range(n):
            w.left[w.sorted_y[i]] = 0


cdef split_t best_split(work_t* w, int64_t lo, int64_t hi, const int32_t* n_codes,
                        const uint8_t* kinds) noexcept nogil:
    """Best cut of the node [lo, hi). Ties: first predictor, then lowest cut, then missing to the left.

    1. totals of the node; a pure node has no cut
    2. for each predictor: group its codes, order the groups, sweep (twice when some are missing)
    """
    cdef split_t best
    cdef int64_t i, k, f, groups, n = hi - lo
    cdef int64_t total = 0, squares = 0, n_present = 0
    cdef bint pure = True
    best.score = -1
    best.predictor = -1
    best.threshold = 0
    best.flags = 0
    best.n_left = 0
    if n < 2 * w.minbucket:
        return best
    # 1.
    for i in range(lo, hi):
        if w.y[i] != w.y[lo]:
            pure = False
            break
    if pure:
        return best
    if w.n_classes > 0:
        for i in range(lo, hi):
            k = w.y[i]
            if w.total[k] == 0:
                w.present[n_present] = k
                n_present += 1
            w.total[k] += 1
        for i in range(n_present):
            squares += w.total[w.present[i]] * w.total[w.present[i]]
    else:
        for i in range(lo, hi):
            total += w.y[i]
    # 2.
    for f in range(w.p):
        groups = group_rows(w, lo, hi, f, n_codes[f])
        if groups < 2:
            continue
        if kinds[f] & _UNORDERED_KIND:
            if w.n_classes > 0:
                score_classes(w, groups, n, n_present)
            else:
                score_means(w, groups, n, total)
            sort_groups(w.group_key, w.group_order, w.merge_order, groups)
            sweep(w, f, groups, 0, n, total, squares, True, &best)
            continue
        sweep(w, f, groups, 0, n, total, squares, False, &best)
        if w.group_code[0] == 0:
            sweep(w, f, groups, 1, n, total, squares, False, &best)
        elif best.predictor == f and kinds[f] & _HAS_MISSING_KIND:
            best.flags = _MISSING_UNSEEN
    for i in range(n_present):
        w.total[w.present[i]] = 0
    return best


cdef double impurity(work_t* w, int64_t n) noexcept nogil:
    """Sum of squares about the mean of all rows, or n times their Gini impurity."""
    cdef int64_t i, total = 0, centre
    cdef double x, squares = 0
    if w.n_classes > 0:
        for i in range(n):
            squares += 2 * w.left[w.y[i]] + 1
            w.left[w.y[i]] += 1
        memset(w.left, 0, w.n_classes * sizeof(int64_t))
        return n - squares / n
    for i in range(n):
        total += w.y[i]
    centre = total // n
    for i in range(n):
        x = <double>(w.y[i] - centre)
        squares += x * x
    x = <double>(total - n * centre)
    return squares - x * x / n


cdef int64_t partition(work_t* w, int64_t lo, int64_t hi, const split_t* split) noexcept nogil:
    """Bring the rows of the left child to the front, in place. Returns where the right child starts."""
    cdef int64_t p = w.p, i = lo, j = hi - 1, t, f = split.predictor
    cdef uint16_t shift = 1 if split.flags & _MISSING_RIGHT else 0
    cdef uint16_t threshold = <uint16_t>split.threshold
    cdef uint16_t* record = w.record
    if split.flags & _UNORDERED:
        for t in range(split.threshold + 1):
            w.goes_left[w.best_levels[t]] = 1
        while True:
            while i <= j and w.goes_left[record[i * p + f]]:
                i += 1
            while i <= j and not w.goes_left[record[j * p + f]]:
                j -= 1
            if i > j:
                break
            swap_rows(w, i, j)
        for t in range(split.threshold + 1):
            w.goes_left[w.best_levels[t]] = 0
        return i
    while True:
        while i <= j and <uint16_t>(record[i * p + f] - shift) <= threshold:
            i += 1
        while i <= j and <uint16_t>(record[j * p + f] - shift) > threshold:
            j -= 1
        if i > j:
            break
        swap_rows(w, i, j)
    return i


cdef int64_t level_words(work_t* w, const node_t* nodes, const uint32_t* start, const uint32_t* count, int64_t n_nodes,
                         const int32_t* slot_predictor, int64_t* level_start, uint32_t* table) noexcept nogil:
    """Size of the level tables of all unordered nodes; written too when ``table`` is given. O(rows x depth).

    The rows of a node are still one slice, its left child's first, so the levels that went left can be
    read off after growing; nothing has to be kept while the tree grows.
    """
    cdef int64_t node, i, f, c, lo, mid, hi, n_levels, low, high, words, used = 0
    cdef uint32_t* out
    for node in range(n_nodes):
        level_start[node] = used
        if nodes[node].feature == _LEAF or not nodes[node].feature & _UNORDERED:
            continue
        f = slot_predictor[nodes[node].feature & _SLOT]
        lo = start[node]
        hi = lo + count[node]
        mid = lo + count[nodes[node].left]
        n_levels = 0
        low = 65535
        high = 0
        for i in range(lo, hi):
            c = w.record[i * w.p + f]
            if w.goes_left[c] == 0:
                w.group_code[n_levels] = <uint16_t>c
                n_levels += 1
                if c < low:
                    low = c
                if c > high:
                    high = c
            w.goes_left[c] = 1 if i < mid else 2
        words = (high - low) // 16 + 1
        if words <= n_levels:
            if table != NULL:
                out = table + used
                out[0] = <uint32_t>low
                out[1] = <uint32_t>(high - low + 1)
                memset(out + 2, 0, words * sizeof(uint32_t))
                for i in range(n_levels):
                    c = w.group_code[i] - low
                    out[2 + (c >> 4)] |= <uint32_t>(3 if w.goes_left[c + low] == 1 else 1) << (2 * (c & 15))
        else:
            words = n_levels
            if table != NULL:
                out = table + used
                out[0] = 0
                out[1] = <uint32_t>n_levels | _SPARSE
                for i in range(n_levels):
                    w.key[i] = <uint32_t>w.group_code[i] << 16
                sort_keys(w.key, w.key_scratch, n_levels)
                for i in range(n_levels):
                    c = w.key[i] >> 16
                    out[2 + i] = <uint32_t>(c << 1) | (1 if w.goes_left[c] == 1 else 0)
        for i in range(n_levels):
            w.goes_left[w.group_code[i]] = 0
        used += words + 2
    return used


def grow(
    const uint16_t[:, ::1] codes,     # IN (n_slots, n_rows)
    const int32_t[::1] features,      # IN (p) slots used as predictors, in the order that breaks ties
    const int32_t[::1] n_codes,       # IN (p) number of codes of each, missing included
    const uint8_t[::1] kinds,         # IN (p) UNORDERED | HAS_MISSING
    const uint32_t[::1] rows,         # IN (n) training rows, repeats allowed
    const int64_t[::1] y,             # IN (n) target of each training row: scaled integer, or class id
    int64_t n_classes,                # 0 for a numeric target
    int64_t minbucket,
    double cp,                        # smallest gain of a split, as a share of the root's impurity
):
    """Grow one tree.

    Depth first on an explicit stack, the smaller child first, so the stack holds at most log2(n) nodes
    and a chain of any length works. A node is split when its best gain (sum of squares, or rows times Gini
    impurity) is at least ``cp`` times that of the root. O(n p depth) time; 2 p + 24 bytes a row of workspace,
    more for class targets.

    Returns
    -------
    nodes : ndarray of shape (n_nodes,), dtype=NODE
    count : ndarray of shape (n_nodes,), dtype=uint32
        Training rows of each node.
    level_start : ndarray of shape (n_nodes,) or (0,), dtype=int64
        First word of each unordered node in ``levels``; empty when no split is unordered.
    levels : ndarray of shape (n_words,), dtype=uint32
    order : ndarray of shape (n,), dtype=uint32
        Positions in ``rows`` by leaf; a leaf's ``left`` is where its slice starts.
    """
    cdef int64_t n = rows.shape[0], p = features.shape[0]
    cdef int64_t max_nodes = 2 * max(n // minbucket, 1) + 1
    cdef int64_t widest = max(np.max(n_codes), 1) if p else 1
    cdef int64_t groups = min(n, widest) + 1
    cdef int64_t n_k = max(n_classes, 1)
    cdef int64_t n_y = n if n_classes > 0 else 1
    record_ = np.empty(max(n * p, 1), np.uint16)
    y_ = np.array(y, np.int64)
    order_ = np.arange(n, dtype=np.uint32)
    nodes_ = np.zeros(max_nodes, NODE)
    start_ = np.zeros(max_nodes, np.uint32)
    count_ = np.zeros(max_nodes, np.uint32)
    by_code_ = np.zeros((2, widest), np.int64)
    goes_left_ = np.zeros(widest, np.uint8)
    group_codes_ = np.empty((4, groups), np.uint16)
    group_ints_ = np.empty((3, groups), np.int64)
    group_key_ = np.empty(groups, np.float64)
    key_ = np.empty((2, groups), np.uint32)
    sorted_y_ = np.empty(n_y, np.int64)
    by_class_ = np.zeros((3, n_k), np.int64)
    direction_ = np.zeros((2, n_k), np.float64)
    slot_predictor_ = np.zeros(MAX_SLOTS + 1, np.int32)
    if p:
        slot_predictor_[np.asarray(features)] = np.arange(p, dtype=np.int32)

    cdef uint16_t[::1] record = record_
    cdef int64_t[::1] yv = y_
    cdef uint32_t[::1] order = order_
    cdef node_t[::1] nodes = nodes_
    cdef uint32_t[::1] start = start_
    cdef uint32_t[::1] count = count_
    cdef int64_t[:, ::1] by_code = by_code_
    cdef uint8_t[::1] goes_left = goes_left_
    cdef uint16_t[:, ::1] group_codes = group_codes_
    cdef int64_t[:, ::1] group_ints = group_ints_
    cdef double[::1] group_key = group_key_
    cdef uint32_t[:, ::1] key = key_
    cdef int64_t[::1] sorted_y = sorted_y_
    cdef int64_t[:, ::1] by_class = by_class_
    cdef double[:, ::1] direction = direction_
    cdef int32_t[::1] slot_predictor = slot_predictor_

    cdef work_t w
    w.p = p
    w.minbucket = minbucket
    w.n_classes = n_classes
    w.record = &record[0]
    w.y = &yv[0]
    w.order = &order[0]
    w.code_count = &by_code[0, 0]
    w.code_sum = &by_code[1, 0]
    w.goes_left = &goes_left[0]
    w.group_code = &group_codes[0, 0]
    w.group_order = &group_codes[1, 0]
    w.merge_order = &group_codes[2, 0]
    w.best_levels = &group_codes[3, 0]
    w.group_count = &group_ints[0, 0]
    w.group_sum = &group_ints[1, 0]
    w.group_start = &group_ints[2, 0]
    w.group_key = &group_key[0]
    w.key = &key[0, 0]
    w.key_scratch = &key[1, 0]
    w.sorted_y = &sorted_y[0]
    w.total = &by_class[0, 0]
    w.left = &by_class[1, 0]
    w.present = &by_class[2, 0]
    w.direction = &direction[0, 0]
    w.next_direction = &direction[1, 0]

    cdef int64_t[64] stack
    cdef int64_t depth, node, child, lo, hi, mid, f, i, b, block, n_nodes = 1, n_unordered = 0
    cdef double min_gain
    cdef split_t split
    cdef const int32_t* n_codes_p = &n_codes[0] if p else NULL
    cdef const uint8_t* kinds_p = &kinds[0] if p else NULL
    with nogil:
        # Fill the records block by block, predictor by predictor, so that both sides stay in cache.
        for b in range(0, n, 256):
            block = min(b + 256, n)
            for f in range(p):
                for i in range(b, block):
                    w.record[i * p + f] = codes[features[f], rows[i]]
        count[0] = <uint32_t>n
        min_gain = cp * impurity(&w, n)
        depth = 1
        stack[0] = 0
        while depth > 0:
            depth -= 1
            node = stack[depth]
            while True:
                lo = start[node]
                hi = lo + count[node]
                split = best_split(&w, lo, hi, n_codes_p, kinds_p)
                if split.predictor < 0 or split.score < min_gain * <double>(hi - lo):
                    nodes[node].feature = _LEAF
                    nodes[node].threshold = 0
                    nodes[node].left = <uint32_t>lo
                    break
                mid = partition(&w, lo, hi, &split)
                child = n_nodes
                n_nodes += 2
                n_unordered += (split.flags & _UNORDERED) != 0
                nodes[node].feature = <uint16_t>(features[split.predictor] | split.flags)
                nodes[node].threshold = 0 if split.flags & _UNORDERED else <uint16_t>split.threshold
                nodes[node].left = <uint32_t>child
                start[child] = <uint32_t>lo
                count[child] = <uint32_t>(mid - lo)
                start[child + 1] = <uint32_t>mid
                count[child + 1] = <uint32_t>(hi - mid)
                # The larger child waits while the smaller is grown: at most log2(n) nodes wait.
                if mid - lo <= hi - mid:
                    stack[depth] = child + 1
                    node = child
                else:
                    stack[depth] = child
                    node = child + 1
                depth += 1

    if n_unordered == 0:
        level_start_ = np.zeros(0, np.int64)
        levels_ = np.zeros(0, np.uint32)
    else:
        level_start_ = np.zeros(n_nodes, np.int64)
        levels_ = _level_table(&w, nodes, start, count, n_nodes, slot_predictor, level_start_)
    return nodes_[:n_nodes].copy(), count_[:n_nodes].copy(), level_start_, levels_, order_


cdef _level_table(work_t* w, node_t[::1] nodes, uint32_t[::1] start, uint32_t[::1] count, int64_t n_nodes,
                  int32_t[::1] slot_predictor, level_start_):
    cdef int64_t[::1] level_start = level_start_
    cdef int64_t words
    with nogil:
        words = level_words(w, &nodes[0], &start[0], &count[0], n_nodes, &slot_predictor[0], &level_start[0], NULL)
    levels_ = np.zeros(words, np.uint32)
    cdef uint32_t[::1] levels = levels_
    with nogil:
        level_words(w, &nodes[0], &start[0], &count[0], n_nodes, &slot_predictor[0], &level_start[0], &levels[0])
    return levels_


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of x moves every bit of the result."""
    x ^= x >> 30
    x *= <uint64_t>0xBF58476D1CE4E5B9
    x ^= x >> 27
    x *= <uint64_t>0x94D049BB133111EB
    x ^= x >> 31
    return x


cdef inline bint chance(uint64_t word, uint32_t node, uint32_t n_left, uint32_t n) noexcept nogil:
    """True with probability n_left / n, from the row's own random word and the node."""
    cdef uint64_t x = mix(word + <uint64_t>0x9E3779B97F4A7C15 * (<uint64_t>node + 1))
    return (((x >> 32) * n) >> 32) < n_left


# One finished tree as raw pointers, and the codes of the rows that walk down it.
cdef struct walk_t:
    const node_t* nodes
    const uint32_t* count
    const int64_t* level_start
    const uint32_t* levels
    const uint16_t* codes
    int64_t slots            # codes of one row stand side by side: codes[row * slots + slot]


cdef inline int side_of_level(const uint32_t* table, uint32_t code) noexcept nogil:
    """1 left, 0 right, -1 for a level that no training row of the node had."""
    cdef uint32_t r, n, bits, lo, hi, mid
    if table[1] & _SPARSE:
        lo = 0
        n = table[1] & ~_SPARSE
        hi = n
        while lo < hi:
            mid = (lo + hi) >> 1
            if (table[2 + mid] >> 1) < code:
                lo = mid + 1
            else:
                hi = mid
        if lo < n and (table[2 + lo] >> 1) == code:
            return table[2 + lo] & 1
        return -1
    if code < table[0]:
        return -1
    r = code - table[0]
    if r >= table[1]:
        return -1
    bits = table[2 + (r >> 4)] >> (2 * (r & 15))
    if not bits & 1:
        return -1
    return (bits >> 1) & 1


cdef inline uint32_t walk(const walk_t* t, int64_t row, uint64_t word) noexcept nogil:
    """The leaf of a row. Depth-many steps; a level unseen at a node goes left with probability n_left / n."""
    cdef uint32_t node = 0
    cdef uint16_t feature, code
    cdef int side
    cdef const uint16_t* codes = t.codes + row * t.slots
    while True:
        feature = t.nodes[node].feature
        if feature == _LEAF:
            return node
        code = codes[feature & _SLOT]
        if feature & _UNORDERED:
            side = side_of_level(t.levels + t.level_start[node], code)
        elif feature & _MISSING_UNSEEN and code == 0:
            side = -1
        else:
            side = <uint16_t>(code - (1 if feature & _MISSING_RIGHT else 0)) <= t.nodes[node].threshold
        if side < 0:
            side = chance(word, node, t.count[t.nodes[node].left], t.count[node])
        node = t.nodes[node].left + (1 - side)


def apply(
    const node_t[::1] nodes,          # IN (n_nodes)
    const uint32_t[::1] count,        # IN (n_nodes)
    const int64_t[::1] level_start,   # IN (n_nodes) or (0)
    const uint32_t[::1] levels,       # IN
    const uint16_t[:, ::1] codes,     # IN (n_rows, n_slots)
    const uint32_t[::1] rows,         # IN (n) rows of codes to walk
    const uint64_t[::1] words,        # IN (n) one random word a row
    uint32_t[::1] leaf,               # OUT (n) node number of the leaf
):
    """Walk rows down the tree. O(n depth)."""
    cdef int64_t i, n = rows.shape[0]
    cdef walk_t t = _walker(nodes, count, level_start, levels, codes)
    with nogil:
        for i in range(n):
            leaf[i] = walk(&t, rows[i], words[i])


ctypedef fused value_t:
    uint16_t
    uint32_t


def draw(
    const node_t[::1] nodes,          # IN (n_nodes)
    const uint32_t[::1] count,        # IN (n_nodes)
    const int64_t[::1] level_start,   # IN (n_nodes) or (0)
    const uint32_t[::1] levels,       # IN
    const value_t[::1] donors,        # IN (n_donors) the target's values by leaf
    const uint16_t[:, ::1] codes,     # IN (n_rows, n_slots)
    const uint32_t[::1] rows,         # IN (n) rows of codes to draw for
    const uint64_t[::1] words,        # IN (n) one random word a row
    value_t[::1] out,                 # OUT (n_rows) out[rows[i]] is drawn, the others stay
):
    """Draw one donor of its leaf for each row, with replacement. O(n depth).

    The upper half of the row's random word picks the donor; where a coin is needed on the way down, it comes
    from a hash of the whole word and the node.
    """
    cdef int64_t i, row, n = rows.shape[0]
    cdef uint32_t node
    cdef uint64_t word
    cdef walk_t t = _walker(nodes, count, level_start, levels, codes)
    with nogil:
        for i in range(n):
            row = rows[i]
            word = words[i]
            node = walk(&t, row, word)
            out[row] = donors[nodes[node].left + (((word >> 32) * count[node]) >> 32)]


cdef walk_t _walker(const node_t[::1] nodes, const uint32_t[::1] count, const int64_t[::1] level_start,
                    const uint32_t[::1] levels, const uint16_t[:, ::1] codes):
    cdef walk_t t
    t.nodes = &nodes[0]
    t.count = &count[0]
    t.level_start = &level_start[0] if level_start.shape[0] else NULL
    t.levels = &levels[0] if levels.shape[0] else NULL
    t.codes = &codes[0, 0] if codes.shape[0] and codes.shape[1] else NULL
    t.slots = codes.shape[1]
    return t
