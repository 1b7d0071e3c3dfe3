"""what a system is trained for, and how its answers are scored."""
