"""What is in a release, and what is wrong with it.

In: a release.  Out: an `Inspection`, shown on the console, as JSON or as a page.
Nothing else imports it, and it must not import torch or DALI.
"""
