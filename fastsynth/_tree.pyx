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
                  leaf A  leaf B leaf C leaf D       a leaf  {LEAF, rows, start of its slice in order}

    A node's feature field holds the slot and three flags::

        bit 15     unordered: which levels go left is told below
        bit 14     missing goes right (the comparison is made on code - 1, so that 0 wraps to 65535)
        bit 13     no training row was missing here: a missing value goes left with probability n_left / n
        bits 0-12  slot (at most 8190)

    Levels of an unordered node: for a predictor of up to 32 codes, ``level_mask[node]`` holds bit c for a level c that
    goes left and bit 32 + c for one that a training row of the node had. For others its threshold is 1, and
    ``level_mask[node]`` is where its table starts in ``levels``, uint32 words::

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

from libc.math cimport nextafter, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

cdef extern from "_tree_kernels.h" nogil:
    void fs_add_numeric(const uint8_t* record, int64_t n, int64_t stride, int64_t y_at, int64_t p,
                        const int32_t* offset, double sign, double* hist)
    void fs_add_classes(const uint8_t* record, int64_t n, int64_t stride, int64_t y_at, int64_t p,
                        const int32_t* offset, int32_t sign, int64_t k, int32_t* hist)
    void fs_subtract_numeric(double* hist, const double* part, int64_t n)
    void fs_subtract_classes(int32_t* hist, const int32_t* part, int64_t n)
    void fs_scores(const double* sums, const double* counts, int64_t bins, double n, double total, double minbucket,
                   double* score)
    void fs_class_scores(const int32_t* left, const double* counts, int64_t bins, int64_t k, double n,
                         const double* total, double minbucket, double* score)
    void fs_sort_lanes(uint32_t* key, int64_t lanes, const uint8_t* network, int64_t steps)
    void fs_score_lanes(const uint32_t* key, int64_t rows, int64_t lanes, int32_t total, const float* weight,
                        int32_t* sums, float* score, float* most)
    ctypedef struct fs_node:
        pass
    ctypedef struct fs_tree:
        const fs_node* nodes
        const uint32_t* count
        const uint64_t* level_mask
        const uint32_t* levels
        const uint16_t* codes
        int64_t slots
    void fs_walk(const fs_tree* tree, const uint32_t* rows, const uint64_t* words, int64_t n, uint32_t* leaf)
    void fs_run_numeric(const double* hist, int64_t bins, double* sums, double* counts)
    void fs_run_classes(const int32_t* hist, int64_t bins, int64_t k, int32_t* run, double* counts)
    int64_t fs_first_largest(const double* score, int64_t n)
    int64_t fs_walk_classes(const uint32_t* key, int64_t n, int64_t lanes, int64_t minbucket, const uint32_t* mates,
                            const int32_t* size, int32_t squares, double* best)
    int64_t fs_walk_counts(const uint32_t* key, int64_t n, int64_t lanes, int64_t minbucket, const int32_t* class_id,
                           const int32_t* size, int32_t squares, int32_t* left, double* best)
    void fs_level_scores(const int32_t* table, const uint16_t* level, int64_t groups, int64_t k, const double* total,
                         double n, int64_t iterations, double* v, double* u, double* size, double* key)
    int64_t fs_partition_bytes(uint8_t* base, int64_t n, int64_t stride, int64_t at, uint16_t shift, uint16_t threshold)
    int64_t fs_partition_words(uint8_t* base, int64_t n, int64_t stride, int64_t at, uint16_t shift, uint16_t threshold)
    int64_t fs_partition_byte_levels(uint8_t* base, int64_t n, int64_t stride, int64_t at, const uint8_t* side)
    int64_t fs_partition_word_levels(uint8_t* base, int64_t n, int64_t stride, int64_t at, const uint8_t* side)

cdef packed struct node_t:
    uint16_t feature    # slot and flags; LEAF for a leaf
    uint16_t threshold  # ordered: codes up to this go left; for a leaf, its rows, at most 65535
    uint32_t left       # left child, the right one follows it; for a leaf, its first donor

NODE = np.dtype([("feature", "<u2"), ("threshold", "<u2"), ("left", "<u4")])
MAX_SLOTS = 8190
MAX_CODES = 65535

PREDICTOR = np.dtype(
    [
        (name, "<i4")
        for name in ("n_codes", "offset", "bins", "fine_at", "wide", "unordered", "has_missing", "place", "used",
                     "used_right", "direct")
    ]
)

BLOCK = np.dtype([(name, "<i8") for name in ("first", "last", "n_bins", "lane", "n_lanes", "fine", "n_fine")])

cdef enum:
    _LEAF = 0xFFFF
    _UNORDERED = 0x8000
    _MISSING_RIGHT = 0x4000
    _MISSING_UNSEEN = 0x2000
    _SLOT = 0x1FFF
    # Flags of a predictor, for ``kinds``.
    _UNORDERED_KIND = 1
    _HAS_MISSING_KIND = 2

LEAF = _LEAF
UNORDERED_SPLIT = _UNORDERED
SLOT = _SLOT
UNORDERED = _UNORDERED_KIND
HAS_MISSING = _HAS_MISSING_KIND

cdef uint32_t _SPARSE = 0x80000000

# In the direct search a node with 4 times fewer rows than the predictor has codes is sorted, a larger one is
# counted: either way the cost of a node is O(rows), never O(codes).
cdef int64_t _DENSE = 4
cdef int64_t _POWER_ITERATIONS = 8
# Iterations in nodes of at most 32 rows: their splits decide little, and there are very many of them.
cdef int64_t _TINY_POWER_ITERATIONS = 2

# Largest nodes that are sorted by a network instead of counted in a histogram.
cdef int64_t _TINY = 64
cdef int64_t _TINY_CLASSES = 32
cdef int64_t _TINY_BLOCKED = 128
# A class histogram larger than this is slower than the direct search.
cdef int64_t _HISTOGRAM_BYTES = 256 * 1024
# More predictors than this are searched block by block, if there are not very many classes.
cdef int64_t _MANY = 64
cdef int64_t _BLOCK = 32
cdef int64_t _BLOCKED_CLASSES = 32
# Bits of the target in a record, and the range below which a node's targets are scaled anew.
cdef int64_t _Y_BITS = 28
cdef int64_t _Y_COARSE = 1 << 12
# Coarse cuts of wide predictors are refined when they reach this share of the best exact one.
cdef double _REFINE = 0.5


# The split found in a node. Only numbers, so that it can live on the C stack.
cdef struct split_t:
    double score        # n times the gain; negative when no cut is allowed
    int32_t predictor   # position in features
    int32_t threshold   # as stored in the node
    int32_t flags
    int32_t n_levels    # unordered: levels that go left, the first of best_levels; -1 where the ranks tell


# A predictor while a tree grows.
cdef packed struct predictor_t:
    int32_t n_codes
    int32_t offset      # first bin of its segment in a histogram
    int32_t bins        # bins of the segment
    int32_t fine_at     # where its 16-bit code stands in a record, -1 if the byte is the code
    int32_t wide        # number among the wide ordered predictors, -1 for others
    int32_t unordered
    int32_t has_missing
    int32_t place       # in the scan of a histogram: first place, and number of places,
    int32_t used        # with missing on its left or wherever its code falls,
    int32_t used_right  # and with missing held right
    int32_t direct      # searched directly: unordered with more than 256 levels, or too many classes


# Predictors first ... last - 1, where their lanes start in all_lanes, and those with 16-bit codes in all_fine.
cdef packed struct block_t:
    int64_t first
    int64_t last
    int64_t n_bins
    int64_t lane
    int64_t n_lanes
    int64_t fine
    int64_t n_fine


# Everything a fit works on. Rows are kept as records that are reordered while the tree grows, so a node is always
# a contiguous run of them:
#
#     byte 0        p           p + 2 h    +4      +8 (padded to 8)
#      | bin  u8 x p | fine u16 x h | y i32 | row u32 |
#        every         predictors     target  position among the training rows
#        predictor     of more than
#        (up to 256    256 codes
#        codes: the
#        code)
#
# The bin of a wide predictor is 0 for missing and 1 + ((fine - base) >> shift) else, where base and shift belong
# to the node: they are handed down, and narrowed as soon as the occupied bins span half of what fits.
#
# A histogram is one segment of bins for each predictor, {sum of y, rows} for a numeric target and rows by class
# else. It is built for the smaller child only; the larger child's is the parent's less that.
#
# The histogram of hundreds of predictors leaves the cache, so they are cut into blocks, which are searched one after
# the other in every node. Nothing is handed down then, and nodes are sorted by a network up to twice the size:
#
#     | predictors of block 0 | block 1 | ... |      lanes:  | block 0, its missing lanes, pad | block 1 ... |
cdef struct work_t:
    int64_t p
    int64_t stride
    int64_t y_at
    int64_t row_at
    int64_t minbucket
    int64_t n_classes        # 0 for a numeric target
    int64_t k                # classes rounded up to 4, bins are padded with zeros
    int64_t n_bins           # of the largest block
    int64_t n_blocks
    int64_t tiny             # largest node that is sorted by a network
    # of the current block: its predictors, and its lanes: one for each, and one for each with missing values
    int64_t first
    int64_t last
    int64_t n_lanes
    const int32_t* lane_predictor
    int64_t n_fine           # predictors with 16-bit codes
    const int32_t* fine
    const block_t* block
    const int32_t* all_lanes
    const int32_t* all_fine
    int64_t n_wide
    int64_t n_direct
    int64_t n_unordered      # others than direct ones
    bint use_histogram
    predictor_t* predictor
    int32_t* offset          # (p) as in predictor
    uint8_t* record
    # target in full precision: y[rank[row[i]]] for position i among the training rows
    const int64_t* y
    const uint16_t* rank16   # one of the two is NULL
    const uint32_t* rank32
    const uint32_t* row
    int64_t y_bits           # bits of the target in a record
    int64_t y_shift          # y of the current node = (y - centre) >> y_shift
    # histograms
    double* numeric          # (slots, 2 n_bins)
    int32_t* counts          # (slots, k n_bins)
    int32_t* base            # (n_wide) of the current node
    int32_t* shift
    # scan of a histogram: running sums, an ordinary segment and one with missing held right for each predictor
    double* run_sum
    double* run_count
    int32_t* run_class       # (2 n_bins, k)
    double* score
    int32_t* run_bin         # bin at each place, segments of unordered predictors are ordered
    # tiny nodes
    uint32_t* lane_key       # (128, lanes)
    float* lane_score
    float* lane_most
    int32_t* lane_sum
    float* weight            # (129, 128) by rows and place: 1 / (n_left n_right), 0 where a side is too small
    int64_t lanes            # room for the lanes of a block, in eights
    double* level_size       # (256)
    # the classes of a tiny node, numbered anew, and rows by level and class
    int64_t tiny_k
    double* tiny_total       # (132)
    int32_t* tiny_left       # (132) zero between uses
    int32_t* tiny_table      # (128, 132)
    uint8_t* group_of        # (256) zero between uses
    uint16_t* identity       # (128) 0, 1, 2, ...
    uint8_t* rank            # (p, 256) order of the levels of unordered predictors in the current node
    uint8_t* network         # steps of all sorting networks
    int64_t* network_start   # (130)
    # direct search
    uint16_t* node_code      # (n)
    int64_t* node_y          # (n)
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
    double* total_double     # (k) likewise
    int64_t* left            # (classes) zero between uses
    int64_t* present         # classes that occur in the node
    double* direction        # (classes)
    double* next_direction   # (classes)


