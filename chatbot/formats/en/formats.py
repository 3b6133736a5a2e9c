"""Dates and times as people say them; times are UTC and say so."""

DATE_FORMAT = "j M Y"
SHORT_DATE_FORMAT = "j M Y"
TIME_FORMAT = "H:i"
DATETIME_FORMAT = r"j M Y, H:i \U\T\C"
SHORT_DATETIME_FORMAT = r"j M Y, H:i \U\T\C"
