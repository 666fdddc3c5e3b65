"""Load and abuse: transfers as fast as they are offered, with all the junk one can think of (issue 6, point 6)."""
