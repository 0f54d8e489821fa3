"""Objects in the place of names: adapters to siamkit's interfaces, and entries for them."""
