"""The competitors of ``freeze_engine.py``: each a program that prints one JSON line."""
