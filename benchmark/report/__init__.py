"""Reports: pictures of stored runs, and what they show in words."""
