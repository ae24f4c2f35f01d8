"""The public face: functions and classes that `import delf` gives by name.

Each command of `delf` is one of these functions, by the same names of options.
"""
