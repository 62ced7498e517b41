"""edgesafe."""
