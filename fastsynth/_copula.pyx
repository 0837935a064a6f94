"""Latent correlations of tables, and ranks of latent values: the row and cell loops of the Gaussian copula.

A column of a table has one or several latents, each of which puts the groups of the column into classes. The tables of
all pairs of latents of two columns stand in one array::

                     latent 0 of b | latent 1 of b | ...
    latent 0 of a  [ classes x classes             ]     first_a = 0, 2, 4, ...
    latent 1 of a  [                               ]     first_b = 0, 2, 34, ...

    below_a[row, j]      share of rows in this class of the latent of a, or in one before it, among those that have a
                         class of latent j of b, too; likewise below_b[i, column]
"""

from libc.math cimport asin, cos, erfc, exp, fabs, log, sin, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

ctypedef fused rank_t:
    uint16_t
    uint32_t

cdef enum:
    _MOST = 64      # classes of a latent
    _NODES = 32     # nodes of the quadrature
    _STEPS = 60     # steps of the search for a correlation

cdef double _BOUND = .9999      # of correlations
cdef double _NEAR = .8          # correlations beyond it are integrated from 1
cdef double _LEAST = 1e-12      # probability of a cell
cdef double _HALF_PI = 1.5707963267948966
cdef double _ROOT_HALF = .7071067811865476


def polychoric(
    const double[:, ::1] counts,    # IN (classes of a, classes of b) rows, latent by latent
    const int32_t[::1] first_a,     # IN (latents of a + 1) first class of each latent
    const int32_t[::1] first_b,     # IN (latents of b + 1)
    const double[:, ::1] below_a,   # IN (classes of a, latents of b)
    const double[:, ::1] below_b,   # IN (latents of a, classes of b)
    const double[:, ::1] cut_a,     # IN (classes of a, latents of b) normal quantiles of below_a
    const double[:, ::1] cut_b,     # IN (latents of a, classes of b)
    const double[::1] nodes,        # IN (n_nodes) of Gauss and Legendre, from 0 to 1
    const double[::1] weights,      # IN (n_nodes)
    double prior,                   # rows of independence that every table gets
    double[:, ::1] r,               # OUT (latents of a, latents of b) correlations
    double[:, ::1] variance,        # OUT (latents of a, latents of b) inverse information; 1 where there is none
):
    """Correlations that make tables most likely, given their margins. O(cells) a step.

    1. Start at the correlation 0.
    2. Probabilities of the cells and their derivatives: ``_probabilities``.
    3. A step of Fisher's scoring, within the bracket that the signs of former scores left; halve that if it leads out.
    4. End where a step is below 1e-9.
    """
    cdef double p[(_MOST + 1) * (_MOST + 1)]
    cdef double d[(_MOST + 1) * (_MOST + 1)]
    cdef double fa[_MOST + 1]
    cdef double fb[_MOST + 1]
    cdef double ta[_MOST + 1]
    cdef double tb[_MOST + 1]
    cdef int i, j, k, a, b, na, nb, _step
    cdef double total, low, high, at, new, score, info, n, cell, slope
    with nogil:
        for i in range(r.shape[0]):
            na = first_a[i + 1] - first_a[i]
            for j in range(r.shape[1]):
                nb = first_b[j + 1] - first_b[j]
                fa[0] = fb[0] = ta[0] = tb[0] = 0
                total = 0
                for a in range(na):
                    fa[a + 1], ta[a + 1] = below_a[first_a[i] + a, j], cut_a[first_a[i] + a, j]
                    for b in range(nb):
                        total += counts[first_a[i] + a, first_b[j] + b]
                for b in range(nb):
                    fb[b + 1], tb[b + 1] = below_b[i, first_b[j] + b], cut_b[i, first_b[j] + b]
                r[i, j], variance[i, j] = 0, 1
                if total <= 0:
                    continue
                low, high, at, info = -_BOUND, _BOUND, 0, 0
                for _step in range(_STEPS):
                    _probabilities(at, na, nb, fa, fb, ta, tb, nodes, weights, p, d)
                    score = info = 0
                    for a in range(na):
                        for b in range(nb):
                            k = a * nb + b
                            if fa[a + 1] <= fa[a] or fb[b + 1] <= fb[b]:
                                continue
                            cell, slope = max(p[k], _LEAST), d[k]
                            n = counts[first_a[i] + a, first_b[j] + b]
                            n += prior * (fa[a + 1] - fa[a]) * (fb[b + 1] - fb[b])
                            if n > 0:
                                score += n * slope / cell
                            info += slope * slope / cell
                    info *= total + prior
                    if info <= 0:
                        break
                    if score > 0:
                        low = at
                    else:
                        high = at
                    new = at + score / info
                    if not low < new < high:
                        new = .5 * (low + high)
                    if fabs(new - at) < 1e-9:
                        break
                    at = new
                if info > 0:
                    r[i, j], variance[i, j] = at, min(1., 1 / info)


