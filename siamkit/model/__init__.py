"""Networks: backbones, their stages, heads, and the Siamese network."""
