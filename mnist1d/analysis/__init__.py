"""From the store to the report, in layers whose arrows point one way.

    read -> statistics, curves -> intervals -> figures, claims -> one page per experiment -> report

`read` is the only place that touches MLflow; nothing here imports torch, Lightning or training code. This
module is light, so that the command line can be checked before anything heavy is imported.
"""

PAGES = {name: f"mnist1d.analysis.{name}" for name in ("classification", "double_descent", "pooling")}
"""Experiment -> the module of its page, with METRICS (histories it needs) and page(runs); order of the report."""
