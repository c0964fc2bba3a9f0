"""What `twospeed evaluate` can run: a file per task, from the command line's request to a report."""
