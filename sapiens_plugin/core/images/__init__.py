"""Image files: decoded as their labels were drawn, and checked."""
