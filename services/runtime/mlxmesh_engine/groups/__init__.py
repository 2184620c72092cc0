"""One model over several ranks: rank 0 schedules and samples, all ranks compute."""
