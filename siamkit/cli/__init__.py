"""The ``siamkit`` command: parses the arguments, calls the API and prints the results.

No module here imports torch or a plugin at module level. A command imports them when it runs.
"""
