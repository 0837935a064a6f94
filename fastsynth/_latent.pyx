"""The loops of latent normal variables: all latents of a row in turn, and covariances of which some are fixed.

A row has q latents, in the order of the columns; arrays hold one latent after the other, and rows are visited in
tiles, so that what is done to a latent of a tile is a loop for the compiler to vectorise (``_latent_kernels.h``)::

    z[c]     row 0 1 2 ... 255 | 256 ...       residual[c]    one tile: row 0 1 2 ... 255

What a latent belongs to stands in a table of four numbers::

    layout       kind  column  first  size
    income         0      0      -     -     number: z is known unless codes[column, row] < 0
    health         1      1      0     3     ordered: cuts[first + y] < z <= cuts[first + y + 1]
    job = 0        2      2      2     2     unordered: latents first .. first + size - 1 belong to one column; the
    job = 1        2      2      2     2     largest of them is that of y if it is above 0, else y is the last level

    cuts       -inf  0  1.3  inf | -inf  0  inf | ...      those of each ordered column, two of them infinite

Every random number is a hash of (key, row, latent, attempt), so none depends on the order in which rows are visited.
Distribution functions are Taylor polynomials around the nodes of a table (``normal``)::

    normal[j] = distribution function and density at (j - 544) / 64, j = 0 ... 1088
"""

from libc.math cimport INFINITY, log, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef extern from "_latent_kernels.h" nogil:
    uint64_t fs_mixed(uint64_t number, uint64_t key)
    double fs_unit(uint64_t word)
    double fs_quantile(double p)
    void fs_conditional(const double* z, const double* residual, const double* precision, double variance, int64_t q,
                        int64_t n, double* mean)
    void fs_truncated(double* low, double* high, const double* mean, double sd, uint64_t first, uint64_t step,
                      uint64_t key, int64_t n, const double* normal, double* x)
    void fs_masses(double* low, double* high, const double* mean, double sd, int64_t n, const double* normal,
                   double* mass)

cdef enum:
    NUMBER = 0
    ORDERED = 1
    TILE = 256
    # Tries of a slice, each of which cuts the interval.
    MOST_TRIES = 200


