/* The loops of _latent.pyx that the compiler has to vectorise: plain C, no intrinsics, the same bits on every machine.
 *
 * Everything works on a tile of at most FS_TILE rows of one latent. Types, layouts and terms stand in _latent.pyx.
 */
#ifndef FASTSYNTH_LATENT_KERNELS_H
#define FASTSYNTH_LATENT_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(FASTSYNTH_GENERIC) && \
    !defined(__SANITIZE_ADDRESS__)
#define FS_CLONES __attribute__((target_clones("avx2", "sse4.1", "default")))
#else
#define FS_CLONES
#endif

#define FS_TILE 256
/* Nodes of the table of the normal distribution below 0, and per unit; it ends 8.5 standard deviations from 0. */
#define FS_HALF 544
#define FS_PER_UNIT 64
/* Bounds stay within the table; what lies beyond has a probability of 1e-17. */
#define FS_END 8.49
/* Intervals that end below -FS_TAIL are drawn from by rejection, their probabilities are taken from erfc. */
#define FS_TAIL 6.0
#define FS_LEAST 1e-290
#define FS_ATTEMPTS 200

/* The finaliser of SplitMix64, as in streams.hashed. */
static inline uint64_t fs_mixed(uint64_t number, uint64_t key)
{
    uint64_t z = number * UINT64_C(0x9E3779B97F4A7C15) + key;
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* A number between 0 and 1, never one of them: 52 bits as the fraction of a number from 1 to 2. */
static inline double fs_unit(uint64_t word)
{
    const uint64_t bits = (word >> 12) | UINT64_C(0x3FF0000000000000);
    double x;
    memcpy(&x, &bits, sizeof x);
    return x - (1 - 0x1p-53);
}

/* The normal distribution function within the table, to nine digits of its value in the lower tail too: derivatives at
 * a node are its density times Hermite polynomials, of which five are used.
 */
static inline double fs_cdf(double x, const double *restrict normal)
{
    const int32_t j = (int32_t)(x * FS_PER_UNIT + (FS_HALF + 0.5));
    const double a = (double)(j - FS_HALF) * (1.0 / FS_PER_UNIT), h = x - a, b = a * a;
    double t = ((b - 6) * b + 3) * (1.0 / 120);
    t = a * (3 - b) * (1.0 / 24) + h * t;
    t = (b - 1) * (1.0 / 6) + h * t;
    t = 1 + h * (h * t - a / 2);
    return normal[2 * j] + normal[2 * j + 1] * (h * t);
}

/* The normal quantile to sixteen digits: Wichura (1988), algorithm AS 241, PPND16. */
static double fs_quantile(double p)
{
    const double q = p - 0.5;
    double r, x;
    if (fabs(q) <= 0.425) {
        r = 0.180625 - q * q;
        return q * (((((((2.5090809287301226727e+3 * r + 3.3430575583588128105e+4) * r + 6.7265770927008700853e+4) * r
                        + 4.5921953931549871457e+4) * r + 1.3731693765509461125e+4) * r
                      + 1.9715909503065514427e+3) * r + 1.3314166789178437745e+2) * r + 3.3871328727963666080e0)
               / (((((((5.2264952788528545610e+3 * r + 2.8729085735721942674e+4) * r + 3.9307895800092710610e+4) * r
                      + 2.1213794301586595867e+4) * r + 5.3941960214247511077e+3) * r
                    + 6.8718700749205790830e+2) * r + 4.2313330701600911252e+1) * r + 1.0);
    }
    r = sqrt(-log(q < 0 ? p : 1 - p));
    if (r <= 5) {
        r -= 1.6;
        x = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                 + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
              + 4.63033784615654529590e0) * r + 1.42343711074968357734e0)
            / (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                   + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
                + 2.05319162663775882187e0) * r + 1.0);
    } else {
        r -= 5;
        x = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                 + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
              + 5.46378491116411436990e0) * r + 6.65790464350110377720e0)
            / (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                   + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
                + 5.99832206555887937690e-1) * r + 1.0);
    }
    return q < 0 ? -x : x;
}

/* A standard normal number from low to high, low being large. Robert (1995), Simulation of truncated normal variables:
 * an exponential number of rate low, accepted with probability exp(-(x - low)^2 / 2), .97 on average at 6.
 */
static double fs_far_out(double low, double high, uint64_t word)
{
    const double span = 1 - exp(-low * (high - low));
    double x = low;
    for (uint64_t attempt = 0; attempt < FS_ATTEMPTS; attempt++) {
        x = low - log(1 - fs_unit(fs_mixed(2 * attempt + 1, word)) * span) / low;
        if (fs_unit(fs_mixed(2 * attempt + 2, word)) <= exp(-0.5 * (x - low) * (x - low)))
            break;
    }
    return x < high ? x : high;
}

