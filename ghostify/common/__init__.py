"""What every stage uses: checks, files, progress, processes, copies, costs. Nothing here knows a Ghost module."""
