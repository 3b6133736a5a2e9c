"""Reading what others said: for a matter, for a time, and on the record."""