cdef inline int32_t y_of(const work_t* w, int64_t i) noexcept nogil:
    cdef int32_t y
    memcpy(&y, w.record + i * w.stride + w.y_at, 4)
    return y


cdef inline int64_t exact_y(const work_t* w, int64_t i) noexcept nogil:
    """Target of the training row at position i among them."""
    return w.y[w.rank16[w.row[i]] if w.rank32 == NULL else w.rank32[w.row[i]]]


cdef inline uint32_t row_of(const work_t* w, int64_t i) noexcept nogil:
    cdef uint32_t row
    memcpy(&row, w.record + i * w.stride + w.row_at, 4)
    return row


cdef inline int64_t code_of(const work_t* w, int64_t i, int64_t f) noexcept nogil:
    cdef uint16_t code
    if w.predictor[f].fine_at < 0:
        return w.record[i * w.stride + f]
    memcpy(&code, w.record + i * w.stride + w.predictor[f].fine_at, 2)
    return code


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


cdef int64_t group_rows(work_t* w, int64_t lo, int64_t hi, int64_t f) noexcept nogil:
    """Distinct codes of predictor f in [lo, hi), ascending, with counts and sums (or class ids).

    Returns the number of groups. O(rows): large nodes are counted by code, small ones sorted.
    """
    cdef int64_t i, c, g = 0, start = 0, n = hi - lo, n_codes = w.predictor[f].n_codes
    cdef uint16_t* code = w.node_code
    cdef int64_t* y = w.node_y
    cdef bint classes = w.n_classes > 0
    for i in range(n):
        code[i] = <uint16_t>code_of(w, lo + i, f)
    if n_codes <= _DENSE * n or n_codes <= 64:
        if classes:
            for i in range(n):
                w.code_count[code[i]] += 1
        else:
            for i in range(n):
                c = code[i]
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
                c = code[i]
                w.sorted_y[w.code_sum[c]] = y[i]
                w.code_sum[c] += 1
        for i in range(g):
            w.code_sum[w.group_code[i]] = 0
        return g
    for i in range(n):
        w.key[i] = (<uint32_t>code[i] << 16) | <uint32_t>i
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


cdef inline bint better(const split_t* best, double score, int64_t f) noexcept nogil:
    """A strictly larger score wins; among equals the first predictor, and within it the cut found first."""
    return score > best.score or (score == best.score and f < best.predictor)


