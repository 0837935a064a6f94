/* The loops of _calibrate.pyx that the compiler has to vectorise: plain C, no intrinsics, the same bits on every machine.
 *
 * Types, layouts and terms are explained in _calibrate.pyx.
 */
#ifndef FASTSYNTH_CALIBRATE_KERNELS_H
#define FASTSYNTH_CALIBRATE_KERNELS_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(FASTSYNTH_GENERIC) && \
    !defined(__SANITIZE_ADDRESS__)
#define FS_CLONES __attribute__((target_clones("avx2", "sse4.1", "default")))
#else
#define FS_CLONES
#endif

/* share[j] = count[j] exp(t_j), t_j being the sum of value[a] weight[index[a]][j] over the active features, less
 * centre[j], within +-limit; returns the sum. exp(t) is the eighth power of the Taylor polynomial of exp(t / 8), whose
 * error is below 1e-10 for |t| <= 3: a library's exp may differ between machines.
 */
FS_CLONES static double fs_tilted_shares(const int32_t *restrict index, const double *restrict value, int64_t active,
                                         const double *restrict weight, const double *restrict centre,
                                         const double *restrict count, double limit, int64_t k, double *restrict share)
{
    double total = 0;
    for (int64_t j = 0; j < k; j++)
        share[j] = -centre[j];
    for (int64_t a = 0; a < active; a++) {
        const double *restrict row = weight + index[a] * k;
        const double x = value[a];
        for (int64_t j = 0; j < k; j++)
            share[j] += x * row[j];
    }
    for (int64_t j = 0; j < k; j++) {
        double t = share[j];
        t = t > limit ? limit : t;
        t = (t < -limit ? -limit : t) / 8;
        double e = 1 + t / 9;
        e = 1 + t / 8 * e;
        e = 1 + t / 7 * e;
        e = 1 + t / 6 * e;
        e = 1 + t / 5 * e;
        e = 1 + t / 4 * e;
        e = 1 + t / 3 * e;
        e = 1 + t / 2 * e;
        e = 1 + t * e;
        e *= e;
        e *= e;
        share[j] = count[j] * (e * e);
    }
    for (int64_t j = 0; j < k; j++)
        total += share[j];
    return total;
}

/* gradient[index[a]] += value[a] * left, for the active features. */
FS_CLONES static void fs_add_gradient(const int32_t *restrict index, const double *restrict value, int64_t active,
                                      const double *restrict left, int64_t k, double *restrict gradient)
{
    for (int64_t a = 0; a < active; a++) {
        double *restrict row = gradient + index[a] * k;
        const double x = value[a];
        for (int64_t j = 0; j < k; j++)
            row[j] += x * left[j];
    }
}

#endif
