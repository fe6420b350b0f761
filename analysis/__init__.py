"""What the results of a search say: tables, contrasts, verdicts, figures and one page."""
