"""Saving a network to a folder that siamkit, and for its backbone plain timm, loads again."""
