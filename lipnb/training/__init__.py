"""Part V: training loops of the reproductions."""
