"""What every run needs: parameters, seeds, files, the stage's frame."""
