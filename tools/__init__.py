"""What makes the site, the pictures and a release; no part of the package."""
