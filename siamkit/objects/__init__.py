"""Python objects that users pass instead of names: adapters to the interfaces, and entries."""
