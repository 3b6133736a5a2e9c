def measure(running, *, quick):
    return []
