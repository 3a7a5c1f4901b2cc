"""Work on thousands of scans: what is to be read, who reads it, and what is kept of the results."""
