/* The loops of _tree.pyx that the compiler has to vectorise: plain C, no intrinsics.
 *
 * On x86-64 with GNU tools each is compiled for AVX2, SSE4.1 and the base instruction set, and the loader picks; define
 * FASTSYNTH_GENERIC to keep the last only. All arithmetic is on integers or single IEEE operations in a fixed order, so
 * every version gives the same bits. Types, layouts and terms are explained in _tree.pyx.
 */
#ifndef FASTSYNTH_TREE_KERNELS_H
#define FASTSYNTH_TREE_KERNELS_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(FASTSYNTH_GENERIC) && \
    !defined(__SANITIZE_ADDRESS__)
#define FS_CLONES __attribute__((target_clones("avx2", "sse4.1", "default")))
#else
#define FS_CLONES
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define FS_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define FS_KEEP_LOOP
#endif


/* A bin of a numeric histogram, {sum of y, rows}, is added to as a pair. */
#if defined(__GNUC__)
typedef double fs_pair __attribute__((vector_size(16), aligned(8)));
#define FS_ADD(bin, y, rows) (*(fs_pair *)(bin) += (fs_pair){(y), (rows)})
#else
#define FS_ADD(bin, y, rows) ((bin)[0] += (y), (bin)[1] += (rows))
#endif

/* Add n records to a histogram: bin offset[f] + code of every predictor f < p. */
static void fs_add_numeric(const uint8_t *restrict record, int64_t n, int64_t stride, int64_t y_at, int64_t p,
                           const int32_t *restrict offset, double sign, double *restrict hist)
{
    for (int64_t i = 0; i < n; i++, record += stride) {
        int32_t yi;
        memcpy(&yi, record + y_at, sizeof yi);
        const double y = sign * yi;
        for (int64_t f = 0; f < p; f++)
            FS_ADD(hist + 2 * (offset[f] + record[f]), y, sign);
    }
}

/* The same for class counts: bins of k counters. */
static void fs_add_classes(const uint8_t *record, int64_t n, int64_t stride, int64_t y_at, int64_t p,
                           const int32_t *offset, int32_t sign, int64_t k, int32_t *hist)
{
    for (int64_t i = 0; i < n; i++, record += stride) {
        int32_t class_id;
        memcpy(&class_id, record + y_at, sizeof class_id);
        int32_t *row = hist + class_id;
        for (int64_t f = 0; f < p; f++)
            row[k * (offset[f] + record[f])] += sign;
    }
}

FS_CLONES static void fs_subtract_numeric(double *restrict hist, const double *restrict part, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        hist[i] -= part[i];
}

FS_CLONES static void fs_subtract_classes(int32_t *restrict hist, const int32_t *restrict part, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        hist[i] -= part[i];
}

/* Running sums over the bins of a segment. */
static void fs_run_numeric(const double *restrict hist, int64_t bins, double *restrict sums, double *restrict counts)
{
    double s = 0, c = 0;
    for (int64_t b = 0; b < bins; b++) {
        s += hist[2 * b];
        c += hist[2 * b + 1];
        sums[b] = s;
        counts[b] = c;
    }
}

/* Four class counts at a time; bins are padded to a multiple of four. */
#if defined(__GNUC__)
typedef int32_t fs_four __attribute__((vector_size(16), aligned(4)));
#endif

FS_CLONES static void fs_run_classes(const int32_t *restrict hist, int64_t bins, int64_t k, int32_t *restrict run,
                                     double *restrict counts)
{
    for (int64_t b = 0; b < bins; b++) {
        int32_t rows = 0;
#if defined(__GNUC__)
        fs_four part = {0, 0, 0, 0};
        for (int64_t j = 0; j < k; j += 4) {
            fs_four x = *(const fs_four *)(hist + b * k + j);
            if (b > 0)
                x += *(const fs_four *)(run + (b - 1) * k + j);
            *(fs_four *)(run + b * k + j) = x;
            part += x;
        }
        rows = (part[0] + part[1]) + (part[2] + part[3]);
#else
        for (int64_t j = 0; j < k; j++) {
            run[b * k + j] = hist[b * k + j] + (b > 0 ? run[(b - 1) * k + j] : 0);
            rows += run[b * k + j];
        }
#endif
        counts[b] = rows;
    }
}

