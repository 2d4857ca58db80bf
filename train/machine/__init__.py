"""The hardware of this machine, and the choices made for it.

In: the machine. Out: choices such as device, precision and compilation, each with its reason.
It must not import scores, recipes or runs.
"""
