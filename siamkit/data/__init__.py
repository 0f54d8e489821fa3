"""Images: where they are, how they are split, decoded, varied, batched and loaded."""
