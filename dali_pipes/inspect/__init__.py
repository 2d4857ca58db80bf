"""The content of a release and its faults.

In: a release. Out: an `Inspection`, shown on the console, as JSON or as a page.
Nothing else imports it, and it must not import torch or DALI.
"""
