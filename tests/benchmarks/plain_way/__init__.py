"""A finished search, run again the way the documentation of Ray Tune and its kin suggests."""
