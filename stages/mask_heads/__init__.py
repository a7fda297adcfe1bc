"""Box regressors: features and boxes -> deltas."""
