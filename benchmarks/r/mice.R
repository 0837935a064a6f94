# What mice makes of boys, and seconds of its sweeps: the reference for benchmarks/imputation.py.
#
#   python benchmarks/imputation.py table table.csv
#   Rscript benchmarks/r/mice.R boys.csv table.csv mice.json
#
# Needs the Debian packages r-cran-mice and r-cran-mass.

suppressPackageStartupMessages({library(mice); library(MASS)})
given <- commandArgs(trailingOnly = TRUE)

# boys with its own holes: mice's default methods, bmi computed from wgt and hgt, Rubin's rule.
boys <- read.csv(given[1], na.strings = c("", "NA"))
boys$gen <- factor(boys$gen, ordered = TRUE)
boys$phb <- factor(boys$phb, ordered = TRUE)
boys$reg <- factor(boys$reg, levels = c("north", "east", "west", "south", "city"))
first <- mice(boys, maxit = 0)
method <- first$method
method["bmi"] <- "~ I(round(wgt / (hgt / 100)^2, 2))"
matrix <- first$predictorMatrix
matrix[c("wgt", "hgt"), "bmi"] <- 0
imputed <- mice(boys, m = 20, maxit = 20, method = method, predictorMatrix = matrix, seed = 1, printFlag = FALSE)
tell <- function(pooled, names) {
  table <- summary(pooled)
  table <- table[as.character(table$term) %in% names, ]
  paste(sprintf('      "%s": [%.6f, %.6f]', table$term, table$estimate, table$std.error), collapse = ",\n")
}
# Of all boys, and of those of 8 and older: nobody younger has gen, phb or tv.
models <- function(from) {
  height <- pool(with(imputed, lm(hgt ~ age + as.integer(phb), subset = age >= from)))
  stage <- pool(with(imputed, polr(gen ~ age + hc + reg, Hess = TRUE, subset = age >= from)))
  c('    "of_height": {', sub("as.integer\\(phb\\)", "phb", tell(height, c("(Intercept)", "age", "as.integer(phb)"))),
    "    },", '    "of_stage": {', tell(stage, c("age", "hc", "regeast", "regwest", "regsouth", "regcity")), "    }")
}
babies <- mean(complete(imputed, "long")$gen[rep(boys$age < 4, 20)] != "G1")

# One sweep of one chain by cart; the time of further ones is the same.
frame <- read.csv(given[2], na.strings = "", stringsAsFactors = TRUE)
seconds <- system.time(mice(frame, m = 1, maxit = 1, method = "cart", printFlag = FALSE, seed = 1))[["elapsed"]]

writeLines(c(
  "{",
  sprintf('  "mice": "%s", "R": "%s",', packageVersion("mice"), getRversion()),
  '  "m": 20, "maxit": 20,', sprintf('  "beyond G1 of boys younger than 4": %.4f,', babies),
  '  "from 0": {', models(0), "  },", '  "from 8": {', models(8), "  },",
  sprintf('  "speed": {"rows": %d, "columns": %d, "seconds_per_sweep": %.2f}', nrow(frame), ncol(frame), seconds),
  "}"
), given[3])