/* First place of the largest score. */
FS_CLONES static int64_t fs_first_largest(const double *score, int64_t n)
{
    double most[8], largest = score[0];
    int64_t i = 0;
    if (n >= 8) {
        for (int64_t j = 0; j < 8; j++)
            most[j] = score[j];
        for (i = 8; i + 8 <= n; i += 8)
            for (int64_t j = 0; j < 8; j++)
                most[j] = score[i + j] > most[j] ? score[i + j] : most[j];
        for (int64_t j = 0; j < 8; j++)
            largest = most[j] > largest ? most[j] : largest;
    }
    for (; i < n; i++)
        largest = score[i] > largest ? score[i] : largest;
    for (i = 0; score[i] != largest; i++)
        ;
    return i;
}

/* Score of cutting after each bin, from running sums and counts: n times the gain, -1 where a side is too small. */
FS_CLONES static void fs_scores(const double *restrict sums, const double *restrict counts, int64_t bins, double n,
                                double total, double minbucket, double *restrict score)
{
    for (int64_t b = 0; b < bins; b++) {
        const double c = counts[b];
        const double d = n * sums[b] - c * total;
        const double g = d * d / (c * (n - c));
        score[b] = (c >= minbucket) & (n - c >= minbucket) ? g : -1.0;
    }
}

/* The same for classes, from running class counts left[b * k ...]: d^2 is summed over the classes. */
FS_CLONES static void fs_class_scores(const int32_t *restrict left, const double *restrict counts, int64_t bins, int64_t k,
                                      double n, const double *restrict total, double minbucket, double *restrict score)
{
    for (int64_t b = 0; b < bins; b++) {
        const double c = counts[b];
        double sum = -1.0;
        if (c >= minbucket && n - c >= minbucket) {
            const int32_t *restrict l = left + b * k;
            double part[4] = {0, 0, 0, 0};
            for (int64_t j = 0; j < k; j += 4)
                for (int64_t i = 0; i < 4; i++) {
                    const double d = n * l[j + i] - c * total[j + i];
                    part[i] += d * d;
                }
            sum = ((part[0] + part[1]) + (part[2] + part[3])) / (c * (n - c));
        }
        score[b] = sum;
    }
}

/* Sort every lane of key[rows][lanes] by a network of compare-and-exchange steps. */
FS_CLONES static void fs_sort_lanes(uint32_t *restrict key, int64_t lanes, const uint8_t *restrict network, int64_t steps)
{
    for (int64_t s = 0; s < steps; s++) {
        uint32_t *restrict a = key + network[2 * s] * lanes;
        uint32_t *restrict b = key + network[2 * s + 1] * lanes;
        FS_KEEP_LOOP
        for (int64_t j = 0; j < lanes; j++) {
            const uint32_t x = a[j], y = b[j];
            a[j] = x < y ? x : y;
            b[j] = x < y ? y : x;
        }
    }
}

/* Walk down sorted lanes of keys code << 16 | y and score the cut after every row, in single precision: good enough to
 * tell the few cuts that can be best, which are then scored exactly. weight[j] = 1 / ((j + 1) (n - j - 1)), or 0 where a side
 * is too small. most[lane] is the lane's largest score. |n s - (j + 1) total| < 2^29 for n <= 128 and y < 2^15. */
FS_CLONES static void fs_score_lanes(const uint32_t *restrict key, int64_t rows, int64_t lanes, int32_t total,
                                     const float *restrict weight, int32_t *restrict sums, float *restrict score,
                                     float *restrict most)
{
    for (int64_t j = 0; j < lanes; j++) {
        sums[j] = 0;
        most[j] = -1.0f;
    }
    for (int64_t r = 0; r + 1 < rows; r++) {
        const uint32_t *restrict here = key + r * lanes;
        const uint32_t *restrict next = here + lanes;
        float *restrict out = score + r * lanes;
        const float w = weight[r];
        const int32_t share = (int32_t)(r + 1) * total;
        FS_KEEP_LOOP
        for (int64_t j = 0; j < lanes; j++) {
            sums[j] += (int32_t)(here[j] & 0xFFFF);
            const float d = (float)((int32_t)rows * sums[j] - share);
            const float g = d * d * w;
            const float cut = (here[j] >> 16) != (next[j] >> 16) && w > 0.0f ? g : -1.0f;
            out[j] = cut;
            most[j] = cut > most[j] ? cut : most[j];
        }
    }
}

