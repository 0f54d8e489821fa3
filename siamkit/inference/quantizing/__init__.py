"""Quantizing: int8 networks, in which layers that cost quality stay in float32."""
