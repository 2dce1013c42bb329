"""What the ops and whole training loops take on an NVIDIA GPU: `make bench-gpu`."""