/* Walk down one sorted lane of keys code << 16 | position of a class target. mates[position] are the rows of the same
 * class as bits, size[position] their number. When a row moves to the left, the sum of squared class counts there rises by
 * 2 c + 1, c being the rows of its class already there. Returns the first row after which the score d^2 / (c (n - c)) is
 * largest and larger than *best, and sets *best; -1 if there is none. All numbers are integers below 2^31 for n <= 32. */
FS_CLONES static int64_t fs_walk_classes(const uint32_t *restrict key, int64_t n, int64_t lanes, int64_t minbucket,
                                         const uint32_t *restrict mates, const int32_t *restrict size, int32_t squares,
                                         double *best)
{
    uint32_t moved = 0;
    int32_t sq = 0, st = 0;
    int64_t place = -1;
    const int32_t rows = (int32_t)n;
    uint32_t code = key[0] >> 16;
    for (int32_t r = 0; r + 1 < rows; r++) {
        const uint32_t at = key[r * lanes] & 0xFFFF, next = key[(r + 1) * lanes] >> 16;
        sq += 2 * __builtin_popcount(moved & mates[at]) + 1;
        st += size[at];
        moved |= (uint32_t)1 << at;
        const int32_t c = r + 1;
        if (code != next && next != 0xFFFF && c >= minbucket && rows - c >= minbucket) {
            const double d = rows * rows * sq - 2 * rows * c * st + c * c * squares;
            const double score = d / (double)(c * (rows - c));
            if (score > *best) {
                *best = score;
                place = r;
            }
        }
        code = next;
    }
    return place;
}

/* The same for larger nodes: class_id[position] is counted in left, which the caller sets to zero again. Below 2^31 for
 * n <= 128. */
static int64_t fs_walk_counts(const uint32_t *restrict key, int64_t n, int64_t lanes, int64_t minbucket,
                              const int32_t *restrict class_id, const int32_t *restrict size, int32_t squares,
                              int32_t *restrict left, double *best)
{
    int32_t sq = 0, st = 0;
    int64_t place = -1;
    const int32_t rows = (int32_t)n;
    uint32_t code = key[0] >> 16;
    for (int32_t r = 0; r + 1 < rows; r++) {
        const uint32_t at = key[r * lanes] & 0xFFFF, next = key[(r + 1) * lanes] >> 16;
        sq += 2 * left[class_id[at]]++ + 1;
        st += size[at];
        const int32_t c = r + 1;
        if (code != next && next != 0xFFFF && c >= minbucket && rows - c >= minbucket) {
            const double d = (double)(rows * rows * sq - 2 * rows * c * st + c * c * squares);
            const double score = d / (double)(c * (rows - c));
            if (score > *best) {
                *best = score;
                place = r;
            }
        }
        code = next;
    }
    return place;
}

/* Scores of levels of an unordered predictor for a class target: their class shares projected on the first principal
 * component of S = sum_g w_g (P_g - pbar)(P_g - pbar)', by power iterations that never form S (Coppersmith, Hong and Hosking
 * 1999). table[level[g] * k + class] are the rows of group g, k a multiple of 4, total[class] those of the node. Cost: groups x k
 * an iteration.
 *
 * 1. start from the level that differs most from the rest, 2. project, 3. sum back, 4. stop when still. */
