"""The benchmark: kollacast beside the tools in use, on the same bytes, in one network of hosts.

``python -m bench --help`` says how it is run; README.md says what is measured, how, and why so.
"""
