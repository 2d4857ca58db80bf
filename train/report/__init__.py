"""The report: one HTML page about one set of predictions.

In: predictions and scores.  Out: `report.html`.
The only package that imports matplotlib and jinja2.  The engine must not import it.
"""