FS_CLONES static void fs_level_scores(const int32_t *restrict table, const uint16_t *restrict level, int64_t groups, int64_t k,
                                      const double *restrict total, double n, int64_t iterations, double *restrict v,
                                      double *restrict u, double *restrict size, double *restrict key)
{
    double pbar2 = 0, worst = -1;
    int64_t first = 0;
    for (int64_t j = 0; j < k; j++)
        pbar2 += total[j] * total[j];
    pbar2 /= n * n;
    /* 1. |P_g - pbar|^2 = sum P_gk^2 - 2 P_g.pbar + |pbar|^2, weighted by the size of the group */
    for (int64_t g = 0; g < groups; g++) {
        const int32_t *restrict c = table + level[g] * k;
        double rows[4] = {0, 0, 0, 0}, squares[4] = {0, 0, 0, 0}, dot[4] = {0, 0, 0, 0};
        for (int64_t j = 0; j < k; j += 4)
            for (int64_t i = 0; i < 4; i++) {
                const double x = c[j + i];
                rows[i] += x;
                squares[i] += x * x;
                dot[i] += x * total[j + i];
            }
        size[g] = (rows[0] + rows[1]) + (rows[2] + rows[3]);
        const double far = ((squares[0] + squares[1]) + (squares[2] + squares[3])) / size[g] -
                           2 * ((dot[0] + dot[1]) + (dot[2] + dot[3])) / n + size[g] * pbar2;
        if (far > worst) {
            worst = far;
            first = g;
        }
    }
    for (int64_t j = 0; j < k; j++)
        v[j] = table[level[first] * k + j] / size[first] - total[j] / n;
    for (int64_t step = 0;; step++) {
        /* 2. the score of a group is the mean of v over its rows, less the mean over the node */
        double mean = 0;
        for (int64_t j = 0; j < k; j++) {
            mean += v[j] * total[j];
            u[j] = 0;
        }
        mean /= n;
        for (int64_t g = 0; g < groups; g++) {
            const int32_t *restrict c = table + level[g] * k;
            double dot[4] = {0, 0, 0, 0};
            for (int64_t j = 0; j < k; j += 4)
                for (int64_t i = 0; i < 4; i++)
                    dot[i] += c[j + i] * v[j + i];
            const double x = ((dot[0] + dot[1]) + (dot[2] + dot[3])) / size[g] - mean;
            key[g] = x;
            /* 3. S v = (1 / n) sum over rows of score(group of row) e(class of row) */
            for (int64_t j = 0; j < k; j++)
                u[j] += x * c[j];
        }
        if (step == iterations)
            return;
        /* 4. S is positive semidefinite, so v and S v point to the same side */
        double uu = 0, vv = 0, uv = 0;
        for (int64_t j = 0; j < k; j++) {
            uu += u[j] * u[j];
            vv += v[j] * v[j];
            uv += u[j] * v[j];
        }
        if (uu == 0 || uv * uv >= (1 - 1e-9) * uu * vv)
            return;
        const double scale = 1 / uu;
        for (int64_t j = 0; j < k; j++)
            v[j] = u[j] * scale;
    }
}

/* A finished tree and the rows that walk down it; see _tree.pyx for the flags and the level tables. */
typedef struct {
    uint16_t feature, threshold;
    uint32_t left;
} fs_node;

typedef struct {
    const fs_node *nodes;
    const uint32_t *count;
    const uint64_t *level_mask;
    const uint32_t *levels;
    const uint16_t *codes; /* codes of one row stand side by side: codes[row * slots + slot] */
    int64_t slots;
} fs_tree;

enum { FS_LEAF = 0xFFFF, FS_UNORDERED = 0x8000, FS_MISSING_RIGHT = 0x4000, FS_MISSING_UNSEEN = 0x2000, FS_SLOT = 0x1FFF };

/* The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of x moves every bit of the result. */
static inline uint64_t fs_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* 1 with probability n_left / n, from the row's own random word and the node. */
static inline uint32_t fs_chance(uint64_t word, uint32_t node, uint32_t n_left, uint32_t n)
{
    const uint64_t x = fs_mix(word + UINT64_C(0x9E3779B97F4A7C15) * ((uint64_t)node + 1));
    return (((x >> 32) * n) >> 32) < n_left;
}

