"""Saved networks: folders that siamkit loads. Plain timm can load the backbone if it is timm's."""
