"""`livetag selftest`: kills at each durable step, on the user's own modules, in a deployment made for it alone.

`tests/crash` runs on the same harness (`scratch`, `scenario`, `checks`), with modules of its own.
"""
