"""What comes back: result types, their files and tables."""