def truncated(const double[::1] low, const double[::1] high, uint64_t key, const double[:, ::1] normal,
              double[::1] out):
    """Standard normal numbers (n) between bounds (n). O(n)."""
    cdef int64_t tile, i, t, n
    cdef double[TILE] a
    cdef double[TILE] b
    cdef double[TILE] mean
    with nogil:
        for tile in range((out.shape[0] + TILE - 1) // TILE):
            i = tile * TILE
            n = min(TILE, out.shape[0] - i)
            for t in range(n):
                a[t], b[t], mean[t] = low[i + t], high[i + t], 0
            fs_truncated(a, b, mean, 1, i, 1, key, n, &normal[0, 0], &out[i])


def draw_latents(
    double[:, :] z,                   # IN and OUT (q, n) latents, a row without gaps
    double[:, :] mean,                # IN (q, n) without effects of clusters
    const int32_t[:, :] codes,        # IN (columns, n) levels; -1 is missing; 0 for numbers that are known
    const int32_t[:, ::1] layout,     # IN (q, 4)
    const double[::1] cuts,           # IN
    const double[:, ::1] precision,   # IN (q, q) inverse of the covariance of residuals
    const double[::1] sd,             # IN (q) of each latent given the others
    const double[:, :] x,             # IN (p, n) design
    const int32_t[::1] effects,       # IN (e) rows of x with effects of clusters, none without clusters
    const double[:, :, ::1] u,        # IN (clusters, e, q)
    const int32_t[::1] cluster,       # IN (n), or empty
    const int32_t[::1] order,         # IN latents to draw
    int64_t wanted,                   # IN latent of which the ratio or the gap is wanted, or -1
    const double[::1] proposed,       # IN (size + 1) other cuts of latent wanted
    uint64_t key,
    int64_t first_row,                # IN number of the first row, for the hash
    const double[:, ::1] normal,      # IN table of the normal distribution
    double[:, ::1] residual,          # OUT (q, TILE) work
    double[::1] gap,                  # OUT (n) latent wanted less its conditional mean, or empty
    double[:, :, ::1] sums,           # IN and OUT (clusters, e, q) sums of x z by cluster, or empty
):
    """Draw latents of some rows, one after the other, each given the others; then compare cuts of one of them.

    Returns the logarithm of the likelihood ratio of the proposed cuts of latent ``wanted``, given all other latents
    and with the latent itself integrated out; 0 without one. Of an unordered column, all bounds move by proposed[1].
    Given the others, with residuals r and precision K, z_c ~ N(z_c - K_c r / K_cc, 1 / K_cc). O(n q (q + e)), but for
    numbers that are known.

    For each tile of rows, 1. residuals, latent by latent; 2. draws; 3. the ratio, or the gap; 4. sums by cluster.
    """
    cdef int64_t tile, i, t, k, c, a, n, first, size, q = z.shape[0], e = effects.shape[0]
    cdef int64_t stride = z.strides[0] // sizeof(double)
    cdef int32_t y
    cdef double factor, product = 1, total = 0
    cdef double* r = &residual[0, 0]
    cdef const double* by
    cdef const double* normals = &normal[0, 0]
    cdef const int32_t* code
    cdef double[TILE] low
    cdef double[TILE] high
    cdef double[TILE] centre
    cdef double[TILE] new
    cdef double[TILE] old
    cdef bint summing = sums.shape[0] > 0
    with nogil:
        for tile in range((z.shape[1] + TILE - 1) // TILE):
            i = tile * TILE
            n = min(TILE, z.shape[1] - i)
            # 1.
            for c in range(q):
                for t in range(n):
                    r[c * TILE + t] = z[c, i + t] - mean[c, i + t]
            for k in range(e):
                for t in range(n):
                    factor, by = x[effects[k], i + t], &u[cluster[i + t], k, 0]
                    for c in range(q):
                        r[c * TILE + t] -= factor * by[c]
            # 2.
            for a in range(order.shape[0]):
                c = order[a]
                code, first, size = &codes[layout[c, 1], i], layout[c, 2], layout[c, 3]
                if layout[c, 0] == NUMBER:
                    draw_missing(&z[c, i], r, &precision[c, 0], sd[c], q, n, c, code, (first_row + i) * q + c, key)
                    continue
                fs_conditional(&z[c, i], r, &precision[c, 0], sd[c] * sd[c], q, n, centre)
                if layout[c, 0] == ORDERED:
                    bounds_of_cuts(code, &cuts[first], n, low, high)
                else:
                    bounds_of_others(code, &z[first, i], stride, size, c - first, n, low, high)
                fs_truncated(low, high, centre, sd[c], (first_row + i) * q + c, q, key, n, normals, new)
                for t in range(n):
                    r[c * TILE + t] += new[t] - z[c, i + t]
                    z[c, i + t] = new[t]
            # 3.
            if gap.shape[0] > 0:
                fs_conditional(&z[wanted, i], r, &precision[wanted, 0], sd[wanted] * sd[wanted], q, n, centre)
                for t in range(n):
                    gap[i + t] = z[wanted, i + t] - centre[t]
            elif wanted >= 0:
                fs_conditional(&z[wanted, i], r, &precision[wanted, 0], sd[wanted] * sd[wanted], q, n, centre)
                code, first, size = &codes[layout[wanted, 1], i], layout[wanted, 2], layout[wanted, 3]
                if layout[wanted, 0] == ORDERED:
                    bounds_of_cuts(code, &proposed[0], n, low, high)
                else:
                    bounds_of_others(code, &z[first, i], stride, size, wanted - first, n, low, high)
                    for t in range(n):
                        low[t] += proposed[1]
                        high[t] += proposed[1]
                fs_masses(low, high, centre, sd[wanted], n, normals, new)
                if layout[wanted, 0] == ORDERED:
                    bounds_of_cuts(code, &cuts[first], n, low, high)
                else:
                    bounds_of_others(code, &z[first, i], stride, size, wanted - first, n, low, high)
                fs_masses(low, high, centre, sd[wanted], n, normals, old)
                for t in range(n):
                    product *= new[t] / old[t]
                    # One logarithm for many rows; a factor alone cannot leave the range of a double.
                    if not 1e-10 < product < 1e10:
                        total += log(product)
                        product = 1
            # 4.
            if summing:
                for k in range(e):
                    for t in range(n):
                        factor, y = x[effects[k], i + t], cluster[i + t]
                        for c in range(q):
                            sums[y, k, c] += factor * z[c, i + t]
    return total + log(product)


cdef void bounds_of_cuts(const int32_t* code, const double* cuts, int64_t n, double* low, double* high) noexcept nogil:
    """Between which cuts the latents of an ordered column lie."""
    cdef int64_t t
    cdef int32_t y
    for t in range(n):
        y = code[t]
        low[t] = cuts[y] if y >= 0 else -INFINITY
        high[t] = cuts[y + 1] if y >= 0 else INFINITY


cdef void bounds_of_others(const int32_t* code, const double* block, int64_t stride, int64_t size, int64_t mine,
                           int64_t n, double* low, double* high) noexcept nogil:
    """Between what a latent of an unordered column lies: above 0 and the others, or below the largest or 0."""
    cdef int64_t t, d
    cdef int32_t y
    for t in range(n):
        y = code[t]
        low[t], high[t] = 0, 0
        if 0 <= y < size:
            high[t] = block[y * stride + t]
    for d in range(size):
        if d != mine:
            for t in range(n):
                low[t] = max(low[t], block[d * stride + t])
    for t in range(n):
        y = code[t]
        low[t] = low[t] if y == mine else -INFINITY
        high[t] = INFINITY if y < 0 or y == mine else high[t]


cdef void draw_missing(double* z, double* r, const double* precision, double sd, int64_t q, int64_t n, int64_t c,
                       const int32_t* code, uint64_t first, uint64_t key) noexcept nogil:
    """Draw the numbers of a tile that are missing."""
    cdef int64_t t, d
    cdef double sum, new
    for t in range(n):
        if code[t] < 0:
            sum = 0
            for d in range(q):
                sum += precision[d] * r[d * TILE + t]
            new = sd * fs_quantile(fs_unit(fs_mixed(first + t * q, key))) - sd * sd * sum
            r[c * TILE + t] += new
            z[t] += new


def draw_covariances(
    double[:, ::1] omega,             # IN and OUT (q, q) covariance matrix
    double[:, ::1] precision,         # IN and OUT (q, q) its inverse
    double[:, ::1] spread,            # IN and OUT (q, q) K S K, K being the inverse and S the sum of squares
    const int32_t[:, ::1] pairs,      # IN (m, 2) elements that are free
    double weight,                    # IN n of exp(-n / 2 log det omega - tr(omega^-1 S) / 2)
    double width,                     # IN of the first interval
    uint64_t key,
    double[:, ::1] work,              # OUT (4, q)
):
    """Draw free covariances one after the other, each given all the others, by slice sampling.

    With omega' = omega + d (e_j e_k' + e_k e_j') determinant and trace are closed forms in d of three elements of K and
    three of K S K, so a try costs O(1) and a new element O(q^2), whatever the number of rows; d is kept where omega'
    is positive definite. Neal (2003), Slice sampling: an interval of fixed width laid around the old value at random,
    shrunk until a try lies in the slice. O(m q^2).
    """
    cdef int64_t i, j, k, a, b, q = omega.shape[0], attempt
    cdef double kjj, kkk, kjk, pjj, pkk, pjk, root, low, high, level, d, det, inverse
    cdef double m11, m22, m12
    cdef uint64_t word
    with nogil:
        for i in range(pairs.shape[0]):
            j, k = pairs[i, 0], pairs[i, 1]
            word = fs_mixed(i, key)
            kjj, kkk, kjk = precision[j, j], precision[k, k], precision[j, k]
            pjj, pkk, pjk = spread[j, j], spread[k, k], spread[j, k]
            root = sqrt(kjj * kkk)
            level = log(fs_unit(fs_mixed(1, word)))
            low = -width * fs_unit(fs_mixed(2, word))
            high = low + width
            # Where 1 + d (kjk + root) > 0 and 1 + d (kjk - root) > 0; root > |kjk|.
            low = max(low, -1 / (kjk + root))
            high = min(high, -1 / (kjk - root))
            d = 0
            for attempt in range(MOST_TRIES):
                d = low + (high - low) * fs_unit(fs_mixed(3 + attempt, word))
                det = (1 + d * kjk) * (1 + d * kjk) - d * d * kjj * kkk
                if det > 0 and -0.5 * weight * log(det) - 0.5 * (
                    d * d * (kkk * pjj + kjj * pkk) - 2 * d * (1 + d * kjk) * pjk
                ) / det >= level:
                    break
                if d < 0:
                    low = d
                else:
                    high = d
            else:
                d = 0
            if d == 0:
                continue
            # K' = K - V (K_j, K_k)' and so on, with V = (K_j, K_k) M^-1.
            inverse = 1 / (d * d * kjj * kkk - (1 + d * kjk) * (1 + d * kjk))
            m11, m22, m12 = kkk * d * d * inverse, kjj * d * d * inverse, -d * (1 + d * kjk) * inverse
            for a in range(q):
                work[0, a] = precision[a, j] * m11 + precision[a, k] * m12
                work[1, a] = precision[a, j] * m12 + precision[a, k] * m22
                work[2, a], work[3, a] = spread[a, j], spread[a, k]
            for a in range(q):
                for b in range(q):
                    spread[a, b] += (
                        -work[0, a] * work[2, b] - work[1, a] * work[3, b] - work[2, a] * work[0, b]
                        - work[3, a] * work[1, b]
                        + work[0, a] * (pjj * work[0, b] + pjk * work[1, b])
                        + work[1, a] * (pjk * work[0, b] + pkk * work[1, b]))
            for a in range(q):
                work[2, a], work[3, a] = precision[a, j], precision[a, k]
            for a in range(q):
                for b in range(q):
                    precision[a, b] -= work[0, a] * work[2, b] + work[1, a] * work[3, b]
            omega[j, k] += d
            omega[k, j] = omega[j, k]
