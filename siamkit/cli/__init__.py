"""The ``siamkit`` command: parses, calls, prints.

Modules here import neither torch nor a plugin at module level; verbs do, once they run.
"""
