"""The built-in virtual machine monitor: Python steers, the kernel carries.

Standard library only, Python 3.9 or later: it is shipped to a host as one zipapp and driven by
JSON lines on its standard input and output (see `supervisor`). It imports nothing of the harness.
"""
