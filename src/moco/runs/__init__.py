"""What the commands do, as functions: the public layer. `import moco` offers its names."""
