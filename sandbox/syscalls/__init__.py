"""System calls by ctypes: argtypes declared once, every failure an OSError with call and path. No policy here."""
