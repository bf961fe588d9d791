"""The one loop, its rows from a simulator, compilation, and interrupts."""
