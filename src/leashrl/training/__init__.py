"""The one loop, and what it leaves on disk. Layer 3."""
