"""Using a trained network: embeddings in files, an index of a gallery, and searching it."""
