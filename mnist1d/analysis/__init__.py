"""From the store to the report, in layers whose arrows point one way.

    read -> metrics -> intervals -> figures -> one page per experiment

`read` is the only place that touches MLflow; nothing here imports torch, Lightning or training code. This
module is light, so that the command line can be checked before anything heavy is imported.
"""

PAGES = {"classification": "mnist1d.analysis.classification"}
"""Experiment -> the module that draws its page: METRICS (histories it needs) and report(runs, output)."""