def unselected(
    const double[:, ::1] seen,      # IN (q, q) correlations among rows that both latents say something about
    const double[:, ::1] lost,      # IN (q, q) share of its variance that a latent, by columns, loses in these rows
    const double[:, ::1] within,    # IN (q, q) correlations of latents of one column
    const int32_t[::1] first,       # IN (n_columns + 1) first latent of each column
    double[:, ::1] r,               # OUT (q, q) correlations among all rows, above the diagonal
):
    """Correlations among all rows, from those among the rows that former latents of two columns select.

    1. The covariances of the former latents of both, which select, and of the two themselves. That of these is still
       unknown, and stands as 0.
    2. Selection by each in turn takes from all covariances what goes with the variance that it loses: as if all were
       normal (Pearson 1903, On the influence of natural selection on the variability and correlation of organs).
    3. What is left of the two variances, and was taken from their covariance, gives that.

    Latents follow those that select them, so what step 1 needs is there. O(depth^3) a pair.
    """
    cdef double c[2 * _MOST + 2][2 * _MOST + 2]
    cdef int which[2 * _MOST + 2]
    cdef double taken[2 * _MOST + 2]
    cdef int i, j, k, a, b, u, v, x, y, m, own
    cdef double part
    with nogil:
        for i in range(first.shape[0] - 1):
            for j in range(i + 1, first.shape[0] - 1):
                for x in range(first[i], first[i + 1]):
                    for y in range(first[j], first[j + 1]):
                        # 1.
                        m = 0
                        for k in range(first[i], x):
                            if lost[x, k] > 0:
                                which[m], taken[m] = k, lost[x, k]
                                m += 1
                        own = m
                        for k in range(first[j], y):
                            if lost[y, k] > 0:
                                which[m], taken[m] = k, lost[y, k]
                                m += 1
                        which[m], which[m + 1] = x, y
                        for a in range(m + 2):
                            for b in range(a, m + 2):
                                u, v = which[a], which[b]
                                if (a < own or a == m) == (b < own or b == m):
                                    part = within[u, v]
                                elif a == m:
                                    part = 0
                                else:
                                    part = r[min(u, v), max(u, v)]
                                c[a][b] = c[b][a] = part
                        # 2.
                        for k in range(m):
                            if c[k][k] < 1e-9:
                                continue
                            for a in range(k + 1, m + 2):
                                part = c[k][a] * taken[k] / c[k][k]
                                for b in range(a, m + 2):
                                    c[a][b] -= part * c[k][b]
                            for a in range(k + 1, m + 2):
                                for b in range(a, m + 2):
                                    c[b][a] = c[a][b]
                        # 3.
                        part = sqrt(max(c[m][m], 0.) * max(c[m + 1][m + 1], 0.))
                        r[x, y] = max(-_BOUND, min(_BOUND, seen[x, y] * part - c[m][m + 1]))


cdef void _probabilities(
    double r, int na, int nb, const double* fa, const double* fb, const double* ta, const double* tb,
    const double[::1] nodes, const double[::1] weights, double* p, double* d,
) noexcept nogil:
    """Probabilities of the cells of a normal distribution cut in both directions, and their derivatives by r.

    The distribution function has the density as its derivative by r (Plackett 1954): so it is integrated over the angle
    asin(r), from that of independence, or where r is near 1 in absolute value from that of full dependence
    (Drezner and Wesolowsky 1990). Cells are differences of it, taken in place::

        p[a, b] = F[a + 1, b + 1] - F[a, b + 1] - F[a + 1, b] + F[a, b]
    """
    cdef double sine[_NODES]
    cdef double inverse[_NODES]
    cdef double start, width, x, total, own, density, sign = 1 if r >= 0 else -1
    cdef double one_minus = 1 - r * r
    cdef double upper[_MOST + 1]
    cdef double slope[_MOST + 1]
    cdef int a, b, i, m = <int> nodes.shape[0]
    cdef bint near = fabs(r) > _NEAR
    cdef double value, derivative, last, last_slope
    start = sign * _HALF_PI if near else 0.
    width = asin(r) - start
    for i in range(m):
        x = start + width * nodes[i]
        sine[i] = sin(x)
        inverse[i] = 1 / (cos(x) * cos(x))
    # Weights are those of an interval of length 2, and the density has 1 / (2 pi).
    width /= 8 * _HALF_PI
    for b in range(nb + 1):
        upper[b] = slope[b] = 0
    for a in range(na):
        last = last_slope = 0
        for b in range(nb):
            # F and its derivative at the upper end of the cell.
            derivative = 0
            if fa[a + 1] <= 0 or fb[b + 1] <= 0:
                value = 0
            elif fa[a + 1] >= 1:
                value = fb[b + 1]
            elif fb[b + 1] >= 1:
                value = fa[a + 1]
            else:
                own, x = .5 * (ta[a + 1] * ta[a + 1] + tb[b + 1] * tb[b + 1]), ta[a + 1] * tb[b + 1]
                total = 0
                for i in range(m):
                    total += weights[i] * exp((sine[i] * x - own) * inverse[i])
                if not near:
                    value = fa[a + 1] * fb[b + 1]
                elif sign > 0:
                    value = min(fa[a + 1], fb[b + 1])
                else:
                    value = max(fa[a + 1] + fb[b + 1] - 1, 0.)
                value += width * total
                density = exp((r * x - own) / one_minus)
                derivative = density / (4 * _HALF_PI * sqrt(one_minus))
            # upper[b] is F at (a, b + 1) until it is replaced; upper of the column before was, and is in last.
            p[a * nb + b] = value - upper[b + 1] - last
            d[a * nb + b] = derivative - slope[b + 1] - last_slope
            last, last_slope = value - upper[b + 1], derivative - slope[b + 1]
            upper[b + 1], slope[b + 1] = value, derivative


