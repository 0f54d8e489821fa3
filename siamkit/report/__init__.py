"""What people read: tables, the log of a run. Nothing here computes."""
