"""What makes the site and the pictures; no part of the package."""
