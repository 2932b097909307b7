"""`sync=true`: record what was kept while a store was away; nothing is trained."""

import sys

from mnist1d.config import Tracking
from mnist1d.terminal import Terminal
from mnist1d.tracking import Recorder, TrackingError, spool


def record_or_refuse(place: Tracking) -> None:
    """Record it, and mark the runs that nobody trains any more; ends the program with status 1 where that fails.

    Args:
        place: the store, and the MLflow experiment in it.
    """
    terminal = Terminal()
    if not spool.place(place.uri, place.experiment).is_dir():
        terminal.say("nothing is kept for this store and experiment")
        for uri in spool.stores():
            terminal.say(f"something is for another one: {uri} (tracking.uri, tracking.experiment)")
        return
    try:
        recorder = Recorder(place.uri, place.experiment)
        with recorder.alone():
            done = recorder.catch_up()
            terminal.caught_up(done.runs, list(done.refused.values()))
            terminal.orphans(recorder.clear([]))
    except TrackingError as error:
        sys.exit(f"train.py: {error}")
    if done.refused:
        sys.exit(1)