/* 1 left, 0 right, 2 for a level that no training row of the node had. */
static uint32_t fs_side_in_table(const uint32_t *table, uint32_t code)
{
    const uint32_t size = table[1];
    if (size >> 31) {
        uint32_t lo = 0, hi = size & 0x7FFFFFFF;
        const uint32_t n = hi;
        while (lo < hi) {
            const uint32_t mid = (lo + hi) / 2;
            if (table[2 + mid] >> 1 < code)
                lo = mid + 1;
            else
                hi = mid;
        }
        return lo < n && table[2 + lo] >> 1 == code ? table[2 + lo] & 1 : 2;
    }
    const uint32_t r = code - table[0];
    if (r >= size)
        return 2;
    const uint32_t bits = table[2 + (r >> 4)] >> (2 * (r & 15));
    return bits & 1 ? bits >> 1 & 1 : 2;
}

#if defined(__GNUC__)
#define FS_INLINE static inline __attribute__((always_inline))
#define FS_RARE(x) __builtin_expect(!!(x), 0)
#else
#define FS_INLINE static inline
#define FS_RARE(x) (x)
#endif

/* Walk rows to their leaves, eight at a time: a step of one row waits for memory, so eight wait together, and a lane is filled
 * with the next row as soon as its row has ended. Whether a split is ordered cannot be predicted, so with ``unordered`` both kinds
 * are worked out at every node, and bits choose; what is odd goes another way. */
#define FS_WALKERS 8

/* The child of an inner node. */
FS_INLINE uint32_t fs_step(const fs_tree *t, fs_node here, uint32_t node, const uint16_t *codes, const uint64_t *word,
                           const int unordered)
{
    const uint32_t code = codes[here.feature & FS_SLOT];
    uint32_t left = (uint16_t)(code - (here.feature >> 14 & 1)) <= here.threshold;
    uint32_t odd = (here.feature >> 13 & 1) & (code == 0);
    if (unordered) {
        const uint32_t flag = here.feature >> 15;
        const uint64_t mask = t->level_mask[node] >> (code & 31);
        left ^= (left ^ (uint32_t)mask) & flag & 1;
        odd |= flag & (((uint32_t)(mask >> 32) ^ 1) | here.threshold | (code > 31)) & 1;
    }
    if (FS_RARE(odd)) {
        if ((here.feature & FS_UNORDERED) && here.threshold != 0)
            left = fs_side_in_table(t->levels + t->level_mask[node], code);
        else
            left = 2;
        if (left == 2)
            left = fs_chance(*word, node, t->count[here.left], t->count[node]);
    }
    return here.left + 1 - left;
}

FS_INLINE void fs_walk_rows(const fs_tree *t, const uint32_t *rows, const uint64_t *words, int64_t n, uint32_t *leaf,
                            const int unordered)
{
    const fs_node *nodes = t->nodes;
    uint32_t node[FS_WALKERS] = {0};
    int64_t at[FS_WALKERS];
    const uint16_t *codes[FS_WALKERS];
    int64_t next = 0, lanes = n < FS_WALKERS ? n : FS_WALKERS;
    for (; next < lanes; next++) {
        at[next] = next;
        codes[next] = t->codes + rows[next] * t->slots;
    }
    while (next < n)
        for (int64_t i = 0; i < FS_WALKERS; i++) {
            const fs_node here = nodes[node[i]];
            if (here.feature != FS_LEAF) {
                node[i] = fs_step(t, here, node[i], codes[i], words + at[i], unordered);
                continue;
            }
            leaf[at[i]] = node[i];
            if (next == n) {
                /* no row is left for this lane: it goes on from its leaf, below */
                continue;
            }
            node[i] = 0;
            at[i] = next;
            codes[i] = t->codes + rows[next++] * t->slots;
        }
    /* The last rows, one after the other. */
    for (int64_t i = 0; i < lanes; i++) {
        while (nodes[node[i]].feature != FS_LEAF)
            node[i] = fs_step(t, nodes[node[i]], node[i], codes[i], words + at[i], unordered);
        leaf[at[i]] = node[i];
    }
}

static void fs_walk(const fs_tree *tree, const uint32_t *rows, const uint64_t *words, int64_t n, uint32_t *leaf)
{
    if (tree->level_mask)
        fs_walk_rows(tree, rows, words, n, leaf, 1);
    else
        fs_walk_rows(tree, rows, words, n, leaf, 0);
}

