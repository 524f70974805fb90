"""From score files to a report."""
