# Bandwidths of Sheather and Jones (1991) by R's stats::bw.SJ, for tests/test_sdc.py. Run: Rscript bandwidth.R
# R bins at 1,000 places and stops at 1 % of the widest bandwidth; here it is asked for more of both.
i <- 1:500
boys <- read.csv("../../fastsynth/data/boys.csv", na.strings = c("NA", ""))
columns <- list(
  normal = qnorm((i - .5) / 500),
  skewed = exp(qnorm((i - .5) / 500)),
  two = c(qnorm((i - .5) / 500), 4 + .3 * qnorm((1:250 - .5) / 250)),
  wild = 1000 + 50 * sin(i^2) + i / 3,
  uniform = (i - .5) / 500,
  hgt = boys$hgt[!is.na(boys$hgt)],
  bmi = boys$bmi[!is.na(boys$bmi)],
  wgt = boys$wgt[!is.na(boys$wgt)]
)
found <- sapply(columns, function(x) bw.SJ(x, nb = 20000, tol = 1e-10))
cat("{\n", paste0(' "', names(found), '": ', sprintf("%.8g", found), collapse = ",\n"), "\n}\n", sep = "")
