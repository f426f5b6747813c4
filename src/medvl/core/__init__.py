"""What every part stands on: errors, files, devices, the protocol of a task."""
