"""The durable Optuna study: what is proposed, what became of it, and what stops early."""
