"""Galleries: indexes of embeddings, with exact and approximate search."""