def normals(
    const uint64_t[:, ::1] words,   # IN (n_latents, n) random words
    double[:, ::1] out,             # OUT (n_latents, n)
):
    """Standard normal values of random words, by the inverse distribution function. O(words)."""
    cdef int64_t i, j, n = words.shape[1]
    with nogil:
        for j in range(words.shape[0]):
            for i in range(n):
                out[j, i] = _quantile(((words[j, i] >> 12) + .5) / 4503599627370496.)


cdef inline double _quantile(double u) noexcept nogil:
    """Wichura (1988), Algorithm AS 241: the percentage points of the normal distribution; 16 digits."""
    cdef double q = u - .5, t, x
    if fabs(q) <= .425:
        t = .180625 - q * q
        return q * (((((((2509.0809287301226727 * t + 33430.575583588128105) * t + 67265.770927008700853) * t
                        + 45921.953931549871457) * t + 13731.693765509461125) * t + 1971.5909503065514427) * t
                     + 133.14166789178437745) * t + 3.387132872796366608) / \
            (((((((5226.495278852545925 * t + 28729.085735721942674) * t + 39307.89580009271061) * t
                 + 21213.794301586595867) * t + 5394.1960214247511077) * t + 687.1870074920579083) * t
              + 42.313330701600911252) * t + 1.)
    t = sqrt(-log(u if q < 0 else 1 - u))
    if t <= 5:
        t -= 1.6
        x = (((((((7.7454501427834140764e-4 * t + .0227238449892691845833) * t + .24178072517745061177) * t
                 + 1.27045825245236838258) * t + 3.64784832476320460504) * t + 5.7694972214606914055) * t
              + 4.6303378461565452959) * t + 1.42343711074968357734) / \
            (((((((1.05075007164441684324e-9 * t + 5.475938084995344946e-4) * t + .0151986665636164571966) * t
                 + .14810397642748007459) * t + .68976733498510000455) * t + 1.6763848301838038494) * t
              + 2.05319162663775882187) * t + 1.)
    else:
        t -= 5
        x = (((((((2.01033439929228813265e-7 * t + 2.71155556874348757815e-5) * t + .0012426609473880784386) * t
                 + .026532189526576123093) * t + .29656057182850489123) * t + 1.7848265399172913358) * t
              + 5.4637849111641143699) * t + 6.6579046435011037772) / \
            (((((((2.04426310338993978564e-15 * t + 1.4215117583164458887e-7) * t + 1.8463183175100546818e-5) * t
                 + 7.868691311456132591e-4) * t + .0148753612908506148525) * t + .13692988092273580531) * t
              + .59983220655588793769) * t + 1.)
    return -x if q < 0 else x


def shares(
    const double[::1] z,            # IN (n) standard normal values
    double[::1] out,                # OUT (n) probability below each
):
    """The normal distribution function. O(n)."""
    cdef int64_t i
    with nogil:
        for i in range(z.shape[0]):
            out[i] = .5 * erfc(-z[i] * _ROOT_HALF)


def inverse(
    const double[::1] u,            # IN (n) shares of rows, from 0 to 1
    const double[::1] ends,         # IN (n_ranks) share of rows up to each rank, ascending; the last one is 1
    const int32_t[::1] guide,       # IN (n_guide) first rank that ends beyond i / n_guide
    rank_t[::1] out,                # OUT (n) first rank that ends beyond the share
):
    """Ranks at shares of the rows. O(1) a value on average."""
    cdef int64_t i
    cdef int32_t rank, most = <int32_t> ends.shape[0] - 1, last = <int32_t> guide.shape[0] - 1
    cdef double cells = <double> guide.shape[0]
    with nogil:
        for i in range(u.shape[0]):
            rank = guide[min(<int32_t> (u[i] * cells), last)]
            while rank < most and ends[rank] <= u[i]:
                rank += 1
            out[i] = <rank_t> rank


def descend(
    const double[:, ::1] z,         # IN (n_splits, n) standard normal values
    const double[::1] cut,          # IN (n_splits) values beyond it go right
    const int32_t[:, ::1] child,    # IN (n_splits, 2) split to the left and to the right, or -1 - group
    uint8_t[::1] out,               # OUT (n) group
):
    """Groups at the ends of a tree of splits, each of which has a latent of its own. O(depth) a row."""
    cdef int64_t i
    cdef int32_t at
    with nogil:
        for i in range(z.shape[1]):
            at = 0
            while at >= 0:
                at = child[at, z[at, i] > cut[at]]
            out[i] = <uint8_t> (-1 - at)
