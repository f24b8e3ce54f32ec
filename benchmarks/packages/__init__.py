"""Networks of other packages, converted, calibrated, folded, exported, saved and trained with random weights."""
