"""Which site gets which ratio: settings, targets, budgets, the conversion and its report."""
