"""Who hears of trials: the results table, MLflow, the console."""
