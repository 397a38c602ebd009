"""Results on the disk: a folder that survives interruptions, its records, and its tables."""