/* Partition by blocks (Edelkamp and Weiss 2016): which rows stand on the wrong side is found without branches, then
 * only those are swapped. side[code] is 1 for left. Returns the number of rows on the left. */
static inline void fs_swap(uint8_t *restrict a, uint8_t *restrict b, int64_t stride)
{
    for (int64_t j = 0; j < stride; j += 8) {
        uint64_t x, y;
        memcpy(&x, a + j, 8);
        memcpy(&y, b + j, 8);
        memcpy(a + j, &y, 8);
        memcpy(b + j, &x, 8);
    }
}

#define FS_BLOCK 64

/* One row's side: a byte code through a table, or a 16-bit code against a threshold (code - shift wraps for missing). */
#define FS_PARTITION(NAME, ARGUMENTS, SIDE)                                                        \
    static int64_t NAME(uint8_t *base, int64_t n, int64_t stride, ARGUMENTS)                       \
    {                                                                                              \
        int64_t lo = 0, hi = n;                                                                    \
        uint8_t left[FS_BLOCK], right[FS_BLOCK];                                                   \
        int64_t n_left = 0, n_right = 0, at_left = 0, at_right = 0;                                \
        while (hi - lo >= 2 * FS_BLOCK) {                                                          \
            if (n_left == 0) {                                                                     \
                at_left = 0;                                                                       \
                for (int64_t i = 0; i < FS_BLOCK; i++) {                                           \
                    const uint8_t *row = base + (lo + i) * stride;                                 \
                    left[n_left] = (uint8_t)i;                                                     \
                    n_left += !(SIDE);                                                             \
                }                                                                                  \
            }                                                                                      \
            if (n_right == 0) {                                                                    \
                at_right = 0;                                                                      \
                for (int64_t i = 0; i < FS_BLOCK; i++) {                                           \
                    const uint8_t *row = base + (hi - 1 - i) * stride;                             \
                    right[n_right] = (uint8_t)i;                                                   \
                    n_right += (SIDE);                                                             \
                }                                                                                  \
            }                                                                                      \
            const int64_t swaps = n_left < n_right ? n_left : n_right;                             \
            for (int64_t i = 0; i < swaps; i++)                                                    \
                fs_swap(base + (lo + left[at_left + i]) * stride,                                  \
                        base + (hi - 1 - right[at_right + i]) * stride, stride);                   \
            n_left -= swaps;                                                                       \
            n_right -= swaps;                                                                      \
            at_left += swaps;                                                                      \
            at_right += swaps;                                                                     \
            if (n_left == 0)                                                                       \
                lo += FS_BLOCK;                                                                    \
            if (n_right == 0)                                                                      \
                hi -= FS_BLOCK;                                                                    \
        }                                                                                          \
        /* What is left over, at most one block of each side half done: the plain way. */          \
        for (;;) {                                                                                 \
            const uint8_t *row;                                                                    \
            while (lo < hi && (row = base + lo * stride, (SIDE)))                                  \
                lo++;                                                                              \
            while (lo < hi && (row = base + (hi - 1) * stride, !(SIDE)))                           \
                hi--;                                                                              \
            if (lo >= hi)                                                                          \
                return lo;                                                                         \
            fs_swap(base + lo * stride, base + (hi - 1) * stride, stride);                         \
            lo++;                                                                                  \
            hi--;                                                                                  \
        }                                                                                          \
    }

#define FS_COMMA ,

static inline uint16_t fs_u16(const uint8_t *at)
{
    uint16_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

FS_PARTITION(fs_partition_bytes, int64_t at FS_COMMA uint16_t shift FS_COMMA uint16_t threshold,
             (uint16_t)(row[at] - shift) <= threshold)
FS_PARTITION(fs_partition_words, int64_t at FS_COMMA uint16_t shift FS_COMMA uint16_t threshold,
             (uint16_t)(fs_u16(row + at) - shift) <= threshold)
FS_PARTITION(fs_partition_byte_levels, int64_t at FS_COMMA const uint8_t *side, side[row[at]])
FS_PARTITION(fs_partition_word_levels, int64_t at FS_COMMA const uint8_t *side, side[fs_u16(row + at)])

#endif
