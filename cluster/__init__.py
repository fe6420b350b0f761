"""Where and when trials run: the study, its adapters to Ray Tune, tracking and the programs."""