/* mean[t] = z[t] - variance * sum over d of precision[d] residual[d][t]: of one latent given the others. */
FS_CLONES static void fs_conditional(const double *restrict z, const double *restrict residual,
                                     const double *restrict precision, double variance, int64_t q, int64_t n,
                                     double *restrict mean)
{
    double sum[FS_TILE] = {0};
    for (int64_t d = 0; d < q; d++) {
        const double *restrict of_d = residual + d * FS_TILE;
        const double k = precision[d];
        for (int64_t t = 0; t < n; t++)
            sum[t] += k * of_d[t];
    }
    for (int64_t t = 0; t < n; t++)
        mean[t] = z[t] - variance * sum[t];
}

/* Bounds in standard deviations from the mean, turned round where they lie to the right of it: sign[t] is then -1. */
FS_CLONES static void fs_standardise(double *restrict low, double *restrict high, const double *restrict mean, double sd,
                                     int64_t n, double *restrict sign)
{
    const double scale = 1 / sd;
    for (int64_t t = 0; t < n; t++) {
        const double a = (low[t] - mean[t]) * scale, b = (high[t] - mean[t]) * scale;
        const int turned = a + b > 0;
        low[t] = turned ? -b : a;
        high[t] = turned ? -a : b;
        sign[t] = turned ? -1.0 : 1.0;
    }
}

/* Distribution function at x[t], taken to lie within the table. */
FS_CLONES static void fs_cdfs(const double *restrict x, int64_t n, const double *restrict normal, double *restrict out)
{
    for (int64_t t = 0; t < n; t++) {
        double a = x[t] < -FS_END ? -FS_END : x[t];
        a = a > FS_END ? FS_END : a;
        out[t] = fs_cdf(a, normal);
    }
}

/* Central part of the quantile, of .02425 to .97575, to nine digits: Acklam (2003). */
FS_CLONES static void fs_centre(const double *restrict p, int64_t n, double *restrict x)
{
    for (int64_t t = 0; t < n; t++) {
        const double q = p[t] - 0.5, r = q * q;
        const double top = (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r
                              + 1.383577518672690e+02) * r - 3.066479806614716e+01) * r + 2.506628277459239e+00) * q;
        const double bottom = ((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r
                                + 6.680131188771972e+01) * r - 1.328068155288572e+01) * r + 1;
        x[t] = top / bottom;
    }
}

/* p[t] = lower[t] + u (p[t] - lower[t]), u being made of the number first + t * step and the key. */
FS_CLONES static void fs_uniform(const double *restrict lower, uint64_t first, uint64_t step, uint64_t key, int64_t n,
                                 double *restrict p)
{
    for (int64_t t = 0; t < n; t++)
        p[t] = lower[t] + fs_unit(fs_mixed(first + (uint64_t)t * step, key)) * (p[t] - lower[t]);
}

/* x[t] = mean[t] + sd times a standard normal number between low[t] and high[t]; all bounds are overwritten. */
static void fs_truncated(double *restrict low, double *restrict high, const double *restrict mean, double sd,
                         uint64_t first, uint64_t step, uint64_t key, int64_t n, const double *restrict normal,
                         double *restrict x)
{
    double sign[FS_TILE], lower[FS_TILE], p[FS_TILE];
    fs_standardise(low, high, mean, sd, n, sign);
    fs_cdfs(low, n, normal, lower);
    fs_cdfs(high, n, normal, p);
    fs_uniform(lower, first, step, key, n, p);
    fs_centre(p, n, x);
    for (int64_t t = 0; t < n; t++) {
        if (high[t] < -FS_TAIL)
            x[t] = -fs_far_out(-high[t], -low[t], fs_mixed(first + (uint64_t)t * step, key));
        else if (fabs(p[t] - 0.5) > 0.47575)
            x[t] = fs_quantile(p[t]);
    }
    for (int64_t t = 0; t < n; t++) {
        double y = x[t] > low[t] ? x[t] : low[t];
        y = y < high[t] ? y : high[t];
        x[t] = mean[t] + sd * (sign[t] * y);
    }
}

/* Probability of each interval; all bounds are overwritten. */
static void fs_masses(double *restrict low, double *restrict high, const double *restrict mean, double sd, int64_t n,
                      const double *restrict normal, double *restrict mass)
{
    double sign[FS_TILE], lower[FS_TILE];
    fs_standardise(low, high, mean, sd, n, sign);
    fs_cdfs(low, n, normal, lower);
    fs_cdfs(high, n, normal, mass);
    for (int64_t t = 0; t < n; t++) {
        mass[t] -= lower[t];
        if (high[t] < -FS_TAIL)
            mass[t] = 0.5 * (erfc(-high[t] * 0.7071067811865476) - erfc(-low[t] * 0.7071067811865476));
        if (!(mass[t] > FS_LEAST))
            mass[t] = FS_LEAST;
    }
}

#endif
