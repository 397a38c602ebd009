"""What is asked: objectives, paths, readouts, points and comparison methods."""
