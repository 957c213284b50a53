"""Numbers for what is found in a stream, so that the same thing has the same number from frame to frame.

`Tracker` is the seam; `ByteTracker` the one that is built in. Pure: boxes, classes, scores and times go in,
numbers come out. Knows neither sessions nor detectors.
"""

from opsin_server.streams.tracking.api import Sightings, Tracker
from opsin_server.streams.tracking.byte_tracker import ByteTracker, TrackerOptions

__all__ = ["ByteTracker", "Sightings", "Tracker", "TrackerOptions"]
