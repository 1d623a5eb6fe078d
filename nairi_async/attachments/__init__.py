"""Files on their way to the service and back: read piece by piece, bounded, never whole in memory twice."""
