"""Data: opens, checks, splits, decodes, augments, batches and loads the images of a run."""
