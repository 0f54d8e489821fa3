"""Saved networks: folders that siamkit loads. Plain timm loads the backbone if it is timm's."""
