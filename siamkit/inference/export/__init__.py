"""Export: turns a trained network into files that run without siamkit, and measures them."""
