"""The engine: runs the frozen part of a network once."""
