"""A page to explore a zoo: settings, their pictures, and where they lie among the records."""
