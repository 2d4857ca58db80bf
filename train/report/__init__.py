"""The report: one HTML page that shows an evaluation.

In: an `Evaluation` and the history of a run. Out: `report.html`.
The only package of train that imports matplotlib and jinja2. The engine must not import it.
"""
