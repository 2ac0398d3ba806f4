"""Processes, threads, files, folders, precision and progress: what every other package stands on."""
