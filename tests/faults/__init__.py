"""What people see when parts fail: real processes, killed, paused and starved."""
