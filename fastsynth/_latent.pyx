"""The loops of latent normal variables: all latents of a row in turn, and covariances of which some are fixed.

A row has q latents z, in the order of the columns. What a latent belongs to stands in a table of four numbers::

    layout       kind  column  first  size
    income         0      0      -     -     number: z is known unless codes[row, column] < 0
    health         1      1      0     3     ordered: cuts[first + y] < z <= cuts[first + y + 1]
    job = 0        2      2      2     2     unordered: latents first .. first + size - 1 belong to one column; the
    job = 1        2      2      2     2     largest of them is that of y if it is above 0, else y is the last level

    cuts     -inf  0  1.3  inf | -inf  0  inf | ...      those of each ordered column, two of them infinite

Every random number is a hash of (key, row, latent, attempt), so none depends on the order in which rows are visited.
Distribution functions are Taylor polynomials around the nodes of a table (``normal``)::

    normal[j] = cdf and density at (j - 8.5 / STEP) * STEP, STEP = 1 / 64
"""

from libc.math cimport INFINITY, erfc, exp, log, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef enum:
    NUMBER = 0
    ORDERED = 1
    UNORDERED = 2
    # Nodes of the table of the normal distribution to the left of 0, and per unit.
    HALF = 544
    PER_UNIT = 64
    # Attempts of a rejection that succeeds more than nine times in ten.
    MOST_ATTEMPTS = 200

# Beyond so many standard deviations truncated draws are made by rejection.
cdef double TAIL = 6.0
# Probabilities of a row are not taken to be smaller.
cdef double LEAST = 1e-290


cdef inline uint64_t mixed(uint64_t number, uint64_t key) noexcept nogil:
    """The finaliser of SplitMix64, as in streams.hashed."""
    cdef uint64_t z = number * <uint64_t>0x9E3779B97F4A7C15 + key
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline double open_unit(uint64_t word) noexcept nogil:
    """A number between 0 and 1, never one of them."""
    return (<double>(word >> 12) + 0.5) * (1.0 / 4503599627370496.0)


cdef inline double cdf(double x, const double* normal) noexcept nogil:
    """The normal distribution function, to about ten digits of its value in the lower tail too.

    The derivatives at a node are its density times Hermite polynomials, of which five are used.
    """
    cdef int64_t j
    cdef double a, h
    if not -8.0 < x < 8.0:
        return 0.5 * erfc(-x * 0.7071067811865476)
    j = <int64_t>(x * PER_UNIT + (HALF + 0.5))
    a = (<double>(j - HALF)) * (1.0 / PER_UNIT)
    h = x - a
    return normal[2 * j] + normal[2 * j + 1] * h * (1 + h * (
        -a / 2 + h * ((a * a - 1) / 6 + h * (a * (3 - a * a) / 24 + h * ((a * a - 6) * a * a + 3) / 120))))


