"""Everything people read: tables, the log of a run, the report. Nothing here computes a figure."""
