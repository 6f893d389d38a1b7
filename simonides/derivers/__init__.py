"""What is derived from records, by followers of the log: one file each."""
