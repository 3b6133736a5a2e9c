"""One reply on its way to readers: run by a process, kept in a log, followed by any number."""
