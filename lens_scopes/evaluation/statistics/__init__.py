"""Statistics over passages: means with intervals, paired comparisons, sanity verdicts."""
