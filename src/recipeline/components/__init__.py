"""Built-in parts; they stand in the same entry-point table as everybody else."""