cdef inline double quantile(double p) noexcept nogil:
    """The normal quantile to sixteen digits: Wichura (1988), algorithm AS 241, PPND16."""
    cdef double q = p - 0.5, r, x
    if -0.425 <= q <= 0.425:
        r = 0.180625 - q * q
        return q * (((((((2.5090809287301226727e+3 * r + 3.3430575583588128105e+4) * r + 6.7265770927008700853e+4) * r
                        + 4.5921953931549871457e+4) * r + 1.3731693765509461125e+4) * r
                      + 1.9715909503065514427e+3) * r + 1.3314166789178437745e+2) * r + 3.3871328727963666080e0) / (
                   ((((((5.2264952788528545610e+3 * r + 2.8729085735721942674e+4) * r + 3.9307895800092710610e+4) * r
                       + 2.1213794301586595867e+4) * r + 5.3941960214247511077e+3) * r
                     + 6.8718700749205790830e+2) * r + 4.2313330701600911252e+1) * r + 1.0)
    r = sqrt(-log(p if q < 0 else 1 - p))
    if r <= 5:
        r -= 1.6
        x = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                 + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
              + 4.63033784615654529590e0) * r + 1.42343711074968357734e0) / (
            ((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
             + 2.05319162663775882187e0) * r + 1.0)
    else:
        r -= 5
        x = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                 + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
              + 5.46378491116411436990e0) * r + 6.65790464350110377720e0) / (
            ((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
             + 5.99832206555887937690e-1) * r + 1.0)
    return -x if q < 0 else x


cdef inline double far_out(double low, double high, uint64_t word) noexcept nogil:
    """A standard normal number between low and high, low being large.

    Robert (1995), Simulation of truncated normal variables: an exponential number, of rate low, that is accepted with
    probability exp(-(x - low)^2 / 2), which is above .97 from six standard deviations on.
    """
    cdef double x = low, span = 1 - exp(-low * (high - low))
    cdef int64_t attempt
    for attempt in range(MOST_ATTEMPTS):
        x = low - log(1 - open_unit(mixed(2 * attempt + 1, word)) * span) / low
        if open_unit(mixed(2 * attempt + 2, word)) <= exp(-0.5 * (x - low) * (x - low)):
            break
    return min(x, high)


cdef inline double between(double low, double high, uint64_t word, const double* normal) noexcept nogil:
    """A standard normal number between low and high: by the inverse of the distribution function, in the lower tail."""
    cdef double sign = 1, p, x
    if low > 0:
        low, high, sign = -high, -low, -1
    if high < -TAIL:
        return -sign * far_out(-high, -low, word)
    p = cdf(low, normal) if low > -INFINITY else 0.0
    x = cdf(high, normal) if high < INFINITY else 1.0
    x = quantile(p + open_unit(word) * (x - p))
    return sign * min(max(x, low), high)


cdef inline double mass(double low, double high, const double* normal) noexcept nogil:
    """Probability that a standard normal number lies between low and high."""
    cdef double p
    if low > 0:
        low, high = -high, -low
    p = (cdf(high, normal) if high < INFINITY else 1.0) - (cdf(low, normal) if low > -INFINITY else 0.0)
    return max(p, LEAST)


def truncated(const double[::1] low, const double[::1] high, uint64_t key, const double[:, ::1] normal,
              double[::1] out):
    """Standard normal numbers (n) between bounds (n). O(n)."""
    cdef int64_t i
    with nogil:
        for i in range(out.shape[0]):
            out[i] = between(low[i], high[i], mixed(i, key), &normal[0, 0])


def draw_latents(
    double[:, ::1] z,                 # IN and OUT (n, q) latents
    double[:, ::1] residual,          # IN (n, q) their means without effects of clusters; OUT what is left of z
    const int32_t[:, ::1] codes,      # IN (n, columns) levels; -1 is missing; 0 for numbers that are known
    const int32_t[:, ::1] layout,     # IN (q, 4)
    const double[::1] cuts,           # IN
    const double[:, ::1] precision,   # IN (q, q) inverse of the covariance of residuals
    const double[::1] sd,             # IN (q) of each latent given the others
    const double[:, ::1] x,           # IN (n, p) design
    const int32_t[::1] effects,       # IN (e) columns of x with effects of clusters, none without clusters
    const double[:, :, ::1] u,        # IN (clusters, e, q)
    const int32_t[::1] cluster,       # IN (n), or empty
    const int32_t[::1] order,         # IN latents to draw
    int64_t ratio,                    # IN ordered latent, or -1
    const double[::1] proposed,       # IN (size + 1) other cuts of it
    uint64_t key,
    int64_t first_row,                # IN number of the first row, for the hash
    const double[:, ::1] normal,      # IN
    double[:, :, ::1] sums,           # IN and OUT (clusters, e, q) sums of x z by cluster, or empty
):
    """Draw latents of some rows, one after the other, each given the others; then compare cuts of one of them.

    Returns the logarithm of the likelihood ratio of the proposed cuts of latent ``ratio``, given all other latents and
    with the latent itself integrated out; 0 without one. Given the others, with residuals r and precision K,
    z_c ~ N(z_c - K_c r / K_cc, 1 / K_cc). O(n q (q + e)), but for numbers that are known.
    """
    cdef int64_t i, k, c, d, j, n = z.shape[0], q = z.shape[1], e = effects.shape[0]
    cdef int64_t a, first, last, start
    cdef int32_t y
    cdef double mu, low, high, new, factor, product = 1, total = 0
    cdef double* r
    cdef double* row
    cdef const double* normals = &normal[0, 0]
    cdef const double* by
    cdef bint summing = sums.shape[0] > 0
    with nogil:
        for i in range(n):
            r, row = &residual[i, 0], &z[i, 0]
            for c in range(q):
                r[c] = row[c] - r[c]
            for k in range(e):
                factor, by = x[i, effects[k]], &u[cluster[i], k, 0]
                for c in range(q):
                    r[c] -= factor * by[c]
            for a in range(order.shape[0]):
                c = order[a]
                y = codes[i, layout[c, 1]]
                if y >= 0 and layout[c, 0] == NUMBER:
                    continue
                mu, by = 0, &precision[c, 0]
                for d in range(q):
                    mu += by[d] * r[d]
                mu = row[c] - mu * sd[c] * sd[c]
                low, high = -INFINITY, INFINITY
                if y >= 0 and layout[c, 0] == ORDERED:
                    low, high = cuts[layout[c, 2] + y], cuts[layout[c, 2] + y + 1]
                elif y >= 0:
                    first = layout[c, 2]
                    last = first + layout[c, 3]
                    if y == layout[c, 3]:
                        high = 0
                    elif first + y == c:
                        low = 0
                        for d in range(first, last):
                            if d != c and row[d] > low:
                                low = row[d]
                    else:
                        high = row[first + y]
                new = mu + sd[c] * between((low - mu) / sd[c], (high - mu) / sd[c],
                                           mixed((first_row + i) * q + c, key), normals)
                r[c] += new - row[c]
                row[c] = new
            if ratio >= 0 and codes[i, layout[ratio, 1]] >= 0:
                y, start = codes[i, layout[ratio, 1]], layout[ratio, 2]
                mu, by = 0, &precision[ratio, 0]
                for d in range(q):
                    mu += by[d] * r[d]
                mu = row[ratio] - mu * sd[ratio] * sd[ratio]
                product *= (mass((proposed[y] - mu) / sd[ratio], (proposed[y + 1] - mu) / sd[ratio], normals)
                            / mass((cuts[start + y] - mu) / sd[ratio], (cuts[start + y + 1] - mu) / sd[ratio], normals))
                # One logarithm for many rows; a factor alone cannot leave the range of a double.
                if not 1e-10 < product < 1e10:
                    total += log(product)
                    product = 1
            if summing:
                for k in range(e):
                    factor, j = x[i, effects[k]], cluster[i]
                    for c in range(q):
                        sums[j, k, c] += factor * row[c]
    return total + log(product)


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
            word = mixed(i, key)
            kjj, kkk, kjk = precision[j, j], precision[k, k], precision[j, k]
            pjj, pkk, pjk = spread[j, j], spread[k, k], spread[j, k]
            root = sqrt(kjj * kkk)
            level = log(open_unit(mixed(1, word)))
            low = -width * open_unit(mixed(2, word))
            high = low + width
            # Where 1 + d (kjk + root) > 0 and 1 + d (kjk - root) > 0; root > |kjk|.
            low = max(low, -1 / (kjk + root))
            high = min(high, -1 / (kjk - root))
            d = 0
            for attempt in range(MOST_ATTEMPTS):
                d = low + (high - low) * open_unit(mixed(3 + attempt, word))
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
