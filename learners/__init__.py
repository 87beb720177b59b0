"""What improves: replay, networks, ensembles, and one file per learner."""
