"""What workers run, one module for each kind of job."""
