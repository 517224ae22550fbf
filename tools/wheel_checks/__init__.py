"""What tools/check_wheel.py verifies, one module per kind of check; standard library only."""
