# Seconds a sweep and effective sample sizes of jomo, the reference for benchmarks/multilevel.py.
#
#   python benchmarks/multilevel.py table latent.csv
#   Rscript benchmarks/r/jomo.R latent.csv jomo.json [burn_in 1000] [sweeps 5000]
#
# Two levels, random intercepts, no predictors. jomo has no ordered columns: o is unordered to it, with one more latent
# than thresholds would need. Needs the Debian packages r-cran-jomo and r-cran-coda.

suppressPackageStartupMessages({library(jomo); library(coda)})

given <- commandArgs(trailingOnly = TRUE)
burn_in <- if (length(given) > 2) as.integer(given[3]) else 1000L
sweeps <- if (length(given) > 3) as.integer(given[4]) else 5000L

frame <- read.csv(given[1])
numbers <- frame[, c("x", "y")]
categories <- data.frame(lapply(frame[, c("b", "o", "c")], factor))
levels_of <- sapply(categories, nlevels)
ones <- data.frame(one = rep(1, nrow(frame)))
cluster <- data.frame(cluster = frame$cluster)

set.seed(1)
seconds <- system.time(
  chain <- suppressMessages(jomo1ranmix.MCMCchain(
    Y.con = numbers, Y.cat = categories, Y.numcat = levels_of, X = ones, clus = cluster,
    nburn = burn_in + sweeps, output = 0))
)[["elapsed"]]
kept <- burn_in + seq_len(sweeps)

# Rows of a matrix a parameter, of the upper triangle of symmetric ones.
draws_of <- function(array, symbol, symmetric) {
  names <- dimnames(array)
  size <- dim(array)[1:2]
  found <- list()
  for (i in seq_len(size[1])) for (j in seq_len(size[2])) {
    if (symmetric && j < i) next
    name <- if (symmetric) sprintf("%s[%s, %s]", symbol, names[[1]][i], names[[2]][j]) else
      sprintf("%s[%s]", symbol, names[[2]][j])
    found[[name]] <- array[i, j, kept]
  }
  found
}
draws <- c(draws_of(chain$collectbeta, "beta", FALSE), draws_of(chain$collectomega, "omega_e", TRUE),
           draws_of(chain$collectcovu, "omega_2", TRUE))
# Elements that are fixed for identification do not move.
draws <- draws[sapply(draws, function(x) sd(x) > 0)]

lines <- sapply(names(draws), function(name) {
  x <- draws[[name]]
  sprintf('    {"parameter": "%s", "mean": %.6g, "sd": %.6g, "ess": %.1f}', name, mean(x), sd(x), effectiveSize(x))
})
ess <- sapply(draws, effectiveSize)
writeLines(c(
  "{",
  sprintf('  "jomo": "%s", "R": "%s",', packageVersion("jomo"), getRversion()),
  sprintf('  "rows": %d, "columns": 5, "clusters": %d, "latents": %d,', nrow(frame), length(unique(frame$cluster)),
          dim(chain$collectomega)[1]),
  sprintf('  "burn_in": %d, "sweeps": %d, "seconds": %.2f, "seconds_per_sweep": %.6f,', burn_in, sweeps, seconds,
          seconds / (burn_in + sweeps)),
  sprintf('  "ess_min": %.1f, "ess_median": %.1f, "ess_per_second_min": %.4f, "ess_per_second_median": %.4f,', min(ess),
          median(ess), min(ess) / seconds * (burn_in + sweeps) / sweeps,
          median(ess) / seconds * (burn_in + sweeps) / sweeps),
  '  "parameters": [', paste(lines, collapse = ",\n"), "  ]", "}"), given[2])