cdef inline void set_threshold(const predictor_t* at, int64_t low, int64_t high, bint right, bint missing_here,
                               split_t* best) noexcept nogil:
    """Cut between two codes: half way, so that a value between them goes to the nearer."""
    if right:
        # the missing code 0 wraps to 65535 when 1 is subtracted, all others keep their order
        best.flags = _MISSING_RIGHT
        best.threshold = <int32_t>((low + high) // 2 - 1)
    else:
        best.flags = _MISSING_UNSEEN if at.has_missing and not missing_here else 0
        best.threshold = 0 if low == 0 else <int32_t>((low + high) // 2)


cdef void sweep(work_t* w, int64_t f, int64_t groups, int64_t first, int64_t n, int64_t total, int64_t squares,
                bint unordered, split_t* best) noexcept nogil:
    """Move the groups to the left one after the other, keep the first best cut. O(rows).

    ``first`` = 1 holds the missing group (code 0) on the right; the cut missing | rest is left to the ordinary sweep.
    A cut is scored by n times its gain: d^2 / (n_left n_right) with d = n sum_left - n_left sum, for classes with
    d^2 summed over the class indicators. The sums are integers (y is scaled): their order cannot matter.
    """
    cdef int64_t g, at, i, k, c = 0, cum = 0, st = 0
    cdef int64_t centre = 0, rest = 0
    cdef double d, score, cd, nd = <double>n
    cdef bint classes = w.n_classes > 0
    cdef int64_t low, high
    if not classes:
        centre = total // n
        rest = total - n * centre
    for g in range(first, groups - 1):
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
            score = max(score, 0)       # it is a sum of squares, but for rounding
        else:
            d = nd * <double>cum - cd * <double>rest
            score = d * d
        score /= cd * (nd - cd)
        if better(best, score, f):
            best.score = score
            best.predictor = <int32_t>f
            if unordered:
                best.flags = _UNORDERED
                best.n_levels = <int32_t>(g + 1)
            else:
                low = w.group_code[g]
                high = w.group_code[g + 1]
                set_threshold(&w.predictor[f], low, high, first == 1, w.group_code[0] == 0, best)
    if classes:
        for i in range(n):
            w.left[w.sorted_y[i]] = 0


cdef void search_directly(work_t* w, int64_t lo, int64_t hi, bint everything, split_t* best) noexcept nogil:
    """Best cut by grouping the rows of each predictor: exact for every kind of predictor and target, O(rows) each.

    For predictors that have no place in histograms, and for all when there are too many classes.
    """
    cdef int64_t i, k, f, groups, n = hi - lo
    cdef int64_t total = 0, squares = 0, n_present = 0
    cdef predictor_t* at
    for i in range(n):
        w.node_y[i] = y_of(w, lo + i)
    if w.n_classes > 0:
        for i in range(n):
            k = w.node_y[i]
            if w.total[k] == 0:
                w.present[n_present] = k
                n_present += 1
            w.total[k] += 1
        for i in range(n_present):
            squares += w.total[w.present[i]] * w.total[w.present[i]]
    else:
        for i in range(n):
            total += w.node_y[i]
    for f in range(w.p):
        at = &w.predictor[f]
        if not (everything or at.direct):
            continue
        groups = group_rows(w, lo, hi, f)
        if groups < 2:
            continue
        if at.unordered:
            if w.n_classes > 0:
                score_classes(w, groups, n, n_present)
            else:
                score_means(w, groups, n, total)
            sort_groups(w.group_key, w.group_order, w.merge_order, groups)
            sweep(w, f, groups, 0, n, total, squares, True, best)
            if best.predictor == f:
                for i in range(best.n_levels):
                    w.best_levels[i] = w.group_code[w.group_order[i]]
            continue
        sweep(w, f, groups, 0, n, total, squares, False, best)
        if w.group_code[0] == 0:
            sweep(w, f, groups, 1, n, total, squares, False, best)
    for i in range(n_present):
        w.total[w.present[i]] = 0


# ---- histograms

cdef void enter_block(work_t* w, int64_t block) noexcept nogil:
    w.first = w.block[block].first
    w.last = w.block[block].last
    w.n_lanes = w.block[block].n_lanes
    w.lane_predictor = w.all_lanes + w.block[block].lane
    w.n_fine = w.block[block].n_fine
    w.fine = w.all_fine + w.block[block].fine


cdef void add_rows(work_t* w, int64_t lo, int64_t hi, int64_t slot, int32_t sign) noexcept nogil:
    """Add the rows [lo, hi) to a histogram of the current block, or take them out one by one (sign = -1)."""
    cdef const uint8_t* record = w.record + lo * w.stride + w.first
    cdef const int32_t* offset = w.offset + w.first
    cdef int64_t p = w.last - w.first, y_at = w.y_at - w.first
    if w.n_classes > 0:
        fs_add_classes(record, hi - lo, w.stride, y_at, p, offset, sign, w.k, w.counts + slot * w.k * w.n_bins)
    else:
        fs_add_numeric(record, hi - lo, w.stride, y_at, p, offset, <double>sign, w.numeric + slot * 2 * w.n_bins)


cdef void build_histogram(work_t* w, int64_t lo, int64_t hi, int64_t slot) noexcept nogil:
    """Histogram of the rows [lo, hi) for the predictors of the current block."""
    if w.n_classes > 0:
        memset(w.counts + slot * w.k * w.n_bins, 0, w.k * w.n_bins * sizeof(int32_t))
    else:
        memset(w.numeric + slot * 2 * w.n_bins, 0, 2 * w.n_bins * sizeof(double))
    add_rows(w, lo, hi, slot, 1)


cdef void subtract_histogram(work_t* w, int64_t slot, int64_t part) noexcept nogil:
    if w.n_classes > 0:
        fs_subtract_classes(w.counts + slot * w.k * w.n_bins, w.counts + part * w.k * w.n_bins, w.k * w.n_bins)
    else:
        fs_subtract_numeric(w.numeric + slot * 2 * w.n_bins, w.numeric + part * 2 * w.n_bins, 2 * w.n_bins)


cdef inline int64_t rows_in_bin(const work_t* w, int64_t slot, int64_t bin) noexcept nogil:
    cdef int64_t k, n = 0
    cdef const int32_t* counts
    if w.n_classes == 0:
        return <int64_t>w.numeric[(slot * w.n_bins + bin) * 2 + 1]
    counts = w.counts + (slot * w.n_bins + bin) * w.k
    for k in range(w.k):
        n += counts[k]
    return n


cdef inline uint8_t bin_of(const work_t* w, int64_t wide, int64_t fine) noexcept nogil:
    return 0 if fine == 0 else <uint8_t>(1 + ((fine - w.base[wide]) >> w.shift[wide]))


cdef void narrow_bins(work_t* w, int64_t lo, int64_t hi, int64_t slot) noexcept nogil:
    """Give wide predictors whose occupied bins span half of what fits bins half as wide or less.

    Before the histogram is handed down, so that the children's stays the difference. At most 8 times on a path.
    """
    cdef int64_t f, i, bin, low, high, span, shift
    cdef const predictor_t* at
    cdef uint8_t* row
    cdef double* numeric
    cdef int32_t* counts
    for f in range(w.first, w.last):
        at = &w.predictor[f]
        if at.wide < 0 or w.shift[at.wide] == 0:
            continue
        low = 1
        while low < 256 and rows_in_bin(w, slot, at.offset + low) == 0:
            low += 1
        if low == 256:
            continue
        high = 255
        while rows_in_bin(w, slot, at.offset + high) == 0:
            high -= 1
        if high - low + 1 > 127:
            continue
        shift = w.shift[at.wide]
        span = (high - low + 1) << shift
        w.base[at.wide] += <int32_t>((low - 1) << shift)
        while shift > 0 and ((span - 1) >> (shift - 1)) < 255:
            shift -= 1
        w.shift[at.wide] = <int32_t>shift
        if w.n_classes > 0:
            counts = w.counts + (slot * w.n_bins + at.offset) * w.k
            memset(counts, 0, 256 * w.k * sizeof(int32_t))
            for i in range(lo, hi):
                row = w.record + i * w.stride
                bin = bin_of(w, at.wide, code_of(w, i, f))
                row[f] = <uint8_t>bin
                counts[bin * w.k + y_of(w, i)] += 1
        else:
            numeric = w.numeric + (slot * w.n_bins + at.offset) * 2
            memset(numeric, 0, 256 * 2 * sizeof(double))
            for i in range(lo, hi):
                row = w.record + i * w.stride
                bin = bin_of(w, at.wide, code_of(w, i, f))
                row[f] = <uint8_t>bin
                numeric[2 * bin] += y_of(w, i)
                numeric[2 * bin + 1] += 1


cdef int64_t order_levels(work_t* w, int64_t slot, int64_t f, int64_t n, double total) noexcept nogil:
    """Order the levels of an unordered predictor that the node has, in group_code and group_order; returns how many."""
    cdef const predictor_t* at = &w.predictor[f]
    cdef int64_t b, groups = 0
    cdef const double* numeric = w.numeric + (slot * w.n_bins + at.offset) * 2
    cdef const int32_t* counts = w.counts + (slot * w.n_bins + at.offset) * w.k
    cdef double centre = total / n
    for b in range(at.bins):
        if w.n_classes > 0:
            if rows_in_bin(w, slot, at.offset + b) == 0:
                continue
        elif numeric[2 * b + 1] == 0:
            continue
        else:
            w.group_key[groups] = (numeric[2 * b] - centre * numeric[2 * b + 1]) / numeric[2 * b + 1]
        w.group_code[groups] = <uint16_t>b
        groups += 1
    if groups < 3:
        w.group_order[0] = 0
        w.group_order[1] = 1
        return groups
    if w.n_classes > 0:
        fs_level_scores(counts, w.group_code, groups, w.k, w.total_double, n, _POWER_ITERATIONS, w.direction,
                        w.next_direction, w.level_size, w.group_key)
    sort_groups(w.group_key, w.group_order, w.merge_order, groups)
    return groups


cdef int64_t run_segment(work_t* w, int64_t slot, int64_t f, int64_t at_place, bint hold_missing, int64_t n,
                         double total) noexcept nogil:
    """Running sums over the bins of a predictor, from place ``at_place`` on. Returns the number of places used."""
    cdef const predictor_t* at = &w.predictor[f]
    cdef int64_t i, k, b, groups = at.bins, place = at_place
    cdef double s = 0, c = 0
    cdef const double* numeric = w.numeric + (slot * w.n_bins + at.offset) * 2
    cdef const int32_t* counts = w.counts + (slot * w.n_bins + at.offset) * w.k
    cdef int32_t* run
    cdef const int32_t* last
    if not at.unordered:
        b = 1 if hold_missing else 0
        groups = at.bins - b
        if w.n_classes > 0:
            fs_run_classes(counts + b * w.k, groups, w.k, w.run_class + place * w.k, w.run_count + place)
        else:
            fs_run_numeric(numeric + 2 * b, groups, w.run_sum + place, w.run_count + place)
        for i in range(groups):
            w.run_bin[place + i] = <int32_t>(b + i)
        return groups
    groups = order_levels(w, slot, f, n, total)
    for i in range(groups):
        b = w.group_code[w.group_order[i]]
        if w.n_classes > 0:
            run = w.run_class + place * w.k
            last = run - w.k
            if place == at_place:
                for k in range(w.k):
                    run[k] = counts[b * w.k + k]
            else:
                for k in range(w.k):
                    run[k] = last[k] + counts[b * w.k + k]
            c += rows_in_bin(w, slot, at.offset + b)
        else:
            s += numeric[2 * b]
            c += numeric[2 * b + 1]
            w.run_sum[place] = s
        w.run_count[place] = c
        w.run_bin[place] = <int32_t>b
        place += 1
    return place - at_place


cdef void search_histogram(work_t* w, int64_t lo, int64_t hi, int64_t slot, split_t* best) noexcept nogil:
    """Best cut of a node by the histogram of the current block. O(bins), and a pass over the rows for a wide predictor.

    1. running sums of all predictors, and once more with missing held right where some are missing
    2. scores of all places at once
    3. best place of each predictor; a wide one's is coarse while a bin holds several codes
    4. the best coarse cut is made exact when it comes near the best exact one
    """
    cdef int64_t f, i, place = 0, n = hi - lo, narrowest = -1, n_places, start, used
    cdef int64_t coarse_f = -1, coarse_place = 0, coarse_used = 0
    cdef bint coarse_right = False
    cdef double total = 0, coarse = -1, score
    cdef int64_t k, b
    cdef predictor_t* at
    for f in range(w.first, w.last):
        if not w.predictor[f].direct and (narrowest < 0 or w.predictor[f].bins < w.predictor[narrowest].bins):
            narrowest = f
    if narrowest < 0:
        return
    at = &w.predictor[narrowest]
    if w.n_classes > 0:
        for k in range(w.k):
            w.total_double[k] = 0
        for b in range(at.bins):
            for k in range(w.k):
                w.total_double[k] += w.counts[(slot * w.n_bins + at.offset + b) * w.k + k]
    else:
        for b in range(at.bins):
            total += w.numeric[(slot * w.n_bins + at.offset + b) * 2]
    # 1.
    for f in range(w.first, w.last):
        at = &w.predictor[f]
        at.place = <int32_t>place
        at.used = 0
        at.used_right = 0
        if at.direct:
            continue
        at.used = <int32_t>run_segment(w, slot, f, place, False, n, total)
        place += at.used
        if at.has_missing and not at.unordered and rows_in_bin(w, slot, at.offset) > 0:
            at.used_right = <int32_t>run_segment(w, slot, f, place, True, n, total)
            place += at.used_right
    n_places = place
    # 2.
    if w.n_classes > 0:
        fs_class_scores(w.run_class, w.run_count, n_places, w.k, n, w.total_double, w.minbucket, w.score)
    else:
        fs_scores(w.run_sum, w.run_count, n_places, n, total, w.minbucket, w.score)
    # 3.
    for f in range(w.first, w.last):
        at = &w.predictor[f]
        for i in range(2):
            start = at.place + (at.used if i else 0)
            used = at.used_right if i else at.used
            if used == 0:
                continue
            if i == 1:
                # With missing held right, the cut after the last value is the cut missing | rest once more.
                while used > 0 and w.run_count[start + used - 1] == w.run_count[start + at.used_right - 1]:
                    used -= 1
                if used == 0:
                    continue
            place = start + fs_first_largest(w.score + start, used)
            score = w.score[place]
            if score < 0:
                continue
            if at.wide >= 0 and w.shift[at.wide] > 0 and (i == 1 or w.run_bin[place] > 0):
                if score > coarse:
                    coarse = score
                    coarse_f = f
                    coarse_place = place
                    coarse_used = start + (at.used_right if i else at.used)
                    coarse_right = i
            elif better(best, score, f):
                set_bin_cut(w, slot, f, start, place, start + (at.used_right if i else at.used), i, score, best)
    # 4.
    if coarse_f >= 0 and coarse >= _REFINE * best.score:
        refine(w, lo, hi, slot, coarse_f, coarse_place, coarse_used, coarse_right, total, best)


cdef void set_bin_cut(work_t* w, int64_t slot, int64_t f, int64_t start, int64_t place, int64_t end, bint right,
                      double score, split_t* best) noexcept nogil:
    """Note a cut after ``place`` as the best: its threshold in codes, or the order of the levels."""
    cdef const predictor_t* at = &w.predictor[f]
    cdef int64_t i, b, low, high
    best.score = score
    best.predictor = <int32_t>f
    if at.unordered:
        best.flags = _UNORDERED
        best.n_levels = <int32_t>(place - start + 1)
        for i in range(start, place + 1):
            w.best_levels[i - start] = <uint16_t>w.run_bin[i]
        return
    b = w.run_bin[place]
    low = b if at.wide < 0 or b == 0 else w.base[at.wide] + b - 1
    high = low
    for i in range(place + 1, end):
        if w.run_count[i] > w.run_count[i - 1]:
            b = w.run_bin[i]
            high = b if at.wide < 0 else w.base[at.wide] + b - 1
            break
    set_threshold(at, low, high, right, rows_in_bin(w, slot, at.offset) > 0, best)


cdef void refine(work_t* w, int64_t lo, int64_t hi, int64_t slot, int64_t f, int64_t place, int64_t end, bint right,
                 double total, split_t* best) noexcept nogil:
    """Find the exact cut near a coarse one: among the codes of its bin and the next occupied bin. O(rows)."""
    cdef const predictor_t* at = &w.predictor[f]
    cdef int64_t i, k, c, first = w.run_bin[place], last = first, n = hi - lo, low_code, span, code
    cdef int64_t before = -1
    cdef double s = 0, rows = 0, score, d
    cdef bint classes = w.n_classes > 0, missing_here = rows_in_bin(w, slot, at.offset) > 0
    for i in range(place + 1, end):
        if w.run_count[i] > w.run_count[i - 1]:
            last = w.run_bin[i]
            break
    low_code = w.base[at.wide] + ((first - 1) << w.shift[at.wide])
    span = (last - first + 1) << w.shift[at.wide]
    # Rows before the first of the two bins; the first place of a segment has none before it.
    if first > 1 or not right:
        i = place - 1
        rows = w.run_count[i] if place > at.place + (at.used if right else 0) else 0
        if rows > 0:
            if classes:
                for k in range(w.k):
                    w.left[k] = w.run_class[i * w.k + k]
            else:
                s = w.run_sum[i]
    if classes:
        # one group of class ids for each code, in the order of the codes
        for i in range(lo, hi):
            c = w.record[i * w.stride + f]
            if c == first or c == last:
                w.code_count[code_of(w, i, f) - low_code] += 1
        k = 0
        for c in range(span):
            w.code_sum[c] = k
            k += w.code_count[c]
        for i in range(lo, hi):
            c = w.record[i * w.stride + f]
            if c == first or c == last:
                c = code_of(w, i, f) - low_code
                w.sorted_y[w.code_sum[c]] = y_of(w, i)
                w.code_sum[c] += 1
    else:
        for i in range(lo, hi):
            c = w.record[i * w.stride + f]
            if c == first or c == last:
                code = code_of(w, i, f) - low_code
                w.code_count[code] += 1
                w.code_sum[code] += y_of(w, i)
    i = 0
    for c in range(span):
        if w.code_count[c] == 0:
            continue
        # ``before`` is the code to the left of the cut before code c
        if before >= 0 and rows >= w.minbucket and n - rows >= w.minbucket:
            if classes:
                score = 0
                for k in range(w.k):
                    d = <double>n * w.left[k] - rows * w.total_double[k]
                    score += d * d
            else:
                d = <double>n * s - rows * total
                score = d * d
            score /= rows * (n - rows)
            if better(best, score, f):
                best.score = score
                best.predictor = <int32_t>f
                set_threshold(at, low_code + before, low_code + c, right, missing_here, best)
        before = c
        rows += w.code_count[c]
        if classes:
            while i < w.code_sum[c]:
                w.left[w.sorted_y[i]] += 1
                i += 1
        else:
            s += w.code_sum[c]
        w.code_count[c] = 0
        w.code_sum[c] = 0
    if classes:
        for k in range(w.k):
            w.left[k] = 0


# ---- tiny nodes

cdef void rank_levels(work_t* w, int64_t lo, int64_t n, int64_t f, const int32_t* y, int64_t total) noexcept nogil:
    """Rank the levels of an unordered predictor in a tiny node: by their mean, or for classes by their scores.

    Sets rank[f, code] of the codes that the node has; ties go by code. ``y`` holds the targets of the node's rows, or
    their classes numbered within the node.
    """
    cdef int64_t i, j, c, g, groups = 0, k = w.tiny_k
    cdef uint8_t* rank = w.rank + f * 256
    cdef uint8_t* group_of = w.group_of     # by code: 0 if it was not met yet, else 1 + its group
    cdef uint16_t* code = w.group_code
    cdef double* key = w.group_key
    cdef int64_t* sums = w.group_sum
    cdef int64_t* counts = w.group_count
    cdef const uint8_t* record = w.record + lo * w.stride + f
    cdef double x
    cdef bint unmet
    for i in range(n):
        c = record[i * w.stride]
        unmet = group_of[c] == 0
        code[groups] = <uint16_t>c
        sums[groups] = 0
        counts[groups] = 0
        groups += unmet
        group_of[c] = <uint8_t>groups if unmet else group_of[c]
        g = group_of[c] - 1
        sums[g] += y[i]
        counts[g] += 1
    if groups > 2 and w.n_classes > 0:
        memset(w.tiny_table, 0, groups * k * sizeof(int32_t))
        for i in range(n):
            w.tiny_table[(group_of[record[i * w.stride]] - 1) * k + y[i]] += 1
        fs_level_scores(w.tiny_table, w.identity, groups, k, w.tiny_total, n, _TINY_POWER_ITERATIONS, w.direction,
                        w.next_direction, w.level_size, key)
    else:
        c = total // n
        for g in range(groups):
            key[g] = <double>(sums[g] - counts[g] * c) / <double>counts[g]
    for g in range(groups):
        group_of[code[g]] = 0
        x = key[g]
        c = code[g]
        j = 0
        for i in range(groups):
            j += (key[i] < x) | ((key[i] == x) & (code[i] < c))
        rank[c] = <uint8_t>j


cdef void sort_lanes(work_t* w, int64_t lo, int64_t n, const uint32_t* low_bits) noexcept nogil:
    """Fill the lanes of a tiny node with its keys, code << 16 | low bits of the row, and sort them by a network.

    A lane of an unordered predictor holds ranks of its levels, a second lane of one with missing values holds missing
    as the largest code, and one that is searched directly holds nothing.
    """
    cdef int64_t i, f, lane, code, lanes = w.lanes, p = w.last - w.first
    cdef uint32_t* key
    cdef const uint8_t* row
    cdef const predictor_t* at
    cdef uint16_t fine
    for i in range(n):
        row = w.record + (lo + i) * w.stride
        key = w.lane_key + i * lanes
        for f in range(p):
            key[f] = (<uint32_t>row[w.first + f] << 16) | low_bits[i]
        for f in range(p, lanes):
            key[f] = low_bits[i]
        for f in range(w.n_fine):
            at = &w.predictor[w.fine[f]]
            memcpy(&fine, row + at.fine_at, 2)
            key[w.fine[f] - w.first] = (<uint32_t>fine << 16) | low_bits[i]
    for lane in range(w.n_lanes):
        f = w.lane_predictor[lane]
        at = &w.predictor[f]
        if not (at.direct or at.unordered or lane >= p):
            continue
        for i in range(n):
            key = w.lane_key + i * lanes + lane
            if at.direct:
                code = 0
            elif at.unordered:
                code = w.rank[f * 256 + (key[0] >> 16)]
            else:
                code = code_of(w, lo + i, f)
                if lane >= p and code == 0:
                    code = 0xFFFF
            key[0] = (<uint32_t>code << 16) | low_bits[i]
    fs_sort_lanes(w.lane_key, lanes, w.network + 2 * w.network_start[n], w.network_start[n + 1] - w.network_start[n])


cdef void search_tiny(work_t* w, int64_t lo, int64_t hi, split_t* best) noexcept nogil:
    """Best cut of a tiny node with a numeric target: exact but for y, which has 15 bits here.

    Every lane is one predictor, every row of the matrix one row of the node; the y rides in the key:

        key[row, lane] = code << 16 | (y - smallest y) >> shift

    1. fill, 2. sort all lanes at once by a network, 3. score all cuts in single precision,
    4. score those exactly that can be best.
    """
    cdef int64_t i, j, f, b, n = hi - lo, s = 0, total = 0, shift = 0
    cdef int64_t smallest = y_of(w, lo), largest = smallest
    cdef int32_t[128] y
    cdef uint32_t[128] low_bits
    for i in range(n):
        j = y_of(w, lo + i)
        y[i] = <int32_t>j
        s += j
        smallest = min(smallest, j)
        largest = max(largest, j)
    while ((largest - smallest) >> shift) > 0x7FFF:
        shift += 1
    for i in range(n):
        low_bits[i] = <uint32_t>((y[i] - smallest) >> shift)
        total += low_bits[i]
    for b in range(w.n_blocks):
        enter_block(w, b)
        for f in range(w.first, w.last):
            if w.predictor[f].unordered and not w.predictor[f].direct:
                rank_levels(w, lo, n, f, y, s)
        # 1. and 2.
        sort_lanes(w, lo, n, low_bits)
        # 3.
        fs_score_lanes(w.lane_key, n, w.lanes, <int32_t>total, w.weight + n * 128, w.lane_sum, w.lane_score,
                       w.lane_most)
        # 4.
        best_lane(w, n, total, <double>(1 << shift), best)


cdef void best_lane(work_t* w, int64_t n, int64_t total, double unit, split_t* best) noexcept nogil:
    """Score exactly the cuts of the current block that can be best."""
    cdef int64_t i, f, lane, s, low, high, lanes = w.lanes
    cdef const predictor_t* at
    cdef float most = -1
    cdef double d, score
    cdef bint missing, held
    for lane in range(w.n_lanes):
        most = max(most, w.lane_most[lane])
    if most < 0:
        return
    # Single precision has 24 bits, and three operations were rounded.
    most = most * (<float>1 - <float>1e-6)
    for lane in range(w.n_lanes):
        if w.lane_most[lane] < most:
            continue
        f = w.lane_predictor[lane]
        at = &w.predictor[f]
        held = lane >= w.last - w.first
        s = 0
        for i in range(n - 1):
            s += w.lane_key[i * lanes + lane] & 0xFFFF
            if w.lane_score[i * lanes + lane] < most:
                continue
            if held and (w.lane_key[(i + 1) * lanes + lane] >> 16) == 0xFFFF:
                continue        # missing | rest, as in the ordinary lane
            d = <double>(n * s - (i + 1) * total) * unit
            score = d * d / <double>((i + 1) * (n - i - 1))
            if not better(best, score, f):
                continue
            best.score = score
            best.predictor = <int32_t>f
            low = w.lane_key[i * lanes + lane] >> 16
            high = w.lane_key[(i + 1) * lanes + lane] >> 16
            if at.unordered:
                best.flags = _UNORDERED
                best.n_levels = -1
                best.threshold = <int32_t>low
            else:
                missing = (w.lane_key[lane] >> 16) == 0
                set_threshold(at, low, high, held, missing, best)


cdef void search_tiny_classes(work_t* w, int64_t lo, int64_t hi, split_t* best) noexcept nogil:
    """Best cut of a tiny node with classes: sort lanes as above, then count.

        key[row, lane] = code << 16 | position of the row in the node

    When a row moves to the left, the sum of squared class counts there rises by 2 c + 1, c being the number of rows
    of its class already there. In nodes of up to 32 rows c is a population count of (rows on the left) & (rows of the
    class); in larger ones it is kept by class. Either way the cost does not depend on the number of classes.
    """
    cdef int64_t i, f, b, lane, place, n = hi - lo, lanes = w.lanes, c = 0, low, high
    cdef int32_t squares = 0
    cdef uint32_t[32] mask          # up to 32 rows: rows of each class as bits
    cdef uint32_t[32] mates         # the same by row
    cdef int32_t[128] size          # their number
    cdef int32_t[128] tiny_class    # classes numbered within the node
    cdef int32_t[128] rows          # rows of each
    cdef uint32_t[128] position
    cdef const predictor_t* at
    cdef double score
    cdef bint missing
    for i in range(n):
        position[i] = <uint32_t>i
        low = y_of(w, lo + i)
        if w.total[low] == 0:
            rows[c] = 0
            c += 1
            w.total[low] = c
        tiny_class[i] = <int32_t>(w.total[low] - 1)
        rows[tiny_class[i]] += 1
    for i in range(n):
        w.total[y_of(w, lo + i)] = 0
        size[i] = rows[tiny_class[i]]
        squares += size[i]
    for i in range((c + 3) // 4 * 4):
        w.tiny_total[i] = rows[i] if i < c else 0
    w.tiny_k = (c + 3) // 4 * 4
    if n <= 32:
        memset(mask, 0, sizeof(mask))
        for i in range(n):
            mask[tiny_class[i]] |= <uint32_t>1 << i
        for i in range(n):
            mates[i] = mask[tiny_class[i]]
    for b in range(w.n_blocks):
        enter_block(w, b)
        for f in range(w.first, w.last):
            if w.predictor[f].unordered and not w.predictor[f].direct:
                rank_levels(w, lo, n, f, tiny_class, 0)
        sort_lanes(w, lo, n, position)
        for lane in range(w.n_lanes):
            f = w.lane_predictor[lane]
            at = &w.predictor[f]
            if at.direct:
                continue
            # An equal score wins for an earlier predictor only: lanes of missing values come last.
            score = best.score if best.predictor <= f else nextafter(best.score, -1)
            if n <= 32:
                place = fs_walk_classes(w.lane_key + lane, n, lanes, w.minbucket, mates, size, squares, &score)
            else:
                place = fs_walk_counts(w.lane_key + lane, n, lanes, w.minbucket, tiny_class, size, squares,
                                       w.tiny_left, &score)
                memset(w.tiny_left, 0, c * sizeof(int32_t))
            if place < 0:
                continue
            best.score = score
            best.predictor = <int32_t>f
            low = w.lane_key[place * lanes + lane] >> 16
            high = w.lane_key[(place + 1) * lanes + lane] >> 16
            if at.unordered:
                best.flags = _UNORDERED
                best.n_levels = -1
                best.threshold = <int32_t>low
            else:
                missing = (w.lane_key[lane] >> 16) == 0
                set_threshold(at, low, high, lane >= w.last - w.first, missing, best)


# ---- nodes

cdef bint is_pure(work_t* w, int64_t lo, int64_t hi) noexcept nogil:
    cdef int64_t i
    cdef int32_t first = y_of(w, lo)
    for i in range(lo + 1, hi):
        if y_of(w, i) != first:
            return False
    return True


cdef bint scale_y(work_t* w, int64_t lo, int64_t hi) noexcept nogil:
    """Write the node's targets with all the bits that fit, when its range has become small. O(rows).

    An outlier of 1e12 leaves few bits to the rest until it is split off; then the rest gets them back.
    """
    cdef int64_t i, shift = 0, centre, y, low, high
    cdef int32_t z, least = y_of(w, lo), most = least
    if w.n_classes > 0 or w.y_shift == 0:
        return False
    for i in range(lo, hi):
        z = y_of(w, i)
        least = min(least, z)
        most = max(most, z)
    if <int64_t>most - least >= _Y_COARSE:
        return False
    low = exact_y(w, row_of(w, lo))
    high = low
    for i in range(lo, hi):
        y = exact_y(w, row_of(w, i))
        low = min(low, y)
        high = max(high, y)
    centre = low + (high - low) // 2
    while ((high - centre) >> shift) >> w.y_bits != 0:
        shift += 1
    if shift >= w.y_shift:
        return False
    w.y_shift = shift
    for i in range(lo, hi):
        z = <int32_t>((exact_y(w, row_of(w, i)) - centre) >> shift)
        memcpy(w.record + i * w.stride + w.y_at, &z, 4)
    return True


cdef split_t best_split(work_t* w, int64_t lo, int64_t hi, int64_t slot) noexcept nogil:
    """Best cut of the node [lo, hi), by the search that suits its size. ``slot`` is its histogram, or -1 for none."""
    cdef split_t best
    cdef bint all_direct = False
    cdef int64_t block
    best.score = -1
    best.predictor = -1
    best.threshold = 0
    best.flags = 0
    best.n_levels = 0
    if hi - lo < 2 * w.minbucket or w.p == 0:
        return best
    if slot >= 0:
        search_histogram(w, lo, hi, slot, &best)
    elif w.use_histogram and hi - lo > w.tiny:
        for block in range(w.n_blocks):
            enter_block(w, block)
            build_histogram(w, lo, hi, 0)
            narrow_bins(w, lo, hi, 0)
            search_histogram(w, lo, hi, 0, &best)
    elif is_pure(w, lo, hi):
        return best
    elif not w.use_histogram:
        all_direct = True
    elif w.n_classes > 0:
        search_tiny_classes(w, lo, hi, &best)
    else:
        search_tiny(w, lo, hi, &best)
    if all_direct or w.n_direct > 0:
        search_directly(w, lo, hi, all_direct, &best)
    return best


cdef int64_t partition(work_t* w, int64_t lo, int64_t hi, const split_t* split) noexcept nogil:
    """Bring the rows of the left child to the front, in place. Returns where the right child starts."""
    cdef int64_t i, f = split.predictor, at = w.predictor[f].fine_at
    cdef uint16_t shift = 1 if split.flags & _MISSING_RIGHT else 0
    cdef uint8_t* base = w.record + lo * w.stride
    cdef int64_t left
    if not split.flags & _UNORDERED:
        if at < 0:
            return lo + fs_partition_bytes(base, hi - lo, w.stride, f, shift, <uint16_t>split.threshold)
        return lo + fs_partition_words(base, hi - lo, w.stride, at, shift, <uint16_t>split.threshold)
    if split.n_levels < 0:
        # a tiny node: the levels up to a rank go left
        for i in range(w.predictor[f].n_codes):
            w.goes_left[i] = w.rank[f * 256 + i] <= split.threshold
        left = fs_partition_byte_levels(base, hi - lo, w.stride, f, w.goes_left)
        memset(w.goes_left, 0, w.predictor[f].n_codes)
        return lo + left
    for i in range(split.n_levels):
        w.goes_left[w.best_levels[i]] = 1
    if at < 0:
        left = fs_partition_byte_levels(base, hi - lo, w.stride, f, w.goes_left)
    else:
        left = fs_partition_word_levels(base, hi - lo, w.stride, at, w.goes_left)
    for i in range(split.n_levels):
        w.goes_left[w.best_levels[i]] = 0
    return lo + left


cdef int64_t write_levels(work_t* w, node_t* nodes, const uint32_t* start, const uint32_t* count, int64_t n_nodes,
                          const int32_t* slot_predictor, uint64_t* level_mask, uint32_t* table) noexcept nogil:
    """Write the levels of all unordered nodes, return the words of the tables. O(rows x depth).

    The rows of a node are still one slice, its left child's first, so the levels that went left can be
    read off after growing; nothing has to be kept while the tree grows.
    """
    cdef int64_t node, i, f, c, lo, mid, hi, n_levels, low, high, words, used = 0
    cdef uint64_t mask
    cdef uint32_t* out
    cdef uint16_t* levels = w.group_code
    cdef uint8_t* side = w.goes_left    # by code: 0 not met, 1 left, 2 right
    for node in range(n_nodes):
        level_mask[node] = 0
        if nodes[node].feature == _LEAF or not nodes[node].feature & _UNORDERED:
            continue
        f = slot_predictor[nodes[node].feature & _SLOT]
        lo = start[node]
        hi = lo + count[node]
        mid = lo + count[nodes[node].left]
        if w.predictor[f].n_codes <= 32:
            mask = 0
            for i in range(lo, mid):
                mask |= <uint64_t>0x100000001 << w.record[i * w.stride + f]
            for i in range(mid, hi):
                mask |= <uint64_t>0x100000000 << w.record[i * w.stride + f]
            level_mask[node] = mask
            continue
        nodes[node].threshold = 1
        level_mask[node] = <uint64_t>used
        n_levels = 0
        for i in range(lo, hi):
            c = code_of(w, i, f)
            levels[n_levels] = <uint16_t>c
            n_levels += side[c] == 0
            side[c] = 1 if i < mid else 2
        low = levels[0]
        high = low
        for i in range(1, n_levels):
            low = min(low, levels[i])
            high = max(high, levels[i])
        words = (high - low) // 16 + 1
        out = table + used
        if words <= n_levels:
            out[0] = <uint32_t>low
            out[1] = <uint32_t>(high - low + 1)
            memset(out + 2, 0, words * sizeof(uint32_t))
            for i in range(n_levels):
                c = levels[i] - low
                out[2 + (c >> 4)] |= <uint32_t>(3 if side[c + low] == 1 else 1) << (2 * (c & 15))
        else:
            words = n_levels
            out[0] = 0
            out[1] = <uint32_t>n_levels | _SPARSE
            for i in range(n_levels):
                w.key[i] = <uint32_t>levels[i] << 16
            sort_keys(w.key, w.key_scratch, n_levels)
            for i in range(n_levels):
                c = w.key[i] >> 16
                out[2 + i] = <uint32_t>(c << 1) | (1 if side[c] == 1 else 0)
        for i in range(n_levels):
            side[levels[i]] = 0
        used += words + 2
    return used


cdef void renumber(const node_t* nodes, const uint32_t* start, const uint32_t* count, node_t* new_nodes,
                   uint32_t* new_start, uint32_t* new_count, uint32_t* waiting, uint32_t* waiting_new) noexcept nogil:
    """Number the nodes anew, depth first with the larger child first: most rows then walk through neighbours in memory.

    ``waiting`` has room for all nodes. O(nodes).
    """
    cdef int64_t depth = 1, used = 1
    cdef uint32_t old, new, small, left
    waiting[0] = 0
    waiting_new[0] = 0
    while depth > 0:
        depth -= 1
        old = waiting[depth]
        new = waiting_new[depth]
        new_nodes[new] = nodes[old]
        new_start[new] = start[old]
        new_count[new] = count[old]
        if nodes[old].feature == _LEAF:
            continue
        left = nodes[old].left
        new_nodes[new].left = <uint32_t>used
        small = 1 if count[left] > count[left + 1] else 0
        waiting[depth] = left + small
        waiting_new[depth] = <uint32_t>used + small
        waiting[depth + 1] = left + 1 - small
        waiting_new[depth + 1] = <uint32_t>used + 1 - small
        depth += 2
        used += 2


cdef double impurity(work_t* w, int64_t n) noexcept nogil:
    """Sum of squares about the mean of all rows, or n times their Gini impurity."""
    cdef int64_t i, k, total = 0, centre
    cdef double x, squares = 0
    if w.n_classes > 0:
        for i in range(n):
            k = exact_y(w, i)
            squares += 2 * w.left[k] + 1
            w.left[k] += 1
        memset(w.left, 0, w.n_classes * sizeof(int64_t))
        return n - squares / n
    for i in range(n):
        total += exact_y(w, i)
    centre = total // n
    for i in range(n):
        x = <double>(exact_y(w, i) - centre)
        squares += x * x
    x = <double>(total - n * centre)
    return squares - x * x / n


cdef double chance_gain(work_t* w, int64_t lo, int64_t hi, double z) noexcept nogil:
    """What a split of unrelated rows would gain, times the rows of the node, in its targets' units.

    With k classes of shares p the gain of such a split is, in mean impurities of the node, a mixture of chi-squares:
    about chi2 / nu with nu degrees of freedom, one for a number. ``z`` normal deviates beyond its centre are
    (1 - 2 / (9 nu) + z sqrt(2 / (9 nu)))^3 (Satterthwaite 1946; Wilson and Hilferty 1931).
    """
    cdef int64_t i, k, n = hi - lo
    cdef double x, share, two = 0, three = 0, nu = 1, spread, squares = 0, total = 0
    cdef int32_t first = y_of(w, lo)
    if w.n_classes > 0:
        for i in range(lo, hi):
            w.left[y_of(w, i)] += 1
        for k in range(w.n_classes):
            share = <double>w.left[k] / n
            two += share * share
            three += share * share * share
        memset(w.left, 0, w.n_classes * sizeof(int64_t))
        squares = n * (1 - two)
        x = two - 2 * three + two * two
        if x > 0:
            nu = max((1 - two) * (1 - two) / x, 1)
    else:
        for i in range(lo, hi):
            x = <double>y_of(w, i) - first
            total += x
            squares += x * x
        squares -= total * total / n
    spread = 2 / (9 * nu)
    x = 1 - spread + z * sqrt(spread)
    return squares * x * x * x


def _sorting_networks(rows):
    """Batcher's odd-even merge sort for 0 to ``rows`` rows: pairs (a, b), and where each starts."""
    pairs, start = [], [0]
    for n in range(rows + 1):
        p = 1
        while p < n:
            k = p
            while k >= 1:
                for j in range(k % p, n - k, 2 * k):
                    for i in range(j, min(j + k, n - k)):
                        if i // (2 * p) == (i + k) // (2 * p):
                            pairs.append((i, i + k))
                k //= 2
            p *= 2
        start.append(len(pairs))
    return np.array(pairs, np.uint8), np.array(start, np.int64)


def _cut_weights(minbucket):
    """Weight of the cut after row r of a tiny node of n rows, by n and r."""
    n, left = np.ogrid[0:129, 1:129]
    right = n - left
    allowed = (left >= minbucket) & (right >= minbucket)
    return np.where(allowed, 1.0 / np.where(allowed, left * right, 1), 0.0).astype(np.float32)


def _cut_into_blocks(predictors, p, size, inherit):
    """Blocks of ``size`` predictors and, as the last one, all; predictors of their lanes, and those with 16-bit codes.

    Sets the offsets of the predictors' bins in one histogram of all if ``inherit``, else in one for each block.
    """
    blocks, lanes, fine = [], [], []
    bins = np.cumsum(predictors["bins"])
    for first in range(0, max(p, 1), size):
        block = predictors[first : min(first + size, p)]
        block["offset"] = bins[first : first + len(block)] - block["bins"]
        if not inherit:
            block["offset"] -= block["offset"][0]
        missing = np.flatnonzero((block["has_missing"] != 0) & (block["unordered"] == 0))
        of_block = np.concatenate([np.arange(len(block)), missing]) + first
        of_fine = np.flatnonzero(block["fine_at"] >= 0) + first
        last = first + len(block)
        blocks.append((first, last, block["bins"].sum(), len(lanes), len(of_block), len(fine), len(of_fine)))
        lanes.extend(of_block)
        fine.extend(of_fine)
    blocks.append((0, p, bins[p - 1] if inherit and p else 0, 0, 0, 0, 0))
    return np.array(blocks, BLOCK), np.array(lanes or [0], np.int32), np.array(fine or [0], np.int32)


_NETWORK, _NETWORK_START = _sorting_networks(_TINY_BLOCKED)


# A node that waits while its smaller sibling is grown. Bins of wide predictors and the scale of y are the node's own.
cdef struct frame_t:
    int64_t node
    int64_t slot        # its histogram, or -1
    int64_t y_shift
    int64_t checked     # rows when the range of y was last looked at


ctypedef fused rank_t:
    uint16_t
    uint32_t


def grow(
    const uint16_t[:, ::1] codes,     # IN (n_slots, n_rows)
    const int32_t[::1] features,      # IN (p) slots used as predictors, in the order that breaks ties
    const int32_t[::1] n_codes,       # IN (p) number of codes of each, missing included
    const uint8_t[::1] kinds,         # IN (p) UNORDERED | HAS_MISSING
    const uint32_t[::1] rows,         # IN (n) training rows, repeats allowed
    const rank_t[::1] ranks,          # IN (n_rows) rank of the target of every row, a training row or not
    const int64_t[::1] y,             # IN (n_ranks) target by rank: scaled integer, or class id
    int64_t n_classes,                # 0 for a numeric target
    int64_t minbucket,
    double cp,                        # smallest gain of a split, as a share of the root's impurity
    double beyond=0,                  # how far beyond that of unrelated rows it has to be, in normal deviates,
    int64_t free=0,                   # in nodes of up to so many rows; 0: no such condition
):
    """Grow one tree.

    Depth first on an explicit stack, the smaller child first, so the stack holds at most log2(n) nodes
    and a chain of any length works. A node is split when its best gain (sum of squares, or rows times Gini
    impurity) is at least ``cp`` times that of the root and, if it is small and ``beyond`` is not 0, beyond chance.
    O(n p depth) time; p + 2 h + 8 bytes a row of workspace, h being the number of predictors with more than 256 codes.

    Returns
    -------
    nodes : ndarray of shape (n_nodes,), dtype=NODE
    count : ndarray of shape (n_nodes,), dtype=uint32
        Training rows of each node.
    level_mask : ndarray of shape (n_nodes,) or (0,), dtype=uint64
        Levels of each unordered node, or where they start in ``levels``; empty when no split is unordered.
    levels : ndarray of shape (n_words,), dtype=uint32
    order : ndarray of shape (n,), dtype=uint32
        Positions in ``rows`` by leaf; a leaf's ``left`` is where its slice starts.
    """
    cdef int64_t n = rows.shape[0], p = features.shape[0]
    cdef int64_t max_nodes = 2 * max(n // minbucket, 1) + 1
    cdef int64_t widest = max(np.max(n_codes), 256) if p else 256
    cdef int64_t groups = min(n, widest) + 1
    cdef int64_t k = (n_classes + 3) // 4 * 4, n_k = max(k, 1)
    cdef int64_t f, h = 0, n_wide = 0, n_direct = 0, n_unordered = 0
    predictors_ = np.zeros(max(p, 1), PREDICTOR)
    cdef predictor_t[::1] predictors = predictors_
    for f in range(p):
        predictors[f].n_codes = n_codes[f]
        predictors[f].unordered = (kinds[f] & 1) != 0
        predictors[f].has_missing = (kinds[f] & 2) != 0
    n_fine_at = (p + 1) // 2 * 2
    for f in range(p):
        predictors[f].wide = -1
        predictors[f].fine_at = -1
        predictors[f].bins = n_codes[f]
        if n_codes[f] > 256:
            predictors[f].fine_at = n_fine_at + 2 * h
            h += 1
            predictors[f].direct = predictors[f].unordered
            predictors[f].bins = 1 if predictors[f].unordered else 256
            if not predictors[f].unordered:
                predictors[f].wide = n_wide
                n_wide += 1
        n_direct += predictors[f].direct
        n_unordered += predictors[f].unordered and not predictors[f].direct
    cdef bint blocked = p > _MANY and n_classes <= _BLOCKED_CLASSES
    # Whether a node hands its histogram down, which is then one of all predictors.
    cdef bint inherit = n_classes == 0 or not blocked
    blocks_, all_lanes_, all_fine_ = _cut_into_blocks(predictors_, p, _BLOCK if blocked else max(p, 1), inherit)
    cdef block_t[::1] blocks = blocks_
    cdef int64_t n_bins = blocks_["n_bins"].max()
    cdef bint use_histogram = n_direct < p and (n_classes == 0 or blocked or 4 * k * n_bins <= _HISTOGRAM_BYTES)
    inherit = inherit and use_histogram
    cdef int64_t y_at = (n_fine_at + 2 * h + 3) // 4 * 4
    cdef int64_t stride = (y_at + 8 + 7) // 8 * 8
    cdef int64_t lanes = (blocks_["n_lanes"].max() + 7) // 8 * 8
    cdef int64_t tiny = _TINY_BLOCKED if blocked else _TINY_CLASSES if n_classes > 0 else _TINY
    cdef int64_t slots = n.bit_length() + 2 if inherit and n > tiny else 1
    cdef bint any_direct = n_direct > 0 or not use_histogram
    cdef int64_t n_searched = n if any_direct else 1
    # Refining a wide predictor sorts the classes of up to all rows of a node.
    cdef int64_t n_sorted = n if n_classes > 0 and (n_wide > 0 or any_direct) else 1
    # A bin of a wide predictor holds 1 << shift codes, and the bins cover less than twice the codes there are.
    cdef int64_t wide = 2 * widest

    record_ = np.empty(max(n * stride, 1), np.uint8)
    nodes_ = np.zeros(max_nodes, NODE)
    start_ = np.zeros(max_nodes, np.uint32)
    count_ = np.zeros(max_nodes, np.uint32)
    offset_ = np.ascontiguousarray(predictors_["offset"])
    numeric_ = np.empty(slots * 2 * n_bins + 2 if n_classes == 0 and use_histogram else 2, np.float64)
    counts_ = np.empty(slots * k * n_bins + 4 if n_classes > 0 and use_histogram else 4, np.int32)
    base_shift_ = np.zeros((2, 65, max(n_wide, 1)), np.int32)
    run_ = np.empty((3, 2 * n_bins + 2), np.float64)
    run_class_ = np.empty((2 * n_bins + 2) * k if use_histogram and n_classes > 0 else 1, np.int32)
    run_bin_ = np.empty(2 * n_bins + 2, np.int32)
    lane_key_ = np.zeros((128, max(lanes, 1)), np.uint32)
    lane_score_ = np.zeros((128, max(lanes, 1)), np.float32)
    lane_most_ = np.zeros(max(lanes, 1), np.float32)
    lane_sum_ = np.zeros(max(lanes, 1), np.int32)
    weight_ = _cut_weights(minbucket)
    rank_ = np.zeros(256 * max(p, 1) if n_unordered else 1, np.uint8)
    level_size_ = np.empty(256, np.float64)
    tiny_total_ = np.zeros(132, np.float64)
    tiny_left_ = np.zeros(132, np.int32)
    tiny_table_ = np.zeros(128 * 132, np.int32)
    group_of_ = np.zeros(256, np.uint8)
    identity_ = np.arange(128, dtype=np.uint16)
    node_code_ = np.empty(n_searched, np.uint16)
    node_y_ = np.empty(n_searched, np.int64)
    by_code_ = np.zeros((2, wide), np.int64)
    goes_left_ = np.zeros(widest, np.uint8)
    group_codes_ = np.empty((4, max(groups, 257)), np.uint16)
    group_ints_ = np.empty((3, max(groups, 257)), np.int64)
    group_key_ = np.empty(max(groups, 257), np.float64)
    key_ = np.empty((2, max(groups, 257)), np.uint32)
    sorted_y_ = np.empty(n_sorted, np.int64)
    by_class_ = np.zeros((3, n_k), np.int64)
    direction_ = np.zeros((3, max(n_k, 132)), np.float64)
    slot_predictor_ = np.zeros(MAX_SLOTS + 1, np.int32)
    if p:
        slot_predictor_[np.asarray(features)] = np.arange(p, dtype=np.int32)

    cdef uint8_t[::1] record = record_
    cdef node_t[::1] nodes = nodes_
    cdef uint32_t[::1] start = start_
    cdef uint32_t[::1] count = count_
    cdef int32_t[::1] offset = offset_
    cdef double[::1] numeric = numeric_
    cdef int32_t[::1] counts = counts_
    cdef int32_t[:, :, ::1] base_shift = base_shift_
    cdef double[:, ::1] run = run_
    cdef int32_t[::1] run_class = run_class_
    cdef int32_t[::1] run_bin = run_bin_
    cdef uint32_t[:, ::1] lane_key = lane_key_
    cdef float[:, ::1] lane_score = lane_score_
    cdef float[::1] lane_most = lane_most_
    cdef int32_t[::1] lane_sum = lane_sum_
    cdef float[:, ::1] weight = weight_
    cdef int32_t[::1] all_lanes = all_lanes_
    cdef int32_t[::1] all_fine = all_fine_
    cdef uint8_t[::1] rank = rank_
    cdef uint8_t[:, ::1] network = _NETWORK
    cdef int64_t[::1] network_start = _NETWORK_START
    cdef double[::1] level_size = level_size_
    cdef double[::1] tiny_total = tiny_total_
    cdef int32_t[::1] tiny_left = tiny_left_
    cdef int32_t[::1] tiny_table = tiny_table_
    cdef uint8_t[::1] group_of = group_of_
    cdef uint16_t[::1] identity = identity_
    cdef uint16_t[::1] node_code = node_code_
    cdef int64_t[::1] node_y = node_y_
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
    w.stride = stride
    w.y_at = y_at
    w.row_at = y_at + 4
    w.minbucket = minbucket
    w.n_classes = n_classes
    w.k = k
    w.n_bins = n_bins
    w.n_wide = n_wide
    w.n_direct = n_direct
    w.n_unordered = n_unordered
    w.use_histogram = use_histogram
    w.predictor = &predictors[0]
    w.offset = &offset[0]
    w.record = &record[0]
    w.y = &y[0]
    w.row = &rows[0]
    w.rank16 = NULL
    w.rank32 = NULL
    if rank_t is uint16_t:
        w.rank16 = &ranks[0]
    else:
        w.rank32 = &ranks[0]
    w.numeric = &numeric[0]
    w.counts = &counts[0]
    w.base = &base_shift[0, 64, 0]
    w.shift = &base_shift[1, 64, 0]
    w.run_sum = &run[0, 0]
    w.run_count = &run[1, 0]
    w.score = &run[2, 0]
    w.run_class = &run_class[0]
    w.run_bin = &run_bin[0]
    w.lane_key = &lane_key[0, 0]
    w.lane_score = &lane_score[0, 0]
    w.lane_most = &lane_most[0]
    w.lane_sum = &lane_sum[0]
    w.weight = &weight[0, 0]
    w.lanes = lanes
    w.all_lanes = &all_lanes[0]
    w.all_fine = &all_fine[0]
    w.block = &blocks[0]
    w.n_blocks = blocks.shape[0] - 1
    w.tiny = tiny
    w.rank = &rank[0]
    w.network = &network[0, 0]
    w.network_start = &network_start[0]
    w.level_size = &level_size[0]
    w.tiny_total = &tiny_total[0]
    w.tiny_left = &tiny_left[0]
    w.tiny_table = &tiny_table[0]
    w.group_of = &group_of[0]
    w.identity = &identity[0]
    w.node_code = &node_code[0]
    w.node_y = &node_y[0]
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
    w.total_double = &direction[2, 0]

    # Sums of n targets of y_bits each have to stay below 2^53.
    cdef int64_t y_bits = min(_Y_BITS, 52 - n.bit_length())
    w.y_bits = y_bits
    cdef frame_t[64] stack
    cdef int64_t[68] free_slot
    cdef int64_t depth = 0, node = 0, slot = -1, checked = n, n_free = slots, small, large, small_slot
    cdef int64_t child, lo, hi, mid, i, b, block, code, n_nodes = 1, unordered_nodes = 0, largest = 0, words, exact
    cdef int32_t z
    cdef uint32_t row
    cdef uint8_t* to
    cdef const uint16_t* column
    cdef double min_gain
    cdef split_t split
    with nogil:
        for i in range(slots):
            free_slot[i] = i
        w.y_shift = 0
        if n_classes == 0:
            for i in range(n):
                exact = exact_y(&w, i)
                largest = max(largest, exact if exact >= 0 else -exact)
            while (largest >> w.y_shift) >> y_bits != 0:
                w.y_shift += 1
        for f in range(p):
            if predictors[f].wide >= 0:
                b = predictors[f].wide
                w.base[b] = 1
                w.shift[b] = 0
                while (predictors[f].n_codes - 2) >> w.shift[b] > 254:
                    w.shift[b] += 1
        # Fill the records block by block, predictor by predictor, so that both sides stay in cache.
        for b in range(0, n, 256):
            block = min(b + 256, n)
            for f in range(p):
                column = &codes[features[f], 0]
                to = w.record + b * stride
                if predictors[f].fine_at < 0:
                    for i in range(b, block):
                        to[f] = <uint8_t>column[rows[i]]
                        to += stride
                else:
                    for i in range(b, block):
                        memcpy(to + predictors[f].fine_at, &column[rows[i]], 2)
                        code = column[rows[i]]
                        to[f] = 0 if predictors[f].wide < 0 else bin_of(&w, predictors[f].wide, code)
                        to += stride
            to = w.record + b * stride + y_at
            for i in range(b, block):
                z = <int32_t>(exact_y(&w, i) >> w.y_shift)
                row = <uint32_t>i
                memcpy(to, &z, 4)
                memcpy(to + 4, &row, 4)
                to += stride
        count[0] = <uint32_t>n
        min_gain = cp * impurity(&w, n)
        while True:
            lo = start[node]
            hi = lo + count[node]
            if w.y_shift > 0 and 4 * (hi - lo) <= checked:
                checked = hi - lo
                if scale_y(&w, lo, hi) and slot >= 0:
                    build_histogram(&w, lo, hi, slot)
            if inherit:
                # of all predictors
                enter_block(&w, w.n_blocks)
            if inherit and hi - lo > tiny:
                if slot < 0:
                    n_free -= 1
                    slot = free_slot[n_free]
                    build_histogram(&w, lo, hi, slot)
                narrow_bins(&w, lo, hi, slot)
            split = best_split(&w, lo, hi, slot)
            if split.score <= 0 and split.predictor >= 0:
                # Nothing gained: all targets are equal, or equal in the bits that are left.
                if w.y_shift > 0 and checked > hi - lo:
                    checked = hi - lo
                    if scale_y(&w, lo, hi):
                        if slot >= 0:
                            build_histogram(&w, lo, hi, slot)
                        continue
                if is_pure(&w, lo, hi):
                    split.predictor = -1
            if split.predictor >= 0 and beyond > 0 and hi - lo <= free:
                if split.score < chance_gain(&w, lo, hi, beyond):
                    split.predictor = -1
            if split.predictor < 0 or split.score * power_of_4(w.y_shift) < min_gain * <double>(hi - lo):
                nodes[node].feature = _LEAF
                nodes[node].threshold = <uint16_t>min(hi - lo, 0xFFFF)
                nodes[node].left = <uint32_t>lo
                if slot >= 0:
                    free_slot[n_free] = slot
                    n_free += 1
                if depth == 0:
                    break
                depth -= 1
                node = stack[depth].node
                slot = stack[depth].slot
                w.y_shift = stack[depth].y_shift
                checked = stack[depth].checked
                for i in range(n_wide):
                    w.base[i] = base_shift[0, depth, i]
                    w.shift[i] = base_shift[1, depth, i]
                continue
            mid = partition(&w, lo, hi, &split)
            child = n_nodes
            n_nodes += 2
            unordered_nodes += (split.flags & _UNORDERED) != 0
            nodes[node].feature = <uint16_t>(features[split.predictor] | split.flags)
            nodes[node].threshold = 0 if split.flags & _UNORDERED else <uint16_t>split.threshold
            nodes[node].left = <uint32_t>child
            start[child] = <uint32_t>lo
            count[child] = <uint32_t>(mid - lo)
            start[child + 1] = <uint32_t>mid
            count[child + 1] = <uint32_t>(hi - mid)
            small = child if mid - lo <= hi - mid else child + 1
            large = 2 * child + 1 - small
            small_slot = -1
            if slot >= 0:
                enter_block(&w, w.n_blocks)
                lo = start[small]
                hi = lo + count[small]
                if count[large] <= tiny:
                    free_slot[n_free] = slot
                    n_free += 1
                    slot = -1
                elif count[small] > tiny:
                    n_free -= 1
                    small_slot = free_slot[n_free]
                    build_histogram(&w, lo, hi, small_slot)
                    subtract_histogram(&w, slot, small_slot)
                else:
                    add_rows(&w, lo, hi, slot, -1)
            # The larger child waits while the smaller is grown: at most log2(n) nodes wait.
            stack[depth].node = large
            stack[depth].slot = slot
            stack[depth].y_shift = w.y_shift
            stack[depth].checked = checked
            for i in range(n_wide):
                base_shift[0, depth, i] = w.base[i]
                base_shift[1, depth, i] = w.shift[i]
            depth += 1
            node = small
            slot = small_slot

    order_ = record_[: n * stride].reshape(n, stride)[:, w.row_at : w.row_at + 4].copy().view(np.uint32).ravel()
    if unordered_nodes == 0:
        # The records are not needed any more; let their memory go before more is taken.
        record = None
        del record_
    grown_ = np.empty(n_nodes, NODE)
    sizes_ = np.empty((2, n_nodes), np.uint32)
    waiting_ = np.empty((2, n_nodes + 1), np.uint32)
    cdef node_t[::1] grown = grown_
    cdef uint32_t[:, ::1] sizes = sizes_
    cdef uint32_t[:, ::1] waiting = waiting_
    with nogil:
        renumber(&nodes[0], &start[0], &count[0], &grown[0], &sizes[0, 0], &sizes[1, 0], &waiting[0, 0], &waiting[1, 0])
    count_ = sizes_[1].copy()
    if unordered_nodes == 0:
        return grown_, count_, np.zeros(0, np.uint64), np.zeros(0, np.uint32), order_
    # A table has at most a word a level, and at most a word for 16 codes.
    feature_ = grown_["feature"]
    unordered_ = (feature_ != LEAF) & (feature_ & UNORDERED_SPLIT != 0)
    n_codes_ = predictors_["n_codes"][slot_predictor_[feature_[unordered_] & SLOT]]
    words_ = np.where(n_codes_ > 32, 2 + np.minimum((n_codes_ + 15) // 16, count_[unordered_]), 0)
    levels_ = np.empty(1 + int(words_.sum()), np.uint32)
    level_mask_ = np.zeros(n_nodes, np.uint64)
    cdef uint32_t[::1] levels = levels_
    cdef uint64_t[::1] level_mask = level_mask_
    with nogil:
        words = write_levels(&w, &grown[0], &sizes[0, 0], &sizes[1, 0], n_nodes, &slot_predictor[0], &level_mask[0],
                             &levels[0])
    return grown_, count_, level_mask_, levels_[:words].copy(), order_


cdef inline double power_of_4(int64_t exponent) noexcept nogil:
    return <double>(<int64_t>1 << exponent) * <double>(<int64_t>1 << exponent)


def occurring(
    const rank_t[::1] ranks,          # IN (n_rows)
    const uint32_t[::1] rows,         # IN (n) of ranks
    uint8_t[::1] out,                 # IN and OUT (n_ranks) set to 1 for the ranks of these rows
):
    """Mark the ranks that occur in some rows. O(n)."""
    cdef int64_t i
    with nogil:
        for i in range(rows.shape[0]):
            out[ranks[rows[i]]] = 1


def donors_of(
    const rank_t[::1] ranks,          # IN (n_rows)
    const uint32_t[::1] rows,         # IN (n) of ranks
    const uint32_t[::1] order,        # IN (n) of rows
    rank_t[::1] out,                  # OUT (n) ranks[rows[order]]
):
    """Values of the training rows by leaf. O(n)."""
    cdef int64_t i
    with nogil:
        for i in range(order.shape[0]):
            out[i] = ranks[rows[order[i]]]


def refill(
    const uint32_t[::1] leaf,         # IN (n) leaf of each row
    const rank_t[::1] ranks,          # IN (n)
    node_t[::1] nodes,                # IN and OUT (n_nodes) leaves get their new slices of donors
    uint32_t[::1] count,              # OUT (n_nodes) rows in each node
    rank_t[::1] donors,               # OUT (n) the target's values by leaf
):
    """Give the leaves of a tree the values of other rows than it was grown on. O(n + n_nodes).

    A counting sort by leaf: count, give each leaf its slice, put every row into the slice of its leaf.
    """
    cdef int64_t i, n = leaf.shape[0], n_nodes = nodes.shape[0], start = 0
    cdef uint32_t node
    with nogil:
        for i in range(n_nodes):
            count[i] = 0
        for i in range(n):
            count[leaf[i]] += 1
        for i in range(n_nodes):
            if nodes[i].feature == _LEAF:
                nodes[i].threshold = <uint16_t>min(count[i], 0xFFFF)
                nodes[i].left = <uint32_t>start
                start += count[i]
        for i in range(n):
            node = leaf[i]
            donors[nodes[node].left] = ranks[i]
            nodes[node].left += 1
        for i in range(n_nodes - 1, -1, -1):
            if nodes[i].feature == _LEAF:
                nodes[i].left -= count[i]
            else:
                count[i] = count[nodes[i].left] + count[nodes[i].left + 1]


def apply(
    const node_t[::1] nodes,          # IN (n_nodes)
    const uint32_t[::1] count,        # IN (n_nodes)
    const uint64_t[::1] level_mask,   # IN (n_nodes) or (0)
    const uint32_t[::1] levels,       # IN
    const uint16_t[:, ::1] codes,     # IN (n_rows, n_slots)
    const uint32_t[::1] rows,         # IN (n) rows of codes to walk
    const uint64_t[::1] words,        # IN (n) one random word a row
    uint32_t[::1] leaf,               # OUT (n) node number of the leaf
):
    """Walk rows down the tree. O(n depth)."""
    cdef fs_tree t = _tree_of(nodes, count, level_mask, levels, codes)
    if rows.shape[0]:
        with nogil:
            fs_walk(&t, &rows[0], &words[0], rows.shape[0], &leaf[0])


def draw(
    const node_t[::1] nodes,          # IN (n_nodes)
    const uint32_t[::1] count,        # IN (n_nodes)
    const uint64_t[::1] level_mask,   # IN (n_nodes) or (0)
    const uint32_t[::1] levels,       # IN
    const rank_t[::1] donors,        # IN (n_donors) the target's values by leaf
    const uint16_t[:, ::1] codes,     # IN (n_rows, n_slots)
    const uint32_t[::1] rows,         # IN (n) rows of codes to draw for
    const uint64_t[::1] words,        # IN (n) one random word a row
    rank_t[::1] out,                 # OUT (n_rows) out[rows[i]] is drawn, the others stay
):
    """Draw one donor of its leaf for each row, with replacement. O(n depth).

    The upper half of the row's random word picks the donor; where a coin is needed on the way down, it comes
    from a hash of the whole word and the node.
    """
    cdef int64_t i, b, m, n = rows.shape[0]
    cdef uint32_t node
    cdef uint64_t size
    cdef uint32_t[4096] leaf
    cdef fs_tree t = _tree_of(nodes, count, level_mask, levels, codes)
    with nogil:
        for b in range(0, n, 4096):
            m = min(n - b, 4096)
            fs_walk(&t, &rows[b], &words[b], m, leaf)
            for i in range(m):
                node = leaf[i]
                # The size of all but huge leaves stands in the node, which is in cache by now.
                size = nodes[node].threshold
                if size == 0xFFFF:
                    size = count[node]
                out[rows[b + i]] = donors[nodes[node].left + (((words[b + i] >> 32) * size) >> 32)]


cdef fs_tree _tree_of(const node_t[::1] nodes, const uint32_t[::1] count, const uint64_t[::1] level_mask,
                      const uint32_t[::1] levels, const uint16_t[:, ::1] codes):
    cdef fs_tree t
    t.nodes = <const fs_node*>&nodes[0]
    t.count = &count[0]
    t.level_mask = &level_mask[0] if level_mask.shape[0] else NULL
    t.levels = &levels[0] if levels.shape[0] else NULL
    t.codes = &codes[0, 0] if codes.shape[0] and codes.shape[1] else NULL
    t.slots = codes.shape[1]
    return t
