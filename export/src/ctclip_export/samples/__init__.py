"""Real CT volumes without patients: a public scan, and seeded variations of it."""
